//! Llama and models of exactly its architecture: Llama 1 to 3.3, Mistral, TinyLlama, Yi, SmolLM, InternLM 3; Mixtral,
//! whose GGUF files have the same architecture name; and CWM, which they do not have.

use super::table::*;
use crate::architecture::{
    Alias, AliasLayout, Architecture, Field, GgufKey, HfKey, RopeStyle, Silence, Sliding, TensorTemplate,
};

static KEYS: [HfKey; 14] = with_llama_keys([
    // Spelled `max_sequence_length` by the first conversions of 2023.
    number(Field::Context, &["max_position_embeddings", "max_sequence_length"], 2048.0),
    key(Field::QkvBias, &["attention_bias"], Silence::Flag(false)),
    key(Field::OutputBias, &["attention_bias"], Silence::Flag(false)),
    key(Field::MlpBias, &["mlp_bias"], Silence::Flag(false)),
]);

static MISTRAL_KEYS: [HfKey; 12] = with_llama_keys([
    kv_heads(8.0),
    number(Field::Ffn, &["intermediate_size"], 14336.0),
    number(Field::Context, &["max_position_embeddings"], 131_072.0),
    window(4096.0),
]);

static MIXTRAL_KEYS: [HfKey; 15] = with_llama_keys([
    kv_heads(8.0),
    number(Field::Ffn, &["intermediate_size"], 14336.0),
    number(Field::Context, &["max_position_embeddings"], 131_072.0),
    number(Field::NormEpsilon, &["rms_norm_eps"], 1e-5),
    number(Field::RopeTheta, &["rope_theta"], 1e6),
    key(Field::SlidingWindow, &["sliding_window"], Silence::Nothing),
    number(Field::Experts, &["num_experts", "num_local_experts"], 8.0).written("num_local_experts"),
    number(Field::ExpertsUsed, &["num_experts_per_tok"], 2.0),
    always(Field::NormTopk, true),
]);

/// Mixtral in transformers 5's layout: its router moved with the experts.
static MIXTRAL_ALIASES: [Alias; 4] = [
    Alias { role: Role::Router, name: "model.layers.{layer}.mlp.gate.weight", layout: AliasLayout::Same },
    FUSED_EXPERTS[0],
    FUSED_EXPERTS[1],
    FUSED_EXPERTS[2],
];

/// With the defaults of transformers' `InternLM3Config`. `bias` is that of the class which published models bring with
/// them: of attention's output and the network.
static INTERNLM3_KEYS: [HfKey; 14] = with_llama_keys([
    number(Field::Vocab, &["vocab_size"], 128_512.0),
    number(Field::Layers, &["num_hidden_layers"], 48.0),
    kv_heads(2.0),
    key(Field::HeadDim, &["head_dim"], Silence::Number(128.0)).null(Silence::Nothing),
    number(Field::Ffn, &["intermediate_size"], 10240.0),
    number(Field::Context, &["max_position_embeddings"], 32768.0),
    number(Field::NormEpsilon, &["rms_norm_eps"], 1e-5),
    key(Field::QkvBias, &["qkv_bias", "attention_bias"], Silence::Flag(false)),
    key(Field::OutputBias, &["bias", "mlp_bias"], Silence::Flag(false)),
    key(Field::MlpBias, &["bias", "mlp_bias"], Silence::Flag(false)),
]);

/// With the defaults of transformers' `CwmConfig`. Its attention never has biases.
static CWM_KEYS: [HfKey; 13] = with_llama_keys([
    number(Field::Vocab, &["vocab_size"], 128_256.0),
    number(Field::Hidden, &["hidden_size"], 6144.0),
    number(Field::Layers, &["num_hidden_layers"], 64.0),
    number(Field::Heads, &["num_attention_heads"], 48.0),
    kv_heads(8.0),
    key(Field::HeadDim, &["head_dim"], Silence::Number(128.0)).null(Silence::Nothing),
    number(Field::Ffn, &["intermediate_size"], 21504.0),
    number(Field::Context, &["max_position_embeddings"], 131_072.0),
    number(Field::NormEpsilon, &["rms_norm_eps"], 1e-5),
    number(Field::RopeTheta, &["rope_theta"], 1e6),
    key(Field::MlpBias, &["mlp_bias"], Silence::Flag(false)),
    window(8192.0),
]);

const GGUF_KEYS: &[GgufKey] = &[
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
    GgufKey::VocabSize,
    GgufKey::RopeDimensionCount,
    GgufKey::SlidingWindow,
];

static MINISTRAL3_KEYS: [HfKey; 12] = with_llama_keys([
    number(Field::Vocab, &["vocab_size"], 131_072.0),
    number(Field::Layers, &["num_hidden_layers"], 34.0),
    kv_heads(8.0),
    key(Field::HeadDim, &["head_dim"], Silence::Number(128.0)).null(Silence::Nothing),
    number(Field::Ffn, &["intermediate_size"], 14336.0),
    number(Field::Context, &["max_position_embeddings"], 262_144.0),
    number(Field::NormEpsilon, &["rms_norm_eps"], 1e-5),
    key(Field::SlidingWindow, &["sliding_window"], Silence::Nothing),
]);

const MISTRAL3_GGUF_KEYS: &[GgufKey] = &[
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
    GgufKey::VocabSize,
    GgufKey::RopeDimensionCount,
    GgufKey::SlidingWindow,
    GgufKey::YarnLogMultiplier,
    GgufKey::QueryGrowth,
];

/// Llama: RMS norm, rotary positions, grouped-query attention, SwiGLU.
pub static LLAMA: Architecture = Architecture {
    // The first LLaVA, whose text model's keys are beside the tower's.
    hf_multimodal: &[("LlavaLlamaForCausalLM", "llava_llama"), ("LlavaLlamaForCausalLM", "llava")],
    ..LLAMA_ITSELF
};

const LLAMA_ITSELF: Architecture = Architecture {
    name: "llama",
    hf_architectures: &["LlamaForCausalLM", "LLaMAForCausalLM"],
    hf_model_types: &["llama"],
    gguf_rope_style: RopeStyle::Interleaved,
    hf_keys: &KEYS,
    gguf_keys: GGUF_KEYS,
    tensors: TENSORS,
    ..USUAL
};

/// With the defaults of transformers' `IQuestCoderConfig`.
static IQUEST_CODER_KEYS: [HfKey; 14] = with_llama_keys([
    number(Field::Vocab, &["vocab_size"], 76_800.0),
    number(Field::Hidden, &["hidden_size"], 5120.0),
    number(Field::Layers, &["num_hidden_layers"], 80.0),
    number(Field::Heads, &["num_attention_heads"], 40.0),
    kv_heads(8.0),
    key(Field::HeadDim, &["head_dim"], Silence::Number(128.0)).null(Silence::Nothing),
    number(Field::Ffn, &["intermediate_size"], 27648.0),
    number(Field::Context, &["max_position_embeddings"], 131_072.0),
    number(Field::NormEpsilon, &["rms_norm_eps"], 1e-5),
    key(Field::QkvBias, &["attention_bias"], Silence::Flag(false)),
    key(Field::OutputBias, &["attention_bias"], Silence::Flag(false)),
    key(Field::MlpBias, &["mlp_bias"], Silence::Flag(false)),
]);

/// IQuest-Coder: Llama with other defaults.
pub static IQUEST_CODER: Architecture = Architecture {
    hf_architectures: &["IQuestCoderForCausalLM"],
    hf_model_types: &["iquestcoder"],
    hf_keys: &IQUEST_CODER_KEYS,
    hf_limits: &[only("use_sliding_window", false)],
    ..LLAMA_ITSELF
};

/// InternLM 3: Llama with other defaults. GGUF has one name for both.
pub static INTERNLM3: Architecture = Architecture {
    hf_architectures: &["InternLM3ForCausalLM"],
    hf_model_types: &["internlm3"],
    hf_keys: &INTERNLM3_KEYS,
    ..LLAMA_ITSELF
};

/// CWM of Meta: Llama with a sliding window on all layers but the first of each four.
pub static CWM: Architecture = Architecture {
    name: "cwm",
    no_gguf: Some(
        "llama.cpp has no CWM architecture, and its Llama has no sliding window on some layers; convert to \
         safetensors, or quantize to gptq, nf4, fp4 or int8",
    ),
    hf_architectures: &["CwmForCausalLM"],
    hf_model_types: &["cwm"],
    sliding: Sliding::ButFirstOf(4),
    hf_keys: &CWM_KEYS,
    ..LLAMA_ITSELF
};

/// Mistral: Llama with a sliding window and other defaults. GGUF has one name for both. Ministral is Mistral's class for
/// files that list the kinds of layer.
pub static MISTRAL: Architecture = Architecture {
    hf_architectures: &["MistralForCausalLM", "MinistralForCausalLM"],
    hf_model_types: &["mistral", "ministral"],
    hf_multimodal: &[("LlavaMistralForCausalLM", "llava_mistral")],
    sliding: Sliding::AllUnlessListed,
    hf_keys: &MISTRAL_KEYS,
    ..LLAMA_ITSELF
};

/// Ministral 3: Mistral with YaRN and queries that grow with their position; alone, and as the text model of
/// multimodal releases.
pub static MINISTRAL3: Architecture = Architecture {
    name: "mistral3",
    hf_architectures: &["Ministral3ForCausalLM"],
    hf_model_types: &["ministral3"],
    hf_multimodal: &[("Mistral3ForConditionalGeneration", "ministral3")],
    hf_keys: &MINISTRAL3_KEYS,
    gguf_keys: MISTRAL3_GGUF_KEYS,
    ..LLAMA_ITSELF
};

/// The text model of Mistral 3 (Mistral Small 3.1 and 3.2): Mistral under another name in GGUF.
pub static MISTRAL3: Architecture = Architecture {
    name: "mistral3",
    hf_architectures: &["Mistral3ForConditionalGeneration"],
    hf_model_types: &["mistral3"],
    hf_multimodal: &[("Mistral3ForConditionalGeneration", "mistral")],
    hf_keys: &MISTRAL_KEYS,
    sliding: Sliding::AllUnlessListed,
    gguf_keys: MISTRAL3_GGUF_KEYS,
    ..LLAMA_ITSELF
};

/// Mixtral: Llama with a mixture of experts for each feed-forward network.
pub static MIXTRAL: Architecture = Architecture {
    name: "llama",
    has_experts: true,
    hf_architectures: &["MixtralForCausalLM"],
    hf_model_types: &["mixtral"],
    gguf_rope_style: RopeStyle::Interleaved,
    hf_keys: &MIXTRAL_KEYS,
    gguf_keys: GGUF_KEYS,
    tensors: MIXTRAL_TENSORS,
    hf_aliases: &MIXTRAL_ALIASES,
    ..USUAL
};

#[rustfmt::skip]
const TENSORS: &[TensorTemplate] = &[
    tensor(Role::TokenEmbedding, "model.embed_tokens.weight", "token_embd.weight", &[Vocab, Hidden], Always, Same),
    tensor(Role::OutputNorm, "model.norm.weight", "output_norm.weight", &[Hidden], Always, Same),
    tensor(Role::Output, "lm_head.weight", "output.weight", &[Vocab, Hidden], UnlessTied, Same),
    computed(Role::RopeFactors, "rope_freqs.weight", crate::architecture::Presence::RopeFactors),
    tensor(Role::AttentionNorm, "model.layers.{layer}.input_layernorm.weight", "blk.{layer}.attn_norm.weight", &[Hidden], Always, Same),
    tensor(Role::AttentionQ, "model.layers.{layer}.self_attn.q_proj.weight", "blk.{layer}.attn_q.weight", &[Query, Hidden], Always, QueryHeads),
    tensor(Role::AttentionK, "model.layers.{layer}.self_attn.k_proj.weight", "blk.{layer}.attn_k.weight", &[KeyValue, Hidden], Always, KeyHeads),
    tensor(Role::AttentionV, "model.layers.{layer}.self_attn.v_proj.weight", "blk.{layer}.attn_v.weight", &[KeyValue, Hidden], Always, Same),
    tensor(Role::AttentionOutput, "model.layers.{layer}.self_attn.o_proj.weight", "blk.{layer}.attn_output.weight", &[Hidden, Query], Always, Same),
    tensor(Role::AttentionQBias, "model.layers.{layer}.self_attn.q_proj.bias", "blk.{layer}.attn_q.bias", &[Query], QkvBias, QueryHeads),
    tensor(Role::AttentionKBias, "model.layers.{layer}.self_attn.k_proj.bias", "blk.{layer}.attn_k.bias", &[KeyValue], QkvBias, KeyHeads),
    tensor(Role::AttentionVBias, "model.layers.{layer}.self_attn.v_proj.bias", "blk.{layer}.attn_v.bias", &[KeyValue], QkvBias, Same),
    tensor(Role::AttentionOutputBias, "model.layers.{layer}.self_attn.o_proj.bias", "blk.{layer}.attn_output.bias", &[Hidden], OutputBias, Same),
    tensor(Role::FfnNorm, "model.layers.{layer}.post_attention_layernorm.weight", "blk.{layer}.ffn_norm.weight", &[Hidden], Always, Same),
    tensor(Role::FfnGate, "model.layers.{layer}.mlp.gate_proj.weight", "blk.{layer}.ffn_gate.weight", &[Ffn, Hidden], Always, Same),
    tensor(Role::FfnUp, "model.layers.{layer}.mlp.up_proj.weight", "blk.{layer}.ffn_up.weight", &[Ffn, Hidden], Always, Same),
    tensor(Role::FfnDown, "model.layers.{layer}.mlp.down_proj.weight", "blk.{layer}.ffn_down.weight", &[Hidden, Ffn], Always, Same),
    tensor(Role::FfnGateBias, "model.layers.{layer}.mlp.gate_proj.bias", "blk.{layer}.ffn_gate.bias", &[Ffn], FfnBias, Same),
    tensor(Role::FfnUpBias, "model.layers.{layer}.mlp.up_proj.bias", "blk.{layer}.ffn_up.bias", &[Ffn], FfnBias, Same),
    tensor(Role::FfnDownBias, "model.layers.{layer}.mlp.down_proj.bias", "blk.{layer}.ffn_down.bias", &[Hidden], FfnBias, Same),
];

#[rustfmt::skip]
const MIXTRAL_TENSORS: &[TensorTemplate] = &[
    tensor(Role::TokenEmbedding, "model.embed_tokens.weight", "token_embd.weight", &[Vocab, Hidden], Always, Same),
    tensor(Role::OutputNorm, "model.norm.weight", "output_norm.weight", &[Hidden], Always, Same),
    tensor(Role::Output, "lm_head.weight", "output.weight", &[Vocab, Hidden], UnlessTied, Same),
    computed(Role::RopeFactors, "rope_freqs.weight", crate::architecture::Presence::RopeFactors),
    tensor(Role::AttentionNorm, "model.layers.{layer}.input_layernorm.weight", "blk.{layer}.attn_norm.weight", &[Hidden], Always, Same),
    tensor(Role::AttentionQ, "model.layers.{layer}.self_attn.q_proj.weight", "blk.{layer}.attn_q.weight", &[Query, Hidden], Always, QueryHeads),
    tensor(Role::AttentionK, "model.layers.{layer}.self_attn.k_proj.weight", "blk.{layer}.attn_k.weight", &[KeyValue, Hidden], Always, KeyHeads),
    tensor(Role::AttentionV, "model.layers.{layer}.self_attn.v_proj.weight", "blk.{layer}.attn_v.weight", &[KeyValue, Hidden], Always, Same),
    tensor(Role::AttentionOutput, "model.layers.{layer}.self_attn.o_proj.weight", "blk.{layer}.attn_output.weight", &[Hidden, Query], Always, Same),
    tensor(Role::FfnNorm, "model.layers.{layer}.post_attention_layernorm.weight", "blk.{layer}.ffn_norm.weight", &[Hidden], Always, Same),
    tensor(Role::Router, "model.layers.{layer}.block_sparse_moe.gate.weight", "blk.{layer}.ffn_gate_inp.weight", &[Experts, Hidden], Always, Same),
    tensor(Role::ExpertsGate, "model.layers.{layer}.block_sparse_moe.experts.{expert}.w1.weight", "blk.{layer}.ffn_gate_exps.weight", &[Experts, ExpertFfn, Hidden], Always, EachExpert),
    tensor(Role::ExpertsUp, "model.layers.{layer}.block_sparse_moe.experts.{expert}.w3.weight", "blk.{layer}.ffn_up_exps.weight", &[Experts, ExpertFfn, Hidden], Always, EachExpert),
    tensor(Role::ExpertsDown, "model.layers.{layer}.block_sparse_moe.experts.{expert}.w2.weight", "blk.{layer}.ffn_down_exps.weight", &[Experts, Hidden, ExpertFfn], Always, EachExpert),
];
