//! StableLM 3B, 2 1.6B and 2 12B: Llama's network and attention with layer norms, a part of each head rotated;
//! the largest has parallel blocks and a norm of its own for each query and key head.

use super::table::*;
use crate::architecture::{Architecture, Field, GgufKey, HfKey, Norm, Silence, TensorTemplate};

static KEYS: [HfKey; 17] = [
    number(Field::Vocab, &["vocab_size"], 50304.0),
    number(Field::Hidden, &["hidden_size"], 2560.0),
    number(Field::Layers, &["num_hidden_layers"], 32.0),
    number(Field::Heads, &["num_attention_heads"], 32.0),
    number(Field::KvHeads, &["num_key_value_heads"], 32.0),
    key(Field::HeadDim, &[], Silence::Nothing),
    number(Field::Ffn, &["intermediate_size"], 6912.0),
    number(Field::Context, &["max_position_embeddings"], 4096.0),
    number(Field::NormEpsilon, &["layer_norm_eps", "norm_eps"], 1e-5),
    key(Field::Activation, &["hidden_act"], Silence::Word("silu")),
    number(Field::RopeTheta, &["rope_theta"], 10_000.0),
    key(Field::PartialRotary, &["partial_rotary_factor", "rope_pct"], Silence::Number(0.25)),
    key(Field::QkvBias, &["use_qkv_bias"], Silence::Flag(false)),
    always(Field::OutputBias, false),
    always(Field::MlpBias, false),
    key(Field::QkNorm, &["qk_layernorm"], Silence::Flag(false)),
    key(Field::ParallelBlock, &["use_parallel_residual"], Silence::Flag(false)),
];

/// StableLM.
pub static STABLELM: Architecture = Architecture {
    name: "stablelm",
    hf_architectures: &["StableLmForCausalLM", "StableLMEpochForCausalLM"],
    hf_model_types: &["stablelm", "stablelm_epoch"],
    norm: Norm::Layer,
    hf_keys: &KEYS,
    hf_limits: &[NO_HEAD_DIM],
    gguf_keys: &[
        GgufKey::ContextLength,
        GgufKey::EmbeddingLength,
        GgufKey::BlockCount,
        GgufKey::FeedForwardLength,
        GgufKey::RopeDimensionCount,
        GgufKey::HeadCount,
        GgufKey::HeadCountKv,
        GgufKey::UseParallelResidual,
        GgufKey::LayerNormEpsilon,
        GgufKey::RopeFreqBaseUnlessUsual,
        GgufKey::RopeScaling,
    ],
    tensors: TENSORS,
    ..USUAL
};

#[rustfmt::skip]
const TENSORS: &[TensorTemplate] = &[
    tensor(Role::TokenEmbedding, "model.embed_tokens.weight", "token_embd.weight", &[Vocab, Hidden], Always, Same),
    tensor(Role::OutputNorm, "model.norm.weight", "output_norm.weight", &[Hidden], Always, Same),
    tensor(Role::OutputNormBias, "model.norm.bias", "output_norm.bias", &[Hidden], Always, Same),
    tensor(Role::Output, "lm_head.weight", "output.weight", &[Vocab, Hidden], UnlessTied, Same),
    tensor(Role::AttentionNorm, "model.layers.{layer}.input_layernorm.weight", "blk.{layer}.attn_norm.weight", &[Hidden], Always, Same),
    tensor(Role::AttentionNormBias, "model.layers.{layer}.input_layernorm.bias", "blk.{layer}.attn_norm.bias", &[Hidden], Always, Same),
    tensor(Role::AttentionQ, "model.layers.{layer}.self_attn.q_proj.weight", "blk.{layer}.attn_q.weight", &[Query, Hidden], Always, Same),
    tensor(Role::AttentionK, "model.layers.{layer}.self_attn.k_proj.weight", "blk.{layer}.attn_k.weight", &[KeyValue, Hidden], Always, Same),
    tensor(Role::AttentionV, "model.layers.{layer}.self_attn.v_proj.weight", "blk.{layer}.attn_v.weight", &[KeyValue, Hidden], Always, Same),
    tensor(Role::AttentionOutput, "model.layers.{layer}.self_attn.o_proj.weight", "blk.{layer}.attn_output.weight", &[Hidden, Query], Always, Same),
    tensor(Role::AttentionQBias, "model.layers.{layer}.self_attn.q_proj.bias", "blk.{layer}.attn_q.bias", &[Query], QkvBias, Same),
    tensor(Role::AttentionKBias, "model.layers.{layer}.self_attn.k_proj.bias", "blk.{layer}.attn_k.bias", &[KeyValue], QkvBias, Same),
    tensor(Role::AttentionVBias, "model.layers.{layer}.self_attn.v_proj.bias", "blk.{layer}.attn_v.bias", &[KeyValue], QkvBias, Same),
    tensor(Role::AttentionQNorm, "model.layers.{layer}.self_attn.q_layernorm.norms.{expert}.weight", "blk.{layer}.attn_q_norm.weight", &[Heads, HeadDim], QkNorm, HeadNorms),
    tensor(Role::AttentionKNorm, "model.layers.{layer}.self_attn.k_layernorm.norms.{expert}.weight", "blk.{layer}.attn_k_norm.weight", &[KvHeads, HeadDim], QkNorm, HeadNorms),
    tensor(Role::FfnNorm, "model.layers.{layer}.post_attention_layernorm.weight", "blk.{layer}.ffn_norm.weight", &[Hidden], SecondNorm, Same),
    tensor(Role::FfnNormBias, "model.layers.{layer}.post_attention_layernorm.bias", "blk.{layer}.ffn_norm.bias", &[Hidden], SecondNorm, Same),
    tensor(Role::FfnGate, "model.layers.{layer}.mlp.gate_proj.weight", "blk.{layer}.ffn_gate.weight", &[Ffn, Hidden], Always, Same),
    tensor(Role::FfnUp, "model.layers.{layer}.mlp.up_proj.weight", "blk.{layer}.ffn_up.weight", &[Ffn, Hidden], Always, Same),
    tensor(Role::FfnDown, "model.layers.{layer}.mlp.down_proj.weight", "blk.{layer}.ffn_down.weight", &[Hidden, Ffn], Always, Same),
];
