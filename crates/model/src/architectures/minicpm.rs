//! MiniCPM 1, 2 and 4 of OpenBMB, dense: Llama with constants that multiply embeddings and what attention and network add,
//! and divide the logits. `config.json` states the last two by other numbers (`scale_depth`, `dim_model_base`).

use super::table::*;
use crate::architecture::{
    Accepted, Architecture, Field, GgufKey, HfKey, HfLimit, Presence, RopeStyle, Silence, TensorTemplate,
};

/// With the defaults of the class that models of this family bring with them (`configuration_minicpm.py`).
static KEYS: [HfKey; 14] = with_llama_keys([
    number(Field::EmbeddingMultiplier, &["scale_emb"], 1.0),
    number(Field::ResidualMultiplier, &["scale_depth"], 1.0),
    number(Field::LogitDivisor, &["dim_model_base"], 1.0),
    // Its attention computes the size of a head.
    key(Field::HeadDim, &[], Silence::Nothing),
]);

/// Sparse attention for long texts, and mixtures of experts under the same class.
const LIMITS: &[HfLimit] = &[
    HfLimit { key: "sparse_config", accepted: Accepted::Empty },
    HfLimit { key: "num_experts", accepted: Accepted::Empty },
    only("attention_bias", false),
    NO_HEAD_DIM,
];

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
    GgufKey::MultipliersButAttention,
];

/// MiniCPM.
pub static MINICPM: Architecture = Architecture {
    name: "minicpm",
    hf_architectures: &["MiniCPMForCausalLM"],
    hf_model_types: &["minicpm"],
    gguf_rope_style: RopeStyle::Interleaved,
    tied_by_default: true,
    hf_keys: &KEYS,
    hf_limits: LIMITS,
    gguf_keys: GGUF_KEYS,
    tensors: TENSORS,
    ..USUAL
};

#[rustfmt::skip]
const TENSORS: &[TensorTemplate] = &[
    tensor(Role::TokenEmbedding, "model.embed_tokens.weight", "token_embd.weight", &[Vocab, Hidden], Always, Same),
    tensor(Role::OutputNorm, "model.norm.weight", "output_norm.weight", &[Hidden], Always, Same),
    tensor(Role::Output, "lm_head.weight", "output.weight", &[Vocab, Hidden], UnlessTied, Same),
    computed(Role::RopeFactorsLong, "rope_factors_long.weight", Presence::LongRope),
    computed(Role::RopeFactorsShort, "rope_factors_short.weight", Presence::LongRope),
    tensor(Role::AttentionNorm, "model.layers.{layer}.input_layernorm.weight", "blk.{layer}.attn_norm.weight", &[Hidden], Always, Same),
    tensor(Role::AttentionQ, "model.layers.{layer}.self_attn.q_proj.weight", "blk.{layer}.attn_q.weight", &[Query, Hidden], Always, QueryHeads),
    tensor(Role::AttentionK, "model.layers.{layer}.self_attn.k_proj.weight", "blk.{layer}.attn_k.weight", &[KeyValue, Hidden], Always, KeyHeads),
    tensor(Role::AttentionV, "model.layers.{layer}.self_attn.v_proj.weight", "blk.{layer}.attn_v.weight", &[KeyValue, Hidden], Always, Same),
    tensor(Role::AttentionOutput, "model.layers.{layer}.self_attn.o_proj.weight", "blk.{layer}.attn_output.weight", &[Hidden, Query], Always, Same),
    tensor(Role::FfnNorm, "model.layers.{layer}.post_attention_layernorm.weight", "blk.{layer}.ffn_norm.weight", &[Hidden], Always, Same),
    tensor(Role::FfnGate, "model.layers.{layer}.mlp.gate_proj.weight", "blk.{layer}.ffn_gate.weight", &[Ffn, Hidden], Always, Same),
    tensor(Role::FfnUp, "model.layers.{layer}.mlp.up_proj.weight", "blk.{layer}.ffn_up.weight", &[Ffn, Hidden], Always, Same),
    tensor(Role::FfnDown, "model.layers.{layer}.mlp.down_proj.weight", "blk.{layer}.ffn_down.weight", &[Hidden, Ffn], Always, Same),
];
