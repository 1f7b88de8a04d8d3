//! Qwen 2, 2.5 and 3, Qwen 3's mixtures of experts, and the text models of Qwen 2-VL, 2.5-VL and 3-VL.

use super::table::*;
use crate::architecture::{Architecture, Field, GgufKey, HfKey, Silence, Sliding, TensorTemplate};

static QWEN2_KEYS: [HfKey; 16] = with_llama_keys([
    number(Field::Vocab, &["vocab_size"], 151_936.0),
    number(Field::Ffn, &["intermediate_size"], 22016.0),
    kv_heads(32.0),
    number(Field::Context, &["max_position_embeddings"], 32768.0),
    window(4096.0),
    USE_WINDOW,
    always(Field::QkvBias, true),
    always(Field::OutputBias, false),
    always(Field::MlpBias, false),
]);

static QWEN3_KEYS: [HfKey; 16] = with_llama_keys([
    number(Field::Vocab, &["vocab_size"], 151_936.0),
    number(Field::Ffn, &["intermediate_size"], 22016.0),
    kv_heads(32.0),
    key(Field::HeadDim, &["head_dim"], Silence::Number(128.0)).null(Silence::Nothing),
    number(Field::Context, &["max_position_embeddings"], 32768.0),
    window(4096.0),
    USE_WINDOW,
    key(Field::QkvBias, &["attention_bias"], Silence::Flag(false)),
    key(Field::OutputBias, &["attention_bias"], Silence::Flag(false)),
    always(Field::QkNorm, true),
]);

static QWEN2_VL_KEYS: [HfKey; 16] = with_llama_keys([
    number(Field::Vocab, &["vocab_size"], 152_064.0),
    number(Field::Hidden, &["hidden_size"], 8192.0),
    number(Field::Ffn, &["intermediate_size"], 29568.0),
    number(Field::Layers, &["num_hidden_layers"], 80.0),
    number(Field::Heads, &["num_attention_heads"], 64.0),
    kv_heads(8.0),
    number(Field::Context, &["max_position_embeddings"], 32768.0),
    number(Field::NormEpsilon, &["rms_norm_eps"], 1e-5),
    number(Field::RopeTheta, &["rope_theta"], 1e6),
    window(4096.0),
    USE_WINDOW,
    always(Field::QkvBias, true),
    always(Field::OutputBias, false),
    always(Field::MlpBias, false),
]);

static QWEN3_VL_KEYS: [HfKey; 14] = with_llama_keys([
    number(Field::Vocab, &["vocab_size"], 151_936.0),
    number(Field::Ffn, &["intermediate_size"], 22016.0),
    kv_heads(32.0),
    key(Field::HeadDim, &["head_dim"], Silence::Number(128.0)).null(Silence::Nothing),
    number(Field::Context, &["max_position_embeddings"], 128_000.0),
    number(Field::RopeTheta, &["rope_theta"], 500_000.0),
    key(Field::QkvBias, &["attention_bias"], Silence::Flag(false)),
    key(Field::OutputBias, &["attention_bias"], Silence::Flag(false)),
    always(Field::QkNorm, true),
]);

static QWEN3_MOE_KEYS: [HfKey; 21] = with_llama_keys([
    number(Field::Vocab, &["vocab_size"], 151_936.0),
    number(Field::Hidden, &["hidden_size"], 2048.0),
    number(Field::Ffn, &["intermediate_size"], 6144.0),
    number(Field::Layers, &["num_hidden_layers"], 24.0),
    number(Field::KvHeads, &["num_key_value_heads"], 4.0),
    number(Field::Context, &["max_position_embeddings"], 32768.0),
    window(4096.0),
    USE_WINDOW,
    key(Field::QkvBias, &["attention_bias"], Silence::Flag(false)),
    key(Field::OutputBias, &["attention_bias"], Silence::Flag(false)),
    always(Field::QkNorm, true),
    number(Field::Experts, &["num_local_experts", "num_experts"], 128.0).written("num_experts"),
    number(Field::ExpertsUsed, &["num_experts_per_tok"], 8.0),
    number(Field::ExpertFfn, &["moe_intermediate_size"], 768.0),
    number(Field::SparseStep, &["decoder_sparse_step"], 1.0),
    key(Field::NormTopk, &["norm_topk_prob"], Silence::Flag(false)),
]);

/// A Qwen's window counts only where this is on.
const USE_WINDOW: HfKey = key(Field::UseSlidingWindow, &["use_sliding_window"], Silence::Flag(false));

/// The usual keys without a window: llama.cpp's loader reads none for these families.
const DENSE_GGUF_KEYS: &[GgufKey] = &[
    GgufKey::BlockCount,
    GgufKey::ContextLength,
    GgufKey::EmbeddingLength,
    GgufKey::FeedForwardLength,
    GgufKey::HeadCount,
    GgufKey::HeadCountKv,
    GgufKey::RopeScaling,
    GgufKey::RopeFreqBase,
    GgufKey::RmsEpsilon,
    GgufKey::KeyValueLengthIfGiven,
];

const QWEN2_VL_GGUF_KEYS: &[GgufKey] = &[
    GgufKey::BlockCount,
    GgufKey::ContextLength,
    GgufKey::EmbeddingLength,
    GgufKey::FeedForwardLength,
    GgufKey::HeadCount,
    GgufKey::HeadCountKv,
    GgufKey::RopeScaling,
    GgufKey::RopeSections,
    GgufKey::RopeFreqBase,
    GgufKey::RmsEpsilon,
    GgufKey::KeyValueLengthIfGiven,
];

const QWEN3_VL_GGUF_KEYS: &[GgufKey] = &[
    GgufKey::BlockCount,
    GgufKey::ContextLength,
    GgufKey::EmbeddingLength,
    GgufKey::FeedForwardLength,
    GgufKey::HeadCount,
    GgufKey::HeadCountKv,
    GgufKey::RopeScaling,
    GgufKey::RopeSections,
    GgufKey::RopeFreqBase,
    GgufKey::RmsEpsilon,
    GgufKey::KeyValueLengthIfGiven,
    GgufKey::DeepstackLayers,
];

const MOE_GGUF_KEYS: &[GgufKey] = &[
    GgufKey::BlockCount,
    GgufKey::ContextLength,
    GgufKey::EmbeddingLength,
    GgufKey::FeedForwardLength,
    GgufKey::HeadCount,
    GgufKey::HeadCountKv,
    GgufKey::RopeScaling,
    GgufKey::RopeFreqBase,
    GgufKey::RmsEpsilon,
    GgufKey::ExpertCount,
    GgufKey::ExpertUsedCount,
    GgufKey::KeyValueLengthIfGiven,
    GgufKey::ExpertFeedForwardLength,
    GgufKey::ExpertWeightsNormOff,
];

/// Qwen 2 and 2.5: Llama with biases on queries, keys and values.
pub static QWEN2: Architecture = Architecture {
    name: "qwen2",
    hf_architectures: &["Qwen2ForCausalLM"],
    hf_model_types: &["qwen2"],
    hf_multimodal: &[
        ("LlavaQwenForCausalLM", "llava_qwen"),
        ("Videollama3Qwen2ForCausalLM", "videollama3_qwen2"),
    ],
    sliding: Sliding::FromLayer,
    hf_keys: &QWEN2_KEYS,
    gguf_keys: DENSE_GGUF_KEYS,
    tensors: QWEN2_TENSORS,
    ..USUAL
};

/// Qwen 3: each query and key head is normalised, and heads need not share out the hidden size.
pub static QWEN3: Architecture = Architecture {
    name: "qwen3",
    hf_architectures: &["Qwen3ForCausalLM"],
    hf_model_types: &["qwen3"],
    sliding: Sliding::FromLayer,
    hf_keys: &QWEN3_KEYS,
    gguf_keys: DENSE_GGUF_KEYS,
    tensors: QWEN3_TENSORS,
    ..USUAL
};

/// The text model of Qwen 2-VL, 2.5-VL and 2.5-Omni: Qwen 2, whose pairs of dimensions are shared out among the coordinates of an
/// image.
pub static QWEN2_VL: Architecture = Architecture {
    name: "qwen2vl",
    hf_architectures: &["Qwen2VLForConditionalGeneration", "Qwen2_5_VLForConditionalGeneration"],
    hf_model_types: &["qwen2_vl_text", "qwen2_5_vl_text"],
    hf_multimodal: &[
        ("Qwen2VLForConditionalGeneration", "qwen2_vl_text"),
        ("Qwen2_5_VLForConditionalGeneration", "qwen2_5_vl_text"),
        ("Qwen2_5OmniForConditionalGeneration", "qwen2_5_omni_text"),
        ("Qwen2_5OmniModel", "qwen2_5_omni_text"),
        ("Qwen2_5OmniThinkerForConditionalGeneration", "qwen2_5_omni_text"),
    ],
    sliding: Sliding::FromLayer,
    hf_keys: &QWEN2_VL_KEYS,
    gguf_keys: QWEN2_VL_GGUF_KEYS,
    tensors: QWEN2_TENSORS,
    ..USUAL
};

/// The text model of Qwen 3-VL: Qwen 3, likewise.
pub static QWEN3_VL: Architecture = Architecture {
    name: "qwen3vl",
    hf_architectures: &["Qwen3VLForConditionalGeneration"],
    hf_model_types: &["qwen3_vl_text"],
    hf_multimodal: &[("Qwen3VLForConditionalGeneration", "qwen3_vl_text")],
    hf_keys: &QWEN3_VL_KEYS,
    gguf_keys: QWEN3_VL_GGUF_KEYS,
    tensors: QWEN3_TENSORS,
    ..USUAL
};

/// Qwen 3 with a mixture of experts for each feed-forward network.
pub static QWEN3_MOE: Architecture = Architecture {
    name: "qwen3moe",
    has_experts: true,
    hf_architectures: &["Qwen3MoeForCausalLM"],
    hf_model_types: &["qwen3_moe"],
    hf_keys: &QWEN3_MOE_KEYS,
    gguf_keys: MOE_GGUF_KEYS,
    tensors: QWEN3_MOE_TENSORS,
    hf_aliases: &FUSED_EXPERTS,
    ..USUAL
};

#[rustfmt::skip]
const QWEN2_TENSORS: &[TensorTemplate] = &[
    tensor(Role::TokenEmbedding, "model.embed_tokens.weight", "token_embd.weight", &[Vocab, Hidden], Always, Same),
    tensor(Role::OutputNorm, "model.norm.weight", "output_norm.weight", &[Hidden], Always, Same),
    tensor(Role::Output, "lm_head.weight", "output.weight", &[Vocab, Hidden], UnlessTied, Same),
    tensor(Role::AttentionNorm, "model.layers.{layer}.input_layernorm.weight", "blk.{layer}.attn_norm.weight", &[Hidden], Always, Same),
    tensor(Role::AttentionQ, "model.layers.{layer}.self_attn.q_proj.weight", "blk.{layer}.attn_q.weight", &[Query, Hidden], Always, Same),
    tensor(Role::AttentionK, "model.layers.{layer}.self_attn.k_proj.weight", "blk.{layer}.attn_k.weight", &[KeyValue, Hidden], Always, Same),
    tensor(Role::AttentionV, "model.layers.{layer}.self_attn.v_proj.weight", "blk.{layer}.attn_v.weight", &[KeyValue, Hidden], Always, Same),
    tensor(Role::AttentionOutput, "model.layers.{layer}.self_attn.o_proj.weight", "blk.{layer}.attn_output.weight", &[Hidden, Query], Always, Same),
    tensor(Role::AttentionQBias, "model.layers.{layer}.self_attn.q_proj.bias", "blk.{layer}.attn_q.bias", &[Query], QkvBias, Same),
    tensor(Role::AttentionKBias, "model.layers.{layer}.self_attn.k_proj.bias", "blk.{layer}.attn_k.bias", &[KeyValue], QkvBias, Same),
    tensor(Role::AttentionVBias, "model.layers.{layer}.self_attn.v_proj.bias", "blk.{layer}.attn_v.bias", &[KeyValue], QkvBias, Same),
    tensor(Role::FfnNorm, "model.layers.{layer}.post_attention_layernorm.weight", "blk.{layer}.ffn_norm.weight", &[Hidden], Always, Same),
    tensor(Role::FfnGate, "model.layers.{layer}.mlp.gate_proj.weight", "blk.{layer}.ffn_gate.weight", &[Ffn, Hidden], Always, Same),
    tensor(Role::FfnUp, "model.layers.{layer}.mlp.up_proj.weight", "blk.{layer}.ffn_up.weight", &[Ffn, Hidden], Always, Same),
    tensor(Role::FfnDown, "model.layers.{layer}.mlp.down_proj.weight", "blk.{layer}.ffn_down.weight", &[Hidden, Ffn], Always, Same),
];

#[rustfmt::skip]
const QWEN3_TENSORS: &[TensorTemplate] = &[
    tensor(Role::TokenEmbedding, "model.embed_tokens.weight", "token_embd.weight", &[Vocab, Hidden], Always, Same),
    tensor(Role::OutputNorm, "model.norm.weight", "output_norm.weight", &[Hidden], Always, Same),
    tensor(Role::Output, "lm_head.weight", "output.weight", &[Vocab, Hidden], UnlessTied, Same),
    tensor(Role::AttentionNorm, "model.layers.{layer}.input_layernorm.weight", "blk.{layer}.attn_norm.weight", &[Hidden], Always, Same),
    tensor(Role::AttentionQ, "model.layers.{layer}.self_attn.q_proj.weight", "blk.{layer}.attn_q.weight", &[Query, Hidden], Always, Same),
    tensor(Role::AttentionK, "model.layers.{layer}.self_attn.k_proj.weight", "blk.{layer}.attn_k.weight", &[KeyValue, Hidden], Always, Same),
    tensor(Role::AttentionV, "model.layers.{layer}.self_attn.v_proj.weight", "blk.{layer}.attn_v.weight", &[KeyValue, Hidden], Always, Same),
    tensor(Role::AttentionOutput, "model.layers.{layer}.self_attn.o_proj.weight", "blk.{layer}.attn_output.weight", &[Hidden, Query], Always, Same),
    tensor(Role::AttentionQBias, "model.layers.{layer}.self_attn.q_proj.bias", "blk.{layer}.attn_q.bias", &[Query], QkvBias, Same),
    tensor(Role::AttentionKBias, "model.layers.{layer}.self_attn.k_proj.bias", "blk.{layer}.attn_k.bias", &[KeyValue], QkvBias, Same),
    tensor(Role::AttentionVBias, "model.layers.{layer}.self_attn.v_proj.bias", "blk.{layer}.attn_v.bias", &[KeyValue], QkvBias, Same),
    tensor(Role::AttentionOutputBias, "model.layers.{layer}.self_attn.o_proj.bias", "blk.{layer}.attn_output.bias", &[Hidden], OutputBias, Same),
    tensor(Role::AttentionQNorm, "model.layers.{layer}.self_attn.q_norm.weight", "blk.{layer}.attn_q_norm.weight", &[HeadDim], QkNorm, Same),
    tensor(Role::AttentionKNorm, "model.layers.{layer}.self_attn.k_norm.weight", "blk.{layer}.attn_k_norm.weight", &[HeadDim], QkNorm, Same),
    tensor(Role::FfnNorm, "model.layers.{layer}.post_attention_layernorm.weight", "blk.{layer}.ffn_norm.weight", &[Hidden], Always, Same),
    tensor(Role::FfnGate, "model.layers.{layer}.mlp.gate_proj.weight", "blk.{layer}.ffn_gate.weight", &[Ffn, Hidden], Always, Same),
    tensor(Role::FfnUp, "model.layers.{layer}.mlp.up_proj.weight", "blk.{layer}.ffn_up.weight", &[Ffn, Hidden], Always, Same),
    tensor(Role::FfnDown, "model.layers.{layer}.mlp.down_proj.weight", "blk.{layer}.ffn_down.weight", &[Hidden, Ffn], Always, Same),
];

#[rustfmt::skip]
pub(super) const QWEN3_MOE_TENSORS: &[TensorTemplate] = &[
    tensor(Role::TokenEmbedding, "model.embed_tokens.weight", "token_embd.weight", &[Vocab, Hidden], Always, Same),
    tensor(Role::OutputNorm, "model.norm.weight", "output_norm.weight", &[Hidden], Always, Same),
    tensor(Role::Output, "lm_head.weight", "output.weight", &[Vocab, Hidden], UnlessTied, Same),
    tensor(Role::AttentionNorm, "model.layers.{layer}.input_layernorm.weight", "blk.{layer}.attn_norm.weight", &[Hidden], Always, Same),
    tensor(Role::AttentionQ, "model.layers.{layer}.self_attn.q_proj.weight", "blk.{layer}.attn_q.weight", &[Query, Hidden], Always, Same),
    tensor(Role::AttentionK, "model.layers.{layer}.self_attn.k_proj.weight", "blk.{layer}.attn_k.weight", &[KeyValue, Hidden], Always, Same),
    tensor(Role::AttentionV, "model.layers.{layer}.self_attn.v_proj.weight", "blk.{layer}.attn_v.weight", &[KeyValue, Hidden], Always, Same),
    tensor(Role::AttentionOutput, "model.layers.{layer}.self_attn.o_proj.weight", "blk.{layer}.attn_output.weight", &[Hidden, Query], Always, Same),
    tensor(Role::AttentionQBias, "model.layers.{layer}.self_attn.q_proj.bias", "blk.{layer}.attn_q.bias", &[Query], QkvBias, Same),
    tensor(Role::AttentionKBias, "model.layers.{layer}.self_attn.k_proj.bias", "blk.{layer}.attn_k.bias", &[KeyValue], QkvBias, Same),
    tensor(Role::AttentionVBias, "model.layers.{layer}.self_attn.v_proj.bias", "blk.{layer}.attn_v.bias", &[KeyValue], QkvBias, Same),
    tensor(Role::AttentionOutputBias, "model.layers.{layer}.self_attn.o_proj.bias", "blk.{layer}.attn_output.bias", &[Hidden], OutputBias, Same),
    tensor(Role::AttentionQNorm, "model.layers.{layer}.self_attn.q_norm.weight", "blk.{layer}.attn_q_norm.weight", &[HeadDim], QkNorm, Same),
    tensor(Role::AttentionKNorm, "model.layers.{layer}.self_attn.k_norm.weight", "blk.{layer}.attn_k_norm.weight", &[HeadDim], QkNorm, Same),
    tensor(Role::FfnNorm, "model.layers.{layer}.post_attention_layernorm.weight", "blk.{layer}.ffn_norm.weight", &[Hidden], Always, Same),
    tensor(Role::FfnGate, "model.layers.{layer}.mlp.gate_proj.weight", "blk.{layer}.ffn_gate.weight", &[Ffn, Hidden], DenseLayers, Same),
    tensor(Role::FfnUp, "model.layers.{layer}.mlp.up_proj.weight", "blk.{layer}.ffn_up.weight", &[Ffn, Hidden], DenseLayers, Same),
    tensor(Role::FfnDown, "model.layers.{layer}.mlp.down_proj.weight", "blk.{layer}.ffn_down.weight", &[Hidden, Ffn], DenseLayers, Same),
    tensor(Role::Router, "model.layers.{layer}.mlp.gate.weight", "blk.{layer}.ffn_gate_inp.weight", &[Experts, Hidden], SparseLayers, Same),
    tensor(Role::ExpertsGate, "model.layers.{layer}.mlp.experts.{expert}.gate_proj.weight", "blk.{layer}.ffn_gate_exps.weight", &[Experts, ExpertFfn, Hidden], SparseLayers, EachExpert),
    tensor(Role::ExpertsUp, "model.layers.{layer}.mlp.experts.{expert}.up_proj.weight", "blk.{layer}.ffn_up_exps.weight", &[Experts, ExpertFfn, Hidden], SparseLayers, EachExpert),
    tensor(Role::ExpertsDown, "model.layers.{layer}.mlp.experts.{expert}.down_proj.weight", "blk.{layer}.ffn_down_exps.weight", &[Experts, Hidden, ExpertFfn], SparseLayers, EachExpert),
];
