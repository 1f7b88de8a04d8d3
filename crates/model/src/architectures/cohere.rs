//! Command R and Aya of Cohere: parallel blocks behind one layer norm without bias, logits multiplied by a constant; in
//! Command R+ queries and keys are normalized head by head, each head with a weight of its own.

use super::table::*;
use crate::architecture::{
    Architecture, Block, Field, GgufKey, HfKey, HfLimit, Norm, RopeStyle, Silence, TensorTemplate,
};

/// With the defaults of transformers' `CohereConfig`.
static KEYS: [HfKey; 14] = with_llama_keys([
    number(Field::Vocab, &["vocab_size"], 256_000.0),
    number(Field::Hidden, &["hidden_size"], 8192.0),
    number(Field::Ffn, &["intermediate_size"], 22528.0),
    number(Field::Layers, &["num_hidden_layers"], 40.0),
    number(Field::Heads, &["num_attention_heads"], 64.0),
    // The class computes it, whatever the key says.
    key(Field::HeadDim, &[], Silence::Nothing),
    number(Field::Context, &["max_position_embeddings"], 8192.0),
    number(Field::NormEpsilon, &["layer_norm_eps"], 1e-5),
    number(Field::RopeTheta, &["rope_theta"], 500_000.0),
    number(Field::LogitMultiplier, &["logit_scale"], 0.0625),
    always(Field::ParallelBlock, true),
    key(Field::QkNorm, &["use_qk_norm"], Silence::Flag(false)),
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
    GgufKey::RopeFreqBase,
    GgufKey::LayerNormEpsilon,
    GgufKey::LogitScale,
    GgufKey::RopeScalingNone,
];

/// Cohere.
pub static COHERE: Architecture = Architecture {
    name: "command-r",
    hf_architectures: &["CohereForCausalLM"],
    hf_model_types: &["cohere"],
    norm: Norm::Layer,
    gguf_rope_style: RopeStyle::Interleaved,
    hf_rope_style: RopeStyle::Interleaved,
    block: Block::Parallel,
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
    tensor(Role::AttentionNorm, "model.layers.{layer}.input_layernorm.weight", "blk.{layer}.attn_norm.weight", &[Hidden], Always, Same),
    tensor(Role::AttentionQ, "model.layers.{layer}.self_attn.q_proj.weight", "blk.{layer}.attn_q.weight", &[Query, Hidden], Always, Same),
    tensor(Role::AttentionK, "model.layers.{layer}.self_attn.k_proj.weight", "blk.{layer}.attn_k.weight", &[KeyValue, Hidden], Always, Same),
    tensor(Role::AttentionV, "model.layers.{layer}.self_attn.v_proj.weight", "blk.{layer}.attn_v.weight", &[KeyValue, Hidden], Always, Same),
    tensor(Role::AttentionOutput, "model.layers.{layer}.self_attn.o_proj.weight", "blk.{layer}.attn_output.weight", &[Hidden, Query], Always, Same),
    tensor(Role::AttentionQNorm, "model.layers.{layer}.self_attn.q_norm.weight", "blk.{layer}.attn_q_norm.weight", &[Heads, HeadDim], QkNorm, Same),
    tensor(Role::AttentionKNorm, "model.layers.{layer}.self_attn.k_norm.weight", "blk.{layer}.attn_k_norm.weight", &[KvHeads, HeadDim], QkNorm, Same),
    tensor(Role::FfnGate, "model.layers.{layer}.mlp.gate_proj.weight", "blk.{layer}.ffn_gate.weight", &[Ffn, Hidden], Always, Same),
    tensor(Role::FfnUp, "model.layers.{layer}.mlp.up_proj.weight", "blk.{layer}.ffn_up.weight", &[Ffn, Hidden], Always, Same),
    tensor(Role::FfnDown, "model.layers.{layer}.mlp.down_proj.weight", "blk.{layer}.ffn_down.weight", &[Hidden, Ffn], Always, Same),
];
