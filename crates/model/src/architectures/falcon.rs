//! Falcon 7B, 11B and 40B: parallel blocks without biases, one key head for all queries or for groups of them,
//! queries, keys and values of one group side by side in one matrix. The older ones with ALiBi or sequential
//! blocks are not supported.

use super::table::*;
use crate::architecture::{
    Activation, Architecture, Block, Field, GgufKey, HfKey, Norm, Presence, Silence, TensorTemplate,
};

static KEYS: [HfKey; 15] = [
    number(Field::Vocab, &["vocab_size"], 65024.0),
    number(Field::Hidden, &["n_embed", "hidden_size"], 4544.0).written("hidden_size"),
    number(Field::Layers, &["num_hidden_layers", "n_layer"], 32.0),
    number(Field::Heads, &["num_attention_heads", "n_head"], 71.0),
    // Whether it counts depends on two flags beside it.
    key(Field::KvHeads, &["num_kv_heads", "n_head_kv"], Silence::Times(1, Field::Heads)),
    key(Field::HeadDim, &[], Silence::Nothing),
    key(Field::Ffn, &["ffn_hidden_size"], Silence::Times(4, Field::Hidden)),
    number(Field::Context, &["max_position_embeddings"], 2048.0),
    key(Field::NormEpsilon, &["layer_norm_epsilon"], Silence::Number(1e-5)),
    key(Field::Activation, &["activation"], Silence::Word("gelu")),
    number(Field::RopeTheta, &["rope_theta"], 10_000.0),
    key(Field::QkvBias, &["bias"], Silence::Flag(false)),
    key(Field::OutputBias, &["bias"], Silence::Flag(false)),
    key(Field::MlpBias, &["bias"], Silence::Flag(false)),
    always(Field::ParallelBlock, true),
];

/// Falcon.
pub static FALCON: Architecture = Architecture {
    name: "falcon",
    hf_architectures: &["FalconForCausalLM", "RWForCausalLM"],
    hf_model_types: &["falcon", "RefinedWeb", "RefinedWebModel"],
    hf_prefix: "transformer.",
    norm: Norm::Layer,
    block: Block::Parallel,
    activations: &[Activation::Gelu, Activation::GeluTanh, Activation::Relu, Activation::Silu],
    gated: false,
    tied_by_default: true,
    hf_keys: &KEYS,
    hf_limits: &[only("alibi", false), only("parallel_attn", true), NO_HEAD_DIM],
    gguf_keys: &[
        GgufKey::ContextLength,
        GgufKey::TensorDataLayout,
        GgufKey::EmbeddingLength,
        GgufKey::FeedForwardLength,
        GgufKey::BlockCount,
        GgufKey::HeadCount,
        GgufKey::HeadCountKv,
        GgufKey::LayerNormEpsilon,
        GgufKey::RopeFreqBaseUnlessUsual,
        GgufKey::RopeScaling,
    ],
    tensors: TENSORS,
    ..USUAL
};

#[rustfmt::skip]
const TENSORS: &[TensorTemplate] = &[
    tensor(Role::TokenEmbedding, "transformer.word_embeddings.weight", "token_embd.weight", &[Vocab, Hidden], Always, Same),
    tensor(Role::OutputNorm, "transformer.ln_f.weight", "output_norm.weight", &[Hidden], Always, Same),
    tensor(Role::OutputNormBias, "transformer.ln_f.bias", "output_norm.bias", &[Hidden], Always, Same),
    tensor(Role::Output, "lm_head.weight", "output.weight", &[Vocab, Hidden], UnlessTied, Same),
    tensor(Role::AttentionNorm, "transformer.h.{layer}.input_layernorm.weight", "blk.{layer}.attn_norm.weight", &[Hidden], Presence::OneNorm, Same),
    tensor(Role::AttentionNormBias, "transformer.h.{layer}.input_layernorm.bias", "blk.{layer}.attn_norm.bias", &[Hidden], Presence::OneNorm, Same),
    tensor(Role::AttentionNorm, "transformer.h.{layer}.ln_mlp.weight", "blk.{layer}.attn_norm.weight", &[Hidden], SecondNorm, Same),
    tensor(Role::AttentionNormBias, "transformer.h.{layer}.ln_mlp.bias", "blk.{layer}.attn_norm.bias", &[Hidden], SecondNorm, Same),
    tensor(Role::AttentionNorm2, "transformer.h.{layer}.ln_attn.weight", "blk.{layer}.attn_norm_2.weight", &[Hidden], SecondNorm, Same),
    tensor(Role::AttentionNorm2Bias, "transformer.h.{layer}.ln_attn.bias", "blk.{layer}.attn_norm_2.bias", &[Hidden], SecondNorm, Same),
    tensor(Role::AttentionQkv, "transformer.h.{layer}.self_attention.query_key_value.weight", "blk.{layer}.attn_qkv.weight", &[Qkv, Hidden], Always, QkvByHead),
    tensor(Role::AttentionQkvBias, "transformer.h.{layer}.self_attention.query_key_value.bias", "blk.{layer}.attn_qkv.bias", &[Qkv], QkvBias, QkvByHead),
    tensor(Role::AttentionOutput, "transformer.h.{layer}.self_attention.dense.weight", "blk.{layer}.attn_output.weight", &[Hidden, Query], Always, Same),
    tensor(Role::AttentionOutputBias, "transformer.h.{layer}.self_attention.dense.bias", "blk.{layer}.attn_output.bias", &[Hidden], OutputBias, Same),
    tensor(Role::FfnUp, "transformer.h.{layer}.mlp.dense_h_to_4h.weight", "blk.{layer}.ffn_up.weight", &[Ffn, Hidden], Always, Same),
    tensor(Role::FfnUpBias, "transformer.h.{layer}.mlp.dense_h_to_4h.bias", "blk.{layer}.ffn_up.bias", &[Ffn], FfnBias, Same),
    tensor(Role::FfnDown, "transformer.h.{layer}.mlp.dense_4h_to_h.weight", "blk.{layer}.ffn_down.weight", &[Hidden, Ffn], Always, Same),
    tensor(Role::FfnDownBias, "transformer.h.{layer}.mlp.dense_4h_to_h.bias", "blk.{layer}.ffn_down.bias", &[Hidden], FfnBias, Same),
];
