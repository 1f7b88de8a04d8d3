//! Mamba-2: layers of a selective scan with one norm in front, and nothing else.

use super::table::*;
use crate::architecture::{
    Architecture, Field, GgufKey, HfKey, HfLimit, Hybrid, Silence, TensorTemplate, Unrotated,
};

/// With the defaults of transformers' `Mamba2Config`. There are no heads of attention, no network and no largest position:
/// what is said of them here is what their absence amounts to, and the context that llama.cpp's converter writes.
static KEYS: [HfKey; 16] = with_llama_keys([
    number(Field::Vocab, &["vocab_size"], 32768.0),
    number(Field::Layers, &["num_hidden_layers"], 64.0),
    key(Field::Heads, &[], Silence::Number(1.0)),
    key(Field::KvHeads, &[], Silence::Number(1.0)),
    key(Field::HeadDim, &[], Silence::Nothing),
    key(Field::Ffn, &[], Silence::Number(1.0)),
    key(Field::Context, &[], Silence::Number(1_048_576.0)),
    number(Field::NormEpsilon, &["layer_norm_epsilon"], 1e-5),
    key(Field::RopeTheta, &[], Silence::Number(10_000.0)),
    number(Field::MambaHeads, &["num_heads"], 128.0),
    number(Field::MambaHeadDim, &["head_dim"], 64.0),
    number(Field::MambaGroups, &["n_groups"], 8.0),
    number(Field::MambaState, &["state_size"], 128.0),
    number(Field::ConvTaps, &["conv_kernel"], 4.0),
]);

const LIMITS: &[HfLimit] = &[only("use_bias", false), only("use_conv_bias", true)];

const GGUF_KEYS: &[GgufKey] = &[
    GgufKey::ContextLength,
    GgufKey::EmbeddingLength,
    GgufKey::NoAttention,
    GgufKey::BlockCount,
    GgufKey::Mamba2,
    GgufKey::RmsEpsilon,
];

/// Mamba-2.
pub static MAMBA2: Architecture = Architecture {
    name: "mamba2",
    hf_architectures: &["Mamba2ForCausalLM"],
    hf_model_types: &["mamba2"],
    hf_prefix: "backbone.",
    unrotated: Unrotated::All,
    hybrid: Hybrid::Alone,
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
];
