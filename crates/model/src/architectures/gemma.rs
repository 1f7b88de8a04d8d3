//! Gemma 1, 2 and 3 (text): norms that add one, embeddings scaled by the square root of the hidden size, and
//! from the second on norms behind attention and network, soft caps and sliding windows.

use super::table::*;
use crate::architecture::{
    Activation, Architecture, Field, GgufKey, HfKey, HfLimit, Silence, Sliding, TensorTemplate,
};

static GEMMA_KEYS: [HfKey; 11] = with_llama_keys([
    number(Field::Vocab, &["vocab_size"], 256_000.0),
    number(Field::Hidden, &["hidden_size"], 3072.0),
    number(Field::Ffn, &["intermediate_size"], 24576.0),
    number(Field::Layers, &["num_hidden_layers"], 28.0),
    number(Field::Heads, &["num_attention_heads"], 16.0),
    number(Field::KvHeads, &["num_key_value_heads"], 16.0),
    HEAD_DIM,
    number(Field::Context, &["max_position_embeddings"], 8192.0),
    // `hidden_activation`, which the first files have too, has no effect.
    key(Field::Activation, &["hidden_act"], Silence::Word("gelu_pytorch_tanh")),
]);

static GEMMA2_KEYS: [HfKey; 15] = with_llama_keys([
    number(Field::Vocab, &["vocab_size"], 256_000.0),
    number(Field::Hidden, &["hidden_size"], 2304.0),
    number(Field::Ffn, &["intermediate_size"], 9216.0),
    number(Field::Layers, &["num_hidden_layers"], 26.0),
    number(Field::Heads, &["num_attention_heads"], 8.0),
    number(Field::KvHeads, &["num_key_value_heads"], 4.0),
    HEAD_DIM,
    number(Field::Context, &["max_position_embeddings"], 8192.0),
    ACTIVATION,
    window(4096.0),
    key(Field::AttentionSoftcap, &["attn_logit_softcapping"], Silence::Number(50.0)).null(Silence::Nothing),
    key(Field::FinalSoftcap, &["final_logit_softcapping"], Silence::Number(30.0)).null(Silence::Nothing),
    number(Field::QueryScalar, &["query_pre_attn_scalar"], 256.0),
]);

static GEMMA3_KEYS: [HfKey; 17] = with_llama_keys([
    number(Field::Vocab, &["vocab_size"], 262_208.0),
    number(Field::Hidden, &["hidden_size"], 2304.0),
    number(Field::Ffn, &["intermediate_size"], 9216.0),
    number(Field::Layers, &["num_hidden_layers"], 26.0),
    number(Field::Heads, &["num_attention_heads"], 8.0),
    number(Field::KvHeads, &["num_key_value_heads"], 4.0),
    HEAD_DIM,
    number(Field::Context, &["max_position_embeddings"], 131_072.0),
    ACTIVATION,
    number(Field::RopeTheta, &["rope_theta"], 1e6),
    window(4096.0),
    key(Field::AttentionSoftcap, &["attn_logit_softcapping"], Silence::Nothing),
    key(Field::FinalSoftcap, &["final_logit_softcapping"], Silence::Nothing),
    number(Field::QueryScalar, &["query_pre_attn_scalar"], 256.0),
    number(Field::LocalRopeTheta, &["rope_local_base_freq"], 10_000.0),
    always(Field::QkNorm, true),
]);

const HEAD_DIM: HfKey = key(Field::HeadDim, &["head_dim"], Silence::Number(256.0)).null(Silence::Nothing);

const ACTIVATION: HfKey = key(Field::Activation, &["hidden_activation"], Silence::Word("gelu_pytorch_tanh"));

/// No published Gemma has biases, and quern and llama.cpp have no tensors for them.
const LIMITS: &[HfLimit] = &[only("use_bidirectional_attention", false), only("attention_bias", false)];

const GGUF_KEYS: &[GgufKey] = &[
    GgufKey::ContextLength,
    GgufKey::EmbeddingLength,
    GgufKey::BlockCount,
    GgufKey::FeedForwardLength,
    GgufKey::HeadCount,
    GgufKey::HeadCountKv,
    GgufKey::RmsEpsilon,
    GgufKey::KeyValueLength,
    GgufKey::RopeFreqBaseUnlessUsual,
    GgufKey::RopeScaling,
];

const GEMMA2_GGUF_KEYS: &[GgufKey] = &[
    GgufKey::ContextLength,
    GgufKey::EmbeddingLength,
    GgufKey::BlockCount,
    GgufKey::FeedForwardLength,
    GgufKey::HeadCount,
    GgufKey::HeadCountKv,
    GgufKey::RmsEpsilon,
    GgufKey::KeyValueLength,
    GgufKey::AttentionSoftcap,
    GgufKey::FinalSoftcap,
    GgufKey::SlidingWindow,
    GgufKey::SlidingWindowPattern,
    GgufKey::AttentionScale,
    GgufKey::RopeFreqBaseUnlessUsual,
    GgufKey::RopeScaling,
];

const GEMMA3_GGUF_KEYS: &[GgufKey] = &[
    GgufKey::BlockCount,
    GgufKey::ContextLength,
    GgufKey::EmbeddingLength,
    GgufKey::FeedForwardLength,
    GgufKey::HeadCount,
    GgufKey::HeadCountKv,
    GgufKey::RopeScaling,
    GgufKey::RopeFreqBase,
    GgufKey::RopeFreqBaseSwa,
    GgufKey::RmsEpsilon,
    GgufKey::KeyValueLength,
    GgufKey::AttentionSoftcap,
    GgufKey::FinalSoftcap,
    GgufKey::SlidingWindow,
    GgufKey::SlidingWindowPattern,
    GgufKey::AttentionScale,
];

/// Gemma.
pub static GEMMA: Architecture = Architecture {
    name: "gemma",
    hf_architectures: &["GemmaForCausalLM"],
    hf_model_types: &["gemma"],
    norm_plus_one: true,
    scaled_embeddings: true,
    activations: &[Activation::GeluTanh],
    tied_by_default: true,
    hf_keys: &GEMMA_KEYS,
    hf_limits: LIMITS,
    gguf_keys: GGUF_KEYS,
    tensors: GEMMA_TENSORS,
    ..USUAL
};

/// Gemma 2: norms behind attention and network, soft caps, a sliding window on every other layer.
pub static GEMMA2: Architecture = Architecture {
    name: "gemma2",
    hf_architectures: &["Gemma2ForCausalLM"],
    hf_model_types: &["gemma2"],
    norm_plus_one: true,
    scaled_embeddings: true,
    sliding: Sliding::ButEvery(2),
    activations: &[Activation::GeluTanh],
    tied_by_default: true,
    hf_keys: &GEMMA2_KEYS,
    hf_limits: LIMITS,
    gguf_keys: GEMMA2_GGUF_KEYS,
    tensors: GEMMA2_TENSORS,
    ..USUAL
};

/// VaultGemma: Gemma 2 with norms in front of attention and network alone.
pub static VAULT_GEMMA: Architecture = Architecture {
    name: "vaultgemma",
    no_gguf: Some(
        "llama.cpp has no VaultGemma architecture, so no program could load the file; convert to safetensors, or \
         quantize to gptq, nf4, fp4 or int8",
    ),
    hf_architectures: &["VaultGemmaForCausalLM"],
    hf_model_types: &["vaultgemma"],
    norm_plus_one: true,
    scaled_embeddings: true,
    sliding: Sliding::ButEvery(2),
    activations: &[Activation::GeluTanh],
    tied_by_default: true,
    hf_keys: &GEMMA2_KEYS,
    hf_limits: LIMITS,
    tensors: VAULT_GEMMA_TENSORS,
    ..USUAL
};

/// Gemma 3, the language model: normalised queries and keys instead of soft caps, two bases of rope.
pub static GEMMA3: Architecture = Architecture {
    name: "gemma3",
    hf_architectures: &["Gemma3ForCausalLM"],
    hf_model_types: &["gemma3_text"],
    hf_multimodal: &[("Gemma3ForConditionalGeneration", "gemma3_text")],
    norm_plus_one: true,
    scaled_embeddings: true,
    sliding: Sliding::ButEvery(6),
    activations: &[Activation::GeluTanh],
    tied_by_default: true,
    hf_keys: &GEMMA3_KEYS,
    hf_limits: LIMITS,
    gguf_keys: GEMMA3_GGUF_KEYS,
    tensors: GEMMA3_TENSORS,
    ..USUAL
};

#[rustfmt::skip]
const GEMMA_TENSORS: &[TensorTemplate] = &[
    tensor(Role::TokenEmbedding, "model.embed_tokens.weight", "token_embd.weight", &[Vocab, Hidden], Always, Same),
    tensor(Role::OutputNorm, "model.norm.weight", "output_norm.weight", &[Hidden], Always, PlusOne),
    tensor(Role::Output, "lm_head.weight", "output.weight", &[Vocab, Hidden], UnlessTied, Same),
    tensor(Role::AttentionNorm, "model.layers.{layer}.input_layernorm.weight", "blk.{layer}.attn_norm.weight", &[Hidden], Always, PlusOne),
    tensor(Role::AttentionQ, "model.layers.{layer}.self_attn.q_proj.weight", "blk.{layer}.attn_q.weight", &[Query, Hidden], Always, Same),
    tensor(Role::AttentionK, "model.layers.{layer}.self_attn.k_proj.weight", "blk.{layer}.attn_k.weight", &[KeyValue, Hidden], Always, Same),
    tensor(Role::AttentionV, "model.layers.{layer}.self_attn.v_proj.weight", "blk.{layer}.attn_v.weight", &[KeyValue, Hidden], Always, Same),
    tensor(Role::AttentionOutput, "model.layers.{layer}.self_attn.o_proj.weight", "blk.{layer}.attn_output.weight", &[Hidden, Query], Always, Same),
    tensor(Role::FfnNorm, "model.layers.{layer}.post_attention_layernorm.weight", "blk.{layer}.ffn_norm.weight", &[Hidden], Always, PlusOne),
    tensor(Role::FfnGate, "model.layers.{layer}.mlp.gate_proj.weight", "blk.{layer}.ffn_gate.weight", &[Ffn, Hidden], Always, Same),
    tensor(Role::FfnUp, "model.layers.{layer}.mlp.up_proj.weight", "blk.{layer}.ffn_up.weight", &[Ffn, Hidden], Always, Same),
    tensor(Role::FfnDown, "model.layers.{layer}.mlp.down_proj.weight", "blk.{layer}.ffn_down.weight", &[Hidden, Ffn], Always, Same),
];

#[rustfmt::skip]
const GEMMA2_TENSORS: &[TensorTemplate] = &[
    tensor(Role::TokenEmbedding, "model.embed_tokens.weight", "token_embd.weight", &[Vocab, Hidden], Always, Same),
    tensor(Role::OutputNorm, "model.norm.weight", "output_norm.weight", &[Hidden], Always, PlusOne),
    tensor(Role::Output, "lm_head.weight", "output.weight", &[Vocab, Hidden], UnlessTied, Same),
    tensor(Role::AttentionNorm, "model.layers.{layer}.input_layernorm.weight", "blk.{layer}.attn_norm.weight", &[Hidden], Always, PlusOne),
    tensor(Role::AttentionQ, "model.layers.{layer}.self_attn.q_proj.weight", "blk.{layer}.attn_q.weight", &[Query, Hidden], Always, Same),
    tensor(Role::AttentionK, "model.layers.{layer}.self_attn.k_proj.weight", "blk.{layer}.attn_k.weight", &[KeyValue, Hidden], Always, Same),
    tensor(Role::AttentionV, "model.layers.{layer}.self_attn.v_proj.weight", "blk.{layer}.attn_v.weight", &[KeyValue, Hidden], Always, Same),
    tensor(Role::AttentionOutput, "model.layers.{layer}.self_attn.o_proj.weight", "blk.{layer}.attn_output.weight", &[Hidden, Query], Always, Same),
    tensor(Role::AttentionPostNorm, "model.layers.{layer}.post_attention_layernorm.weight", "blk.{layer}.post_attention_norm.weight", &[Hidden], Always, PlusOne),
    tensor(Role::FfnNorm, "model.layers.{layer}.pre_feedforward_layernorm.weight", "blk.{layer}.ffn_norm.weight", &[Hidden], Always, PlusOne),
    tensor(Role::FfnGate, "model.layers.{layer}.mlp.gate_proj.weight", "blk.{layer}.ffn_gate.weight", &[Ffn, Hidden], Always, Same),
    tensor(Role::FfnUp, "model.layers.{layer}.mlp.up_proj.weight", "blk.{layer}.ffn_up.weight", &[Ffn, Hidden], Always, Same),
    tensor(Role::FfnDown, "model.layers.{layer}.mlp.down_proj.weight", "blk.{layer}.ffn_down.weight", &[Hidden, Ffn], Always, Same),
    tensor(Role::FfnPostNorm, "model.layers.{layer}.post_feedforward_layernorm.weight", "blk.{layer}.post_ffw_norm.weight", &[Hidden], Always, PlusOne),
];

#[rustfmt::skip]
const VAULT_GEMMA_TENSORS: &[TensorTemplate] = &[
    tensor(Role::TokenEmbedding, "model.embed_tokens.weight", "token_embd.weight", &[Vocab, Hidden], Always, Same),
    tensor(Role::OutputNorm, "model.norm.weight", "output_norm.weight", &[Hidden], Always, PlusOne),
    tensor(Role::Output, "lm_head.weight", "output.weight", &[Vocab, Hidden], UnlessTied, Same),
    tensor(Role::AttentionNorm, "model.layers.{layer}.input_layernorm.weight", "blk.{layer}.attn_norm.weight", &[Hidden], Always, PlusOne),
    tensor(Role::AttentionQ, "model.layers.{layer}.self_attn.q_proj.weight", "blk.{layer}.attn_q.weight", &[Query, Hidden], Always, Same),
    tensor(Role::AttentionK, "model.layers.{layer}.self_attn.k_proj.weight", "blk.{layer}.attn_k.weight", &[KeyValue, Hidden], Always, Same),
    tensor(Role::AttentionV, "model.layers.{layer}.self_attn.v_proj.weight", "blk.{layer}.attn_v.weight", &[KeyValue, Hidden], Always, Same),
    tensor(Role::AttentionOutput, "model.layers.{layer}.self_attn.o_proj.weight", "blk.{layer}.attn_output.weight", &[Hidden, Query], Always, Same),
    tensor(Role::FfnNorm, "model.layers.{layer}.pre_feedforward_layernorm.weight", "blk.{layer}.ffn_norm.weight", &[Hidden], Always, PlusOne),
    tensor(Role::FfnGate, "model.layers.{layer}.mlp.gate_proj.weight", "blk.{layer}.ffn_gate.weight", &[Ffn, Hidden], Always, Same),
    tensor(Role::FfnUp, "model.layers.{layer}.mlp.up_proj.weight", "blk.{layer}.ffn_up.weight", &[Ffn, Hidden], Always, Same),
    tensor(Role::FfnDown, "model.layers.{layer}.mlp.down_proj.weight", "blk.{layer}.ffn_down.weight", &[Hidden, Ffn], Always, Same),
];

#[rustfmt::skip]
const GEMMA3_TENSORS: &[TensorTemplate] = &[
    tensor(Role::TokenEmbedding, "model.embed_tokens.weight", "token_embd.weight", &[Vocab, Hidden], Always, Same),
    tensor(Role::OutputNorm, "model.norm.weight", "output_norm.weight", &[Hidden], Always, PlusOne),
    tensor(Role::Output, "lm_head.weight", "output.weight", &[Vocab, Hidden], UnlessTied, Same),
    tensor(Role::AttentionNorm, "model.layers.{layer}.input_layernorm.weight", "blk.{layer}.attn_norm.weight", &[Hidden], Always, PlusOne),
    tensor(Role::AttentionQ, "model.layers.{layer}.self_attn.q_proj.weight", "blk.{layer}.attn_q.weight", &[Query, Hidden], Always, Same),
    tensor(Role::AttentionK, "model.layers.{layer}.self_attn.k_proj.weight", "blk.{layer}.attn_k.weight", &[KeyValue, Hidden], Always, Same),
    tensor(Role::AttentionV, "model.layers.{layer}.self_attn.v_proj.weight", "blk.{layer}.attn_v.weight", &[KeyValue, Hidden], Always, Same),
    tensor(Role::AttentionOutput, "model.layers.{layer}.self_attn.o_proj.weight", "blk.{layer}.attn_output.weight", &[Hidden, Query], Always, Same),
    tensor(Role::AttentionQNorm, "model.layers.{layer}.self_attn.q_norm.weight", "blk.{layer}.attn_q_norm.weight", &[HeadDim], QkNorm, PlusOne),
    tensor(Role::AttentionKNorm, "model.layers.{layer}.self_attn.k_norm.weight", "blk.{layer}.attn_k_norm.weight", &[HeadDim], QkNorm, PlusOne),
    tensor(Role::AttentionPostNorm, "model.layers.{layer}.post_attention_layernorm.weight", "blk.{layer}.post_attention_norm.weight", &[Hidden], Always, PlusOne),
    tensor(Role::FfnNorm, "model.layers.{layer}.pre_feedforward_layernorm.weight", "blk.{layer}.ffn_norm.weight", &[Hidden], Always, PlusOne),
    tensor(Role::FfnGate, "model.layers.{layer}.mlp.gate_proj.weight", "blk.{layer}.ffn_gate.weight", &[Ffn, Hidden], Always, Same),
    tensor(Role::FfnUp, "model.layers.{layer}.mlp.up_proj.weight", "blk.{layer}.ffn_up.weight", &[Ffn, Hidden], Always, Same),
    tensor(Role::FfnDown, "model.layers.{layer}.mlp.down_proj.weight", "blk.{layer}.ffn_down.weight", &[Hidden, Ffn], Always, Same),
    tensor(Role::FfnPostNorm, "model.layers.{layer}.post_feedforward_layernorm.weight", "blk.{layer}.post_ffw_norm.weight", &[Hidden], Always, PlusOne),
];
