//! OLMo 1 of Ai2: Llama with layer norms that have no weights; some models limit queries, keys and values.

use super::table::*;
use crate::architecture::{
    Architecture, Field, GgufKey, HfKey, HfLimit, Norm, RopeStyle, Silence, TensorTemplate,
};

/// With the defaults of transformers' `OlmoConfig`. No key says the epsilon of the norms.
static KEYS: [HfKey; 12] = with_llama_keys([
    number(Field::Vocab, &["vocab_size"], 50304.0),
    key(Field::HeadDim, &[], Silence::Nothing),
    key(Field::NormEpsilon, &[], Silence::Number(1e-5)),
    key(Field::QkvLimit, &["clip_qkv"], Silence::Nothing),
]);

/// No published model has biases, and llama.cpp has no tensors for them.
const LIMITS: &[HfLimit] = &[only("attention_bias", false), NO_HEAD_DIM];

const GGUF_KEYS: &[GgufKey] = &[
    GgufKey::BlockCount,
    GgufKey::ContextLength,
    GgufKey::EmbeddingLength,
    GgufKey::FeedForwardLength,
    GgufKey::HeadCount,
    GgufKey::HeadCountKv,
    GgufKey::RopeScaling,
    GgufKey::RopeFreqBase,
    GgufKey::LayerNormEpsilon,
    GgufKey::ClampKqv,
];

/// OLMo.
pub static OLMO: Architecture = Architecture {
    name: "olmo",
    hf_architectures: &["OlmoForCausalLM"],
    hf_model_types: &["olmo"],
    norm: Norm::Layer,
    gguf_rope_style: RopeStyle::Interleaved,
    hf_keys: &KEYS,
    hf_limits: LIMITS,
    gguf_keys: GGUF_KEYS,
    tensors: TENSORS,
    ..USUAL
};

#[rustfmt::skip]
const TENSORS: &[TensorTemplate] = &[
    tensor(Role::TokenEmbedding, "model.embed_tokens.weight", "token_embd.weight", &[Vocab, Hidden], Always, Same),
    tensor(Role::Output, "lm_head.weight", "output.weight", &[Vocab, Hidden], UnlessTied, Same),
    computed(Role::RopeFactors, "rope_freqs.weight", crate::architecture::Presence::RopeFactors),
    tensor(Role::AttentionQ, "model.layers.{layer}.self_attn.q_proj.weight", "blk.{layer}.attn_q.weight", &[Query, Hidden], Always, QueryHeads),
    tensor(Role::AttentionK, "model.layers.{layer}.self_attn.k_proj.weight", "blk.{layer}.attn_k.weight", &[KeyValue, Hidden], Always, KeyHeads),
    tensor(Role::AttentionV, "model.layers.{layer}.self_attn.v_proj.weight", "blk.{layer}.attn_v.weight", &[KeyValue, Hidden], Always, Same),
    tensor(Role::AttentionOutput, "model.layers.{layer}.self_attn.o_proj.weight", "blk.{layer}.attn_output.weight", &[Hidden, Query], Always, Same),
    tensor(Role::FfnGate, "model.layers.{layer}.mlp.gate_proj.weight", "blk.{layer}.ffn_gate.weight", &[Ffn, Hidden], Always, Same),
    tensor(Role::FfnUp, "model.layers.{layer}.mlp.up_proj.weight", "blk.{layer}.ffn_up.weight", &[Ffn, Hidden], Always, Same),
    tensor(Role::FfnDown, "model.layers.{layer}.mlp.down_proj.weight", "blk.{layer}.ffn_down.weight", &[Hidden, Ffn], Always, Same),
];
