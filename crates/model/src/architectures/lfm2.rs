//! LFM2 of Liquid AI: gated convolutions over three positions, with grouped-query attention in some layers.

use super::table::*;
use crate::architecture::{Architecture, Field, GgufKey, HfKey, HfLimit, Silence, TensorTemplate};

/// With the defaults of transformers' `Lfm2Config`. The network's width is computed from what is given: `quirks.rs`.
static KEYS: [HfKey; 13] = with_llama_keys([
    number(Field::Vocab, &["vocab_size"], 65536.0),
    number(Field::Hidden, &["hidden_size"], 2560.0),
    number(Field::Ffn, &["block_ff_dim", "intermediate_size"], 12288.0).written("intermediate_size"),
    kv_heads(8.0),
    number(Field::Context, &["max_position_embeddings"], 128_000.0),
    number(Field::NormEpsilon, &["norm_eps"], 1e-5),
    key(Field::Activation, &[], Silence::Word("silu")),
    number(Field::RopeTheta, &["rope_theta"], 1_000_000.0),
    always(Field::QkNorm, true),
    number(Field::ConvTaps, &["conv_L_cache"], 3.0),
]);

const LIMITS: &[HfLimit] = &[only("conv_bias", false), only("tie_embedding", true)];

const GGUF_KEYS: &[GgufKey] = &[
    GgufKey::BlockCount,
    GgufKey::ContextLength,
    GgufKey::EmbeddingLength,
    GgufKey::FeedForwardLength,
    GgufKey::HeadCount,
    GgufKey::HeadCountKvLayers,
    GgufKey::RopeScaling,
    GgufKey::RopeFreqBase,
    GgufKey::RmsEpsilon,
    GgufKey::KeyValueLengthIfGiven,
    GgufKey::VocabSize,
    GgufKey::ShortConv,
];

/// LFM2.
pub static LFM2: Architecture = Architecture {
    name: "lfm2",
    hf_architectures: &["Lfm2ForCausalLM"],
    hf_model_types: &["lfm2"],
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
    tensor(Role::OutputNorm, "model.embedding_norm.weight", "token_embd_norm.weight", &[Hidden], Always, Same),
    tensor(Role::Output, "lm_head.weight", "output.weight", &[Vocab, Hidden], UnlessTied, Same),
    tensor(Role::AttentionNorm, "model.layers.{layer}.operator_norm.weight", "blk.{layer}.attn_norm.weight", &[Hidden], Always, Same),
    tensor(Role::StateIn, "model.layers.{layer}.conv.in_proj.weight", "blk.{layer}.shortconv.in_proj.weight", &[TripleHidden, Hidden], StateLayers, Same),
    tensor(Role::StateConv, "model.layers.{layer}.conv.conv.weight", "blk.{layer}.shortconv.conv.weight", &[Hidden, ConvTaps], StateLayers, Conv),
    tensor(Role::StateOut, "model.layers.{layer}.conv.out_proj.weight", "blk.{layer}.shortconv.out_proj.weight", &[Hidden, Hidden], StateLayers, Same),
    tensor(Role::AttentionQ, "model.layers.{layer}.self_attn.q_proj.weight", "blk.{layer}.attn_q.weight", &[Query, Hidden], AttentionLayers, Same),
    tensor(Role::AttentionK, "model.layers.{layer}.self_attn.k_proj.weight", "blk.{layer}.attn_k.weight", &[KeyValue, Hidden], AttentionLayers, Same),
    tensor(Role::AttentionV, "model.layers.{layer}.self_attn.v_proj.weight", "blk.{layer}.attn_v.weight", &[KeyValue, Hidden], AttentionLayers, Same),
    tensor(Role::AttentionOutput, "model.layers.{layer}.self_attn.out_proj.weight", "blk.{layer}.attn_output.weight", &[Hidden, Query], AttentionLayers, Same),
    tensor(Role::AttentionQNorm, "model.layers.{layer}.self_attn.q_layernorm.weight", "blk.{layer}.attn_q_norm.weight", &[HeadDim], AttentionLayers, Same),
    tensor(Role::AttentionKNorm, "model.layers.{layer}.self_attn.k_layernorm.weight", "blk.{layer}.attn_k_norm.weight", &[HeadDim], AttentionLayers, Same),
    tensor(Role::FfnNorm, "model.layers.{layer}.ffn_norm.weight", "blk.{layer}.ffn_norm.weight", &[Hidden], Always, Same),
    tensor(Role::FfnGate, "model.layers.{layer}.feed_forward.w1.weight", "blk.{layer}.ffn_gate.weight", &[Ffn, Hidden], Always, Same),
    tensor(Role::FfnUp, "model.layers.{layer}.feed_forward.w3.weight", "blk.{layer}.ffn_up.weight", &[Ffn, Hidden], Always, Same),
    tensor(Role::FfnDown, "model.layers.{layer}.feed_forward.w2.weight", "blk.{layer}.ffn_down.weight", &[Hidden, Ffn], Always, Same),
];
