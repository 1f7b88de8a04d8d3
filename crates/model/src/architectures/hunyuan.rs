//! Hunyuan of Tencent, dense: Llama with norms of each head behind the rotation, and a rope whose base is stretched by a
//! constant (`alpha`).

use super::table::*;
use crate::architecture::{Architecture, Field, GgufKey, HfKey, Silence, TensorTemplate};

/// With the defaults of transformers' `HunYuanDenseV1Config`.
static KEYS: [HfKey; 14] = with_llama_keys([
    number(Field::Vocab, &["vocab_size"], 290_943.0),
    number(Field::NormEpsilon, &["rms_norm_eps"], 1e-5),
    key(Field::QkvBias, &["attention_bias"], Silence::Flag(false)),
    key(Field::OutputBias, &["attention_bias"], Silence::Flag(false)),
    always(Field::QkNorm, true),
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
    GgufKey::KeyValueLengthIfGiven,
    GgufKey::StretchedRope,
];

/// Hunyuan, dense.
pub static HUNYUAN_DENSE: Architecture = Architecture {
    name: "hunyuan-dense",
    hf_architectures: &["HunYuanDenseV1ForCausalLM"],
    hf_model_types: &["hunyuan_v1_dense"],
    norms_after_rotation: true,
    hf_keys: &KEYS,
    gguf_keys: GGUF_KEYS,
    tensors: TENSORS,
    ..USUAL
};

#[rustfmt::skip]
const TENSORS: &[TensorTemplate] = &[
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
    tensor(Role::AttentionQNorm, "model.layers.{layer}.self_attn.query_layernorm.weight", "blk.{layer}.attn_q_norm.weight", &[HeadDim], QkNorm, Same),
    tensor(Role::AttentionKNorm, "model.layers.{layer}.self_attn.key_layernorm.weight", "blk.{layer}.attn_k_norm.weight", &[HeadDim], QkNorm, Same),
    tensor(Role::FfnNorm, "model.layers.{layer}.post_attention_layernorm.weight", "blk.{layer}.ffn_norm.weight", &[Hidden], Always, Same),
    tensor(Role::FfnGate, "model.layers.{layer}.mlp.gate_proj.weight", "blk.{layer}.ffn_gate.weight", &[Ffn, Hidden], Always, Same),
    tensor(Role::FfnUp, "model.layers.{layer}.mlp.up_proj.weight", "blk.{layer}.ffn_up.weight", &[Ffn, Hidden], Always, Same),
    tensor(Role::FfnDown, "model.layers.{layer}.mlp.down_proj.weight", "blk.{layer}.ffn_down.weight", &[Hidden, Ffn], Always, Same),
];
