//! GPT-NeoX and Pythia: queries, keys and values of one head side by side in one matrix, a part of each head
//! rotated, parallel blocks with two norms (or sequential ones).

use super::table::*;
use crate::architecture::{
    Activation, Architecture, Block, Field, GgufKey, HfKey, Norm, Silence, TensorTemplate,
};

// Outside of `rope_parameters`, transformers reads the base and the part of each head by these names alone.
static KEYS: [HfKey; 16] = [
    number(Field::Vocab, &["vocab_size"], 50432.0),
    number(Field::Hidden, &["hidden_size"], 6144.0),
    number(Field::Layers, &["num_hidden_layers"], 44.0),
    number(Field::Heads, &["num_attention_heads"], 64.0),
    key(Field::KvHeads, &[], Silence::Times(1, Field::Heads)),
    key(Field::HeadDim, &[], Silence::Nothing),
    number(Field::Ffn, &["intermediate_size"], 24576.0),
    number(Field::Context, &["max_position_embeddings"], 2048.0),
    number(Field::NormEpsilon, &["layer_norm_eps"], 1e-5),
    key(Field::Activation, &["hidden_act"], Silence::Word("gelu")),
    number(Field::RopeTheta, &["rotary_emb_base"], 10_000.0),
    number(Field::PartialRotary, &["rotary_pct"], 0.25),
    key(Field::QkvBias, &["attention_bias"], Silence::Flag(true)),
    key(Field::OutputBias, &["attention_bias"], Silence::Flag(true)),
    always(Field::MlpBias, true),
    key(Field::ParallelBlock, &["use_parallel_residual"], Silence::Flag(true)),
];

/// GPT-NeoX and Pythia.
pub static GPT_NEOX: Architecture = Architecture {
    name: "gptneox",
    hf_architectures: &["GPTNeoXForCausalLM"],
    hf_model_types: &["gpt_neox"],
    hf_prefix: "gpt_neox.",
    norm: Norm::Layer,
    block: Block::Parallel,
    activations: &[Activation::Gelu, Activation::GeluTanh, Activation::Relu, Activation::Silu],
    gated: false,
    hf_keys: &KEYS,
    hf_limits: &[NO_HEAD_DIM],
    gguf_keys: &[
        GgufKey::ContextLength,
        GgufKey::EmbeddingLength,
        GgufKey::BlockCount,
        GgufKey::FeedForwardLength,
        GgufKey::RopeDimensionCount,
        GgufKey::HeadCount,
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
    tensor(Role::TokenEmbedding, "gpt_neox.embed_in.weight", "token_embd.weight", &[Vocab, Hidden], Always, Same),
    tensor(Role::OutputNorm, "gpt_neox.final_layer_norm.weight", "output_norm.weight", &[Hidden], Always, Same),
    tensor(Role::OutputNormBias, "gpt_neox.final_layer_norm.bias", "output_norm.bias", &[Hidden], Always, Same),
    tensor(Role::Output, "embed_out.weight", "output.weight", &[Vocab, Hidden], UnlessTied, Same),
    tensor(Role::AttentionNorm, "gpt_neox.layers.{layer}.input_layernorm.weight", "blk.{layer}.attn_norm.weight", &[Hidden], Always, Same),
    tensor(Role::AttentionNormBias, "gpt_neox.layers.{layer}.input_layernorm.bias", "blk.{layer}.attn_norm.bias", &[Hidden], Always, Same),
    tensor(Role::AttentionQkv, "gpt_neox.layers.{layer}.attention.query_key_value.weight", "blk.{layer}.attn_qkv.weight", &[Qkv, Hidden], Always, QkvByHead),
    tensor(Role::AttentionQkvBias, "gpt_neox.layers.{layer}.attention.query_key_value.bias", "blk.{layer}.attn_qkv.bias", &[Qkv], QkvBias, QkvByHead),
    tensor(Role::AttentionOutput, "gpt_neox.layers.{layer}.attention.dense.weight", "blk.{layer}.attn_output.weight", &[Hidden, Query], Always, Same),
    tensor(Role::AttentionOutputBias, "gpt_neox.layers.{layer}.attention.dense.bias", "blk.{layer}.attn_output.bias", &[Hidden], OutputBias, Same),
    tensor(Role::FfnNorm, "gpt_neox.layers.{layer}.post_attention_layernorm.weight", "blk.{layer}.ffn_norm.weight", &[Hidden], Always, Same),
    tensor(Role::FfnNormBias, "gpt_neox.layers.{layer}.post_attention_layernorm.bias", "blk.{layer}.ffn_norm.bias", &[Hidden], Always, Same),
    tensor(Role::FfnUp, "gpt_neox.layers.{layer}.mlp.dense_h_to_4h.weight", "blk.{layer}.ffn_up.weight", &[Ffn, Hidden], Always, Same),
    tensor(Role::FfnUpBias, "gpt_neox.layers.{layer}.mlp.dense_h_to_4h.bias", "blk.{layer}.ffn_up.bias", &[Ffn], FfnBias, Same),
    tensor(Role::FfnDown, "gpt_neox.layers.{layer}.mlp.dense_4h_to_h.weight", "blk.{layer}.ffn_down.weight", &[Hidden, Ffn], Always, Same),
    tensor(Role::FfnDownBias, "gpt_neox.layers.{layer}.mlp.dense_4h_to_h.bias", "blk.{layer}.ffn_down.bias", &[Hidden], FfnBias, Same),
];
