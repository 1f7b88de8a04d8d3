//! Phi-1, 1.5 and 2 (parallel blocks, layer norms, a part of each head rotated), and Phi-3 (Llama's block with
//! fused projections).

use super::table::*;
use crate::architecture::{
    Activation, Architecture, Block, Field, GgufKey, HfKey, Norm, Presence, Silence, TensorTemplate,
};

static PHI_KEYS: [HfKey; 16] = [
    number(Field::Vocab, &["vocab_size"], 51200.0),
    number(Field::Hidden, &["hidden_size", "n_embd"], 2048.0),
    number(Field::Layers, &["num_hidden_layers", "n_layer"], 24.0),
    number(Field::Heads, &["num_attention_heads", "n_head"], 32.0),
    KV_HEADS,
    key(Field::HeadDim, &["head_dim"], Silence::Nothing).unwritten(),
    number(Field::Ffn, &["intermediate_size"], 8192.0),
    number(Field::Context, &["max_position_embeddings", "n_positions"], 2048.0),
    number(Field::NormEpsilon, &["layer_norm_eps", "layer_norm_epsilon"], 1e-5),
    key(Field::Activation, &["hidden_act"], Silence::Word("gelu_new")),
    number(Field::RopeTheta, &["rope_theta"], 10_000.0),
    key(Field::PartialRotary, &["partial_rotary_factor"], Silence::Number(0.5)),
    always(Field::QkvBias, true),
    always(Field::OutputBias, true),
    always(Field::MlpBias, true),
    always(Field::ParallelBlock, true),
];

static PHI3_KEYS: [HfKey; 14] = with_llama_keys([
    number(Field::Vocab, &["vocab_size"], 32064.0),
    number(Field::Hidden, &["hidden_size"], 3072.0),
    number(Field::Ffn, &["intermediate_size"], 8192.0),
    number(Field::Context, &["max_position_embeddings"], 4096.0),
    number(Field::NormEpsilon, &["rms_norm_eps"], 1e-5),
    key(Field::SlidingWindow, &["sliding_window"], Silence::Nothing),
    key(Field::PartialRotary, &["partial_rotary_factor"], Silence::Number(1.0)),
    always(Field::QkvBias, false),
]);

const PHI_GGUF_KEYS: &[GgufKey] = &[
    GgufKey::ContextLength,
    GgufKey::EmbeddingLength,
    GgufKey::FeedForwardLength,
    GgufKey::BlockCount,
    GgufKey::HeadCount,
    GgufKey::HeadCountKv,
    GgufKey::LayerNormEpsilon,
    GgufKey::RopeDimensionCount,
    GgufKey::RopeFreqBaseUnlessUsual,
    GgufKey::RopeScaling,
    GgufKey::KeyValueLengthUnlessUsual,
];

const PHI3_GGUF_KEYS: &[GgufKey] = &[
    GgufKey::ContextLength,
    GgufKey::OriginalContextLength,
    GgufKey::EmbeddingLength,
    GgufKey::FeedForwardLength,
    GgufKey::BlockCount,
    GgufKey::HeadCount,
    GgufKey::HeadCountKv,
    GgufKey::RmsEpsilon,
    GgufKey::RopeDimensionCount,
    GgufKey::RopeFreqBase,
    GgufKey::SlidingWindowOrZero,
    GgufKey::RopeAttentionFactor,
    GgufKey::KeyValueLengthUnlessUsual,
];

/// Phi-2.
pub static PHI2: Architecture = Architecture {
    name: "phi2",
    hf_architectures: &["PhiForCausalLM"],
    hf_model_types: &["phi"],
    norm: Norm::Layer,
    block: Block::Parallel,
    activations: &[Activation::GeluTanh, Activation::Gelu, Activation::Relu, Activation::Silu],
    gated: false,
    hf_keys: &PHI_KEYS,
    hf_limits: &[only("qk_layernorm", false)],
    gguf_keys: PHI_GGUF_KEYS,
    tensors: PHI_TENSORS,
    ..USUAL
};

/// Phi-3 and Phi-4.
pub static PHI3: Architecture = Architecture {
    name: "phi3",
    hf_architectures: &["Phi3ForCausalLM"],
    hf_model_types: &["phi3"],
    hf_keys: &PHI3_KEYS,
    gguf_keys: PHI3_GGUF_KEYS,
    tensors: PHI3_TENSORS,
    ..USUAL
};

#[rustfmt::skip]
const PHI_TENSORS: &[TensorTemplate] = &[
    tensor(Role::TokenEmbedding, "model.embed_tokens.weight", "token_embd.weight", &[Vocab, Hidden], Always, Same),
    tensor(Role::OutputNorm, "model.final_layernorm.weight", "output_norm.weight", &[Hidden], Always, Same),
    tensor(Role::OutputNormBias, "model.final_layernorm.bias", "output_norm.bias", &[Hidden], Always, Same),
    tensor(Role::Output, "lm_head.weight", "output.weight", &[Vocab, Hidden], UnlessTied, Same),
    tensor(Role::OutputBias, "lm_head.bias", "output.bias", &[Vocab], Always, Same),
    tensor(Role::AttentionNorm, "model.layers.{layer}.input_layernorm.weight", "blk.{layer}.attn_norm.weight", &[Hidden], Always, Same),
    tensor(Role::AttentionNormBias, "model.layers.{layer}.input_layernorm.bias", "blk.{layer}.attn_norm.bias", &[Hidden], Always, Same),
    tensor(Role::AttentionQ, "model.layers.{layer}.self_attn.q_proj.weight", "blk.{layer}.attn_q.weight", &[Query, Hidden], Always, Same),
    tensor(Role::AttentionK, "model.layers.{layer}.self_attn.k_proj.weight", "blk.{layer}.attn_k.weight", &[KeyValue, Hidden], Always, Same),
    tensor(Role::AttentionV, "model.layers.{layer}.self_attn.v_proj.weight", "blk.{layer}.attn_v.weight", &[KeyValue, Hidden], Always, Same),
    tensor(Role::AttentionOutput, "model.layers.{layer}.self_attn.dense.weight", "blk.{layer}.attn_output.weight", &[Hidden, Query], Always, Same),
    tensor(Role::AttentionQBias, "model.layers.{layer}.self_attn.q_proj.bias", "blk.{layer}.attn_q.bias", &[Query], QkvBias, Same),
    tensor(Role::AttentionKBias, "model.layers.{layer}.self_attn.k_proj.bias", "blk.{layer}.attn_k.bias", &[KeyValue], QkvBias, Same),
    tensor(Role::AttentionVBias, "model.layers.{layer}.self_attn.v_proj.bias", "blk.{layer}.attn_v.bias", &[KeyValue], QkvBias, Same),
    tensor(Role::AttentionOutputBias, "model.layers.{layer}.self_attn.dense.bias", "blk.{layer}.attn_output.bias", &[Hidden], OutputBias, Same),
    tensor(Role::FfnUp, "model.layers.{layer}.mlp.fc1.weight", "blk.{layer}.ffn_up.weight", &[Ffn, Hidden], Always, Same),
    tensor(Role::FfnUpBias, "model.layers.{layer}.mlp.fc1.bias", "blk.{layer}.ffn_up.bias", &[Ffn], FfnBias, Same),
    tensor(Role::FfnDown, "model.layers.{layer}.mlp.fc2.weight", "blk.{layer}.ffn_down.weight", &[Hidden, Ffn], Always, Same),
    tensor(Role::FfnDownBias, "model.layers.{layer}.mlp.fc2.bias", "blk.{layer}.ffn_down.bias", &[Hidden], FfnBias, Same),
];

#[rustfmt::skip]
const PHI3_TENSORS: &[TensorTemplate] = &[
    tensor(Role::TokenEmbedding, "model.embed_tokens.weight", "token_embd.weight", &[Vocab, Hidden], Always, Same),
    tensor(Role::OutputNorm, "model.norm.weight", "output_norm.weight", &[Hidden], Always, Same),
    tensor(Role::Output, "lm_head.weight", "output.weight", &[Vocab, Hidden], UnlessTied, Same),
    computed(Role::RopeFactorsLong, "rope_factors_long.weight", Presence::LongRope),
    computed(Role::RopeFactorsShort, "rope_factors_short.weight", Presence::LongRope),
    tensor(Role::AttentionNorm, "model.layers.{layer}.input_layernorm.weight", "blk.{layer}.attn_norm.weight", &[Hidden], Always, Same),
    tensor(Role::AttentionQkv, "model.layers.{layer}.self_attn.qkv_proj.weight", "blk.{layer}.attn_qkv.weight", &[Qkv, Hidden], Always, Same),
    tensor(Role::AttentionOutput, "model.layers.{layer}.self_attn.o_proj.weight", "blk.{layer}.attn_output.weight", &[Hidden, Query], Always, Same),
    tensor(Role::FfnNorm, "model.layers.{layer}.post_attention_layernorm.weight", "blk.{layer}.ffn_norm.weight", &[Hidden], Always, Same),
    tensor(Role::FfnGateUp, "model.layers.{layer}.mlp.gate_up_proj.weight", "blk.{layer}.ffn_up.weight", &[GateUp, Hidden], Always, Same),
    tensor(Role::FfnDown, "model.layers.{layer}.mlp.down_proj.weight", "blk.{layer}.ffn_down.weight", &[Hidden, Ffn], Always, Same),
];
