//! GPT-2: learned positions, layer norms, one matrix for queries, keys and values; Hugging Face stores its
//! matrices transposed.

use super::table::*;
use crate::architecture::{
    Activation, Architecture, Field, GgufKey, HfKey, Norm, Position, Silence, TensorTemplate,
};

// Of two spellings the general one counts: transformers assigns it last.
static KEYS: [HfKey; 15] = [
    number(Field::Vocab, &["vocab_size"], 50257.0),
    number(Field::Hidden, &["hidden_size", "n_embd"], 768.0).written("n_embd"),
    number(Field::Layers, &["num_hidden_layers", "n_layer"], 12.0).written("n_layer"),
    number(Field::Heads, &["num_attention_heads", "n_head"], 12.0).written("n_head"),
    key(Field::KvHeads, &[], Silence::Times(1, Field::Heads)),
    key(Field::HeadDim, &[], Silence::Nothing),
    key(Field::Ffn, &["n_inner"], Silence::Times(4, Field::Hidden)),
    number(Field::Context, &["max_position_embeddings", "n_positions", "n_ctx"], 1024.0)
        .written("n_positions"),
    number(Field::NormEpsilon, &["layer_norm_epsilon"], 1e-5),
    key(Field::Activation, &["activation_function"], Silence::Word("gelu_new")),
    key(Field::ScaledAttention, &["scale_attn_weights"], Silence::Flag(true)),
    key(Field::ScaledByLayer, &["scale_attn_by_inverse_layer_idx"], Silence::Flag(false)),
    always(Field::QkvBias, true),
    always(Field::OutputBias, true),
    always(Field::MlpBias, true),
];

/// GPT-2.
pub static GPT2: Architecture = Architecture {
    name: "gpt2",
    hf_architectures: &["GPT2LMHeadModel"],
    hf_model_types: &["gpt2"],
    hf_prefix: "transformer.",
    norm: Norm::Layer,
    position: Position::Learned { offset: 0 },
    activations: &[Activation::GeluTanh, Activation::Gelu, Activation::Relu, Activation::Silu],
    gated: false,
    tied_by_default: true,
    hf_keys: &KEYS,
    hf_limits: &[only("add_cross_attention", false)],
    gguf_keys: &[
        GgufKey::BlockCount,
        GgufKey::ContextLength,
        GgufKey::EmbeddingLength,
        GgufKey::FeedForwardLength,
        GgufKey::HeadCount,
        GgufKey::LayerNormEpsilon,
    ],
    tensors: TENSORS,
    ..USUAL
};

#[rustfmt::skip]
const TENSORS: &[TensorTemplate] = &[
    tensor(Role::TokenEmbedding, "transformer.wte.weight", "token_embd.weight", &[Vocab, Hidden], Always, Same),
    tensor(Role::PositionEmbedding, "transformer.wpe.weight", "position_embd.weight", &[Positions, Hidden], Always, Same),
    tensor(Role::OutputNorm, "transformer.ln_f.weight", "output_norm.weight", &[Hidden], Always, Same),
    tensor(Role::OutputNormBias, "transformer.ln_f.bias", "output_norm.bias", &[Hidden], Always, Same),
    tensor(Role::Output, "lm_head.weight", "output.weight", &[Vocab, Hidden], UnlessTied, Same),
    tensor(Role::AttentionNorm, "transformer.h.{layer}.ln_1.weight", "blk.{layer}.attn_norm.weight", &[Hidden], Always, Same),
    tensor(Role::AttentionNormBias, "transformer.h.{layer}.ln_1.bias", "blk.{layer}.attn_norm.bias", &[Hidden], Always, Same),
    tensor(Role::AttentionQkv, "transformer.h.{layer}.attn.c_attn.weight", "blk.{layer}.attn_qkv.weight", &[Qkv, Hidden], Always, Transposed),
    tensor(Role::AttentionQkvBias, "transformer.h.{layer}.attn.c_attn.bias", "blk.{layer}.attn_qkv.bias", &[Qkv], QkvBias, Same),
    tensor(Role::AttentionOutput, "transformer.h.{layer}.attn.c_proj.weight", "blk.{layer}.attn_output.weight", &[Hidden, Query], Always, Transposed),
    tensor(Role::AttentionOutputBias, "transformer.h.{layer}.attn.c_proj.bias", "blk.{layer}.attn_output.bias", &[Hidden], OutputBias, Same),
    tensor(Role::FfnNorm, "transformer.h.{layer}.ln_2.weight", "blk.{layer}.ffn_norm.weight", &[Hidden], Always, Same),
    tensor(Role::FfnNormBias, "transformer.h.{layer}.ln_2.bias", "blk.{layer}.ffn_norm.bias", &[Hidden], Always, Same),
    tensor(Role::FfnUp, "transformer.h.{layer}.mlp.c_fc.weight", "blk.{layer}.ffn_up.weight", &[Ffn, Hidden], Always, Transposed),
    tensor(Role::FfnUpBias, "transformer.h.{layer}.mlp.c_fc.bias", "blk.{layer}.ffn_up.bias", &[Ffn], FfnBias, Same),
    tensor(Role::FfnDown, "transformer.h.{layer}.mlp.c_proj.weight", "blk.{layer}.ffn_down.weight", &[Hidden, Ffn], Always, Transposed),
    tensor(Role::FfnDownBias, "transformer.h.{layer}.mlp.c_proj.bias", "blk.{layer}.ffn_down.bias", &[Hidden], FfnBias, Same),
];
