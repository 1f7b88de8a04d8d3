//! Granite 3 of IBM, dense: Llama with constants that multiply embeddings, attention scores, what attention and network
//! add, and divide the logits. Granite 4 without Mamba-2 (micro, 350m) is the same in the class of the hybrid models:
//! GGUF has Granite of it. HyperCLOVA X has the same constants and norms behind attention and network too.

use super::table::*;
use crate::architecture::{
    Accepted, Architecture, Field, GgufKey, HfKey, HfLimit, Layout, RopeStyle, Silence, TensorTemplate,
};

/// With the defaults of transformers' `GraniteConfig`.
static KEYS: [HfKey; 18] = with_llama_keys([
    key(Field::QkvBias, &["attention_bias"], Silence::Flag(false)),
    key(Field::OutputBias, &["attention_bias"], Silence::Flag(false)),
    key(Field::MlpBias, &["mlp_bias"], Silence::Flag(false)),
    number(Field::AttentionMultiplier, &["attention_multiplier"], 1.0),
    number(Field::EmbeddingMultiplier, &["embedding_multiplier"], 1.0),
    number(Field::ResidualMultiplier, &["residual_multiplier"], 1.0),
    number(Field::LogitDivisor, &["logits_scaling"], 1.0),
]);

/// With the defaults of transformers' `GraniteMoeHybridConfig`. The sizes of Mamba-2, which no layer has, are written to
/// GGUF files all the same.
static HYBRID_KEYS: [HfKey; 20] = with_llama_keys([
    number(Field::Ffn, &["shared_intermediate_size"], 1024.0),
    number(Field::AttentionMultiplier, &["attention_multiplier"], 1.0),
    number(Field::EmbeddingMultiplier, &["embedding_multiplier"], 1.0),
    number(Field::ResidualMultiplier, &["residual_multiplier"], 1.0),
    number(Field::LogitDivisor, &["logits_scaling"], 1.0),
    number(Field::MambaHeads, &["mamba_n_heads"], 128.0),
    key(Field::MambaHeadDim, &["mamba_d_head"], Silence::Nothing),
    number(Field::MambaGroups, &["mamba_n_groups"], 1.0),
    number(Field::MambaState, &["mamba_d_state"], 256.0),
    number(Field::ConvTaps, &["mamba_d_conv"], 4.0),
]);

const HYBRID_LIMITS: &[HfLimit] = &[
    only("attention_bias", false),
    HfLimit { key: "position_embedding_type", accepted: Accepted::Words(&["rope"]) },
    NO_HEAD_DIM,
];

/// With the defaults of transformers' `HyperCLOVAXConfig`, whose `logits_scaling` multiplies.
static HYPERCLOVA_X_KEYS: [HfKey; 18] = with_llama_keys([
    key(Field::QkvBias, &["attention_bias"], Silence::Flag(false)),
    key(Field::OutputBias, &["attention_bias"], Silence::Flag(false)),
    key(Field::MlpBias, &["mlp_bias"], Silence::Flag(false)),
    key(Field::AttentionMultiplier, &["attention_multiplier"], Silence::Nothing),
    number(Field::EmbeddingMultiplier, &["embedding_multiplier"], 1.0),
    number(Field::ResidualMultiplier, &["residual_multiplier"], 1.0),
    number(Field::LogitMultiplier, &["logits_scaling"], 1.0),
]);

/// Every published model has the norms behind attention and network.
const HYPERCLOVA_X_LIMITS: &[HfLimit] = &[only("use_post_norm", true)];

pub(super) const GGUF_KEYS: &[GgufKey] = &[
    GgufKey::BlockCount,
    GgufKey::ContextLength,
    GgufKey::EmbeddingLength,
    GgufKey::FeedForwardLength,
    GgufKey::HeadCount,
    GgufKey::HeadCountKv,
    GgufKey::RopeScaling,
    GgufKey::RopeFreqBase,
    GgufKey::RmsEpsilon,
    GgufKey::KeyValueLengthUnlessUsual,
    GgufKey::VocabSize,
    GgufKey::RopeDimensionCount,
    GgufKey::Multipliers,
];

/// What the converter writes beside that of a model without Mamba-2.
const HYBRID_GGUF_KEYS: &[GgufKey] = &[
    GgufKey::BlockCount,
    GgufKey::ContextLength,
    GgufKey::EmbeddingLength,
    GgufKey::FeedForwardLength,
    GgufKey::HeadCount,
    GgufKey::HeadCountKvLayers,
    GgufKey::RopeScaling,
    GgufKey::RopeFreqBase,
    GgufKey::RmsEpsilon,
    GgufKey::NoExperts,
    GgufKey::VocabSize,
    GgufKey::RopeDimensionCount,
    GgufKey::Multipliers,
    GgufKey::Mamba2,
    GgufKey::RopeFinetuned,
];

/// Granite, dense.
pub static GRANITE: Architecture = Architecture {
    name: "granite",
    hf_architectures: &["GraniteForCausalLM"],
    hf_model_types: &["granite"],
    gguf_rope_style: RopeStyle::Interleaved,
    hf_keys: &KEYS,
    gguf_keys: GGUF_KEYS,
    tensors: TENSORS,
    ..USUAL
};

/// Granite 4 with attention in all layers, in the class of the hybrid models.
pub static GRANITE_4: Architecture = Architecture {
    name: "granite",
    hf_architectures: &["GraniteMoeHybridForCausalLM"],
    hf_model_types: &["granitemoehybrid"],
    gguf_rope_style: RopeStyle::Interleaved,
    hf_keys: &HYBRID_KEYS,
    hf_limits: HYBRID_LIMITS,
    gguf_keys: HYBRID_GGUF_KEYS,
    tensors: HYBRID_TENSORS,
    ..USUAL
};

/// HyperCLOVA X of NAVER (SEED Think), dense.
pub static HYPERCLOVA_X: Architecture = Architecture {
    name: "hyperclovax",
    no_gguf: Some(
        "llama.cpp has no HyperCLOVA X architecture, so no program could load the file; convert to safetensors, or \
         quantize to gptq, nf4, fp4 or int8",
    ),
    hf_architectures: &["HyperCLOVAXForCausalLM"],
    hf_model_types: &["hyperclovax"],
    hf_keys: &HYPERCLOVA_X_KEYS,
    hf_limits: HYPERCLOVA_X_LIMITS,
    tensors: HYPERCLOVA_X_TENSORS,
    ..USUAL
};

#[rustfmt::skip]
pub(super) const TENSORS: &[TensorTemplate] = &[
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
const HYBRID_TENSORS: &[TensorTemplate] = &[
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
    joined(Role::FfnGateUp, "model.layers.{layer}.shared_mlp.input_linear.weight", &[GateUp, Hidden], Always),
    derived(Role::FfnGate, "blk.{layer}.ffn_gate.weight", &[Ffn, Hidden], Always, Layout::GateRows),
    derived(Role::FfnUp, "blk.{layer}.ffn_up.weight", &[Ffn, Hidden], Always, Layout::UpRows),
    tensor(Role::FfnDown, "model.layers.{layer}.shared_mlp.output_linear.weight", "blk.{layer}.ffn_down.weight", &[Hidden, Ffn], Always, Same),
];

#[rustfmt::skip]
const HYPERCLOVA_X_TENSORS: &[TensorTemplate] = &[
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
    tensor(Role::AttentionPostNorm, "model.layers.{layer}.post_norm1.weight", "blk.{layer}.post_attention_norm.weight", &[Hidden], Always, Same),
    tensor(Role::FfnNorm, "model.layers.{layer}.post_attention_layernorm.weight", "blk.{layer}.ffn_norm.weight", &[Hidden], Always, Same),
    tensor(Role::FfnGate, "model.layers.{layer}.mlp.gate_proj.weight", "blk.{layer}.ffn_gate.weight", &[Ffn, Hidden], Always, Same),
    tensor(Role::FfnUp, "model.layers.{layer}.mlp.up_proj.weight", "blk.{layer}.ffn_up.weight", &[Ffn, Hidden], Always, Same),
    tensor(Role::FfnDown, "model.layers.{layer}.mlp.down_proj.weight", "blk.{layer}.ffn_down.weight", &[Hidden, Ffn], Always, Same),
    tensor(Role::FfnGateBias, "model.layers.{layer}.mlp.gate_proj.bias", "blk.{layer}.ffn_gate.bias", &[Ffn], FfnBias, Same),
    tensor(Role::FfnUpBias, "model.layers.{layer}.mlp.up_proj.bias", "blk.{layer}.ffn_up.bias", &[Ffn], FfnBias, Same),
    tensor(Role::FfnDownBias, "model.layers.{layer}.mlp.down_proj.bias", "blk.{layer}.ffn_down.bias", &[Hidden], FfnBias, Same),
    tensor(Role::FfnPostNorm, "model.layers.{layer}.post_norm2.weight", "blk.{layer}.post_ffw_norm.weight", &[Hidden], Always, Same),
];
