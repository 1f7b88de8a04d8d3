//! Nemotron-H of NVIDIA (Nemotron Nano 2): layers of Mamba-2, of attention without positions and of a plain network with
//! the square of ReLU, each with one norm in front.

use super::table::*;
use crate::architecture::{
    Accepted, Activation, Architecture, Field, GgufKey, HfKey, HfLimit, RopeStyle, Silence, TensorTemplate,
    Unrotated,
};

/// With the defaults of transformers' `NemotronHConfig`. What each layer is, is said by `layers_block_type` or
/// `hybrid_override_pattern`: `config/mixers.rs`.
static KEYS: [HfKey; 16] = with_llama_keys([
    number(Field::Vocab, &["vocab_size"], 131_072.0),
    key(Field::Layers, &["num_hidden_layers"], Silence::Number(1.0)),
    kv_heads(8.0),
    number(Field::HeadDim, &["head_dim"], 128.0),
    number(Field::Ffn, &["intermediate_size"], 21504.0),
    number(Field::Context, &["max_position_embeddings"], 4096.0),
    number(Field::NormEpsilon, &["layer_norm_epsilon"], 1e-5),
    key(Field::Activation, &["mlp_hidden_act"], Silence::Word("relu2")),
    key(Field::RopeTheta, &[], Silence::Number(10_000.0)),
    number(Field::MambaHeads, &["mamba_num_heads"], 128.0),
    number(Field::MambaHeadDim, &["mamba_head_dim"], 64.0),
    number(Field::MambaGroups, &["mamba_n_groups", "n_groups"], 8.0).written("n_groups"),
    number(Field::MambaState, &["ssm_state_size"], 128.0),
    number(Field::ConvTaps, &["mamba_d_conv", "conv_kernel"], 4.0).written("conv_kernel"),
]);

const LIMITS: &[HfLimit] = &[
    only("attention_bias", false),
    only("mlp_bias", false),
    only("use_bias", false),
    only("mamba_proj_bias", false),
    only("use_conv_bias", true),
    only("mamba_conv_bias", true),
    HfLimit { key: "mamba_hidden_act", accepted: Accepted::Words(&["silu"]) },
];

const GGUF_KEYS: &[GgufKey] = &[
    GgufKey::BlockCount,
    GgufKey::ContextLength,
    GgufKey::EmbeddingLength,
    GgufKey::FeedForwardLengthLayers,
    GgufKey::HeadCount,
    GgufKey::HeadCountKvLayers,
    GgufKey::RmsEpsilon,
    GgufKey::KeyValueLength,
    GgufKey::VocabSize,
    GgufKey::Mamba2,
    GgufKey::NemotronH,
];

/// Nemotron-H without experts.
pub static NEMOTRON_H: Architecture = Architecture {
    name: "nemotron_h",
    hf_architectures: &["NemotronHForCausalLM"],
    hf_model_types: &["nemotron_h"],
    hf_prefix: "backbone.",
    // As the converter orders rows of queries and keys, though nothing is rotated.
    gguf_rope_style: RopeStyle::Interleaved,
    unrotated: Unrotated::All,
    activations: &[Activation::ReluSquared],
    gated: false,
    hf_keys: &KEYS,
    hf_limits: LIMITS,
    gguf_keys: GGUF_KEYS,
    tensors: TENSORS,
    ..USUAL
};

#[rustfmt::skip]
const TENSORS: &[TensorTemplate] = &[
    tensor(Role::TokenEmbedding, "backbone.embeddings.weight", "token_embd.weight", &[Vocab, Hidden], Always, Same),
    tensor(Role::OutputNorm, "backbone.norm_f.weight", "output_norm.weight", &[Hidden], Always, Same),
    tensor(Role::Output, "lm_head.weight", "output.weight", &[Vocab, Hidden], UnlessTied, Same),
    tensor(Role::AttentionNorm, "backbone.layers.{layer}.norm.weight", "blk.{layer}.attn_norm.weight", &[Hidden], Always, Same),
    tensor(Role::StateIn, "backbone.layers.{layer}.mixer.in_proj.weight", "blk.{layer}.ssm_in.weight", &[MambaIn, Hidden], StateLayers, Same),
    tensor(Role::StateConv, "backbone.layers.{layer}.mixer.conv1d.weight", "blk.{layer}.ssm_conv1d.weight", &[MambaConv, ConvTaps], StateLayers, Conv),
    tensor(Role::StateConvBias, "backbone.layers.{layer}.mixer.conv1d.bias", "blk.{layer}.ssm_conv1d.bias", &[MambaConv], StateConvBias, Same),
    tensor(Role::StateTimeBias, "backbone.layers.{layer}.mixer.dt_bias", "blk.{layer}.ssm_dt.bias", &[MambaHeads], StateLayers, Same),
    tensor(Role::StateDecay, "backbone.layers.{layer}.mixer.A_log", "blk.{layer}.ssm_a", &[MambaHeads, One], StateLayers, FlatDecay),
    tensor(Role::StateSkip, "backbone.layers.{layer}.mixer.D", "blk.{layer}.ssm_d", &[MambaHeads, One], StateLayers, Flat),
    tensor(Role::StateNorm, "backbone.layers.{layer}.mixer.norm.weight", "blk.{layer}.ssm_norm.weight", &[MambaGroups, MambaGroup], StateLayers, Flat),
    tensor(Role::StateOut, "backbone.layers.{layer}.mixer.out_proj.weight", "blk.{layer}.ssm_out.weight", &[Hidden, MambaInner], StateLayers, Same),
    tensor(Role::AttentionQ, "backbone.layers.{layer}.mixer.q_proj.weight", "blk.{layer}.attn_q.weight", &[Query, Hidden], AttentionLayers, QueryHeads),
    tensor(Role::AttentionK, "backbone.layers.{layer}.mixer.k_proj.weight", "blk.{layer}.attn_k.weight", &[KeyValue, Hidden], AttentionLayers, KeyHeads),
    tensor(Role::AttentionV, "backbone.layers.{layer}.mixer.v_proj.weight", "blk.{layer}.attn_v.weight", &[KeyValue, Hidden], AttentionLayers, Same),
    tensor(Role::AttentionOutput, "backbone.layers.{layer}.mixer.o_proj.weight", "blk.{layer}.attn_output.weight", &[Hidden, Query], AttentionLayers, Same),
    tensor(Role::FfnUp, "backbone.layers.{layer}.mixer.up_proj.weight", "blk.{layer}.ffn_up.weight", &[Ffn, Hidden], NetworkLayers, Same),
    tensor(Role::FfnDown, "backbone.layers.{layer}.mixer.down_proj.weight", "blk.{layer}.ffn_down.weight", &[Hidden, Ffn], NetworkLayers, Same),
];
