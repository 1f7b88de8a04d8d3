//! Falcon-H1: attention and Mamba-2 read the same input in each layer, and both results are added; the outputs of single
//! layers are multiplied with numbers of the configuration, which GGUF has in the weights.

use super::table::*;
use crate::architecture::{
    Accepted, Architecture, Field, GgufKey, HfKey, HfLimit, Hybrid, Silence, TensorTemplate,
};

/// With the defaults of transformers' `FalconH1Config`. Multipliers of single layers are read in `config/multipliers.rs`,
/// the width of Mamba-2 in `config/mixers.rs`.
static KEYS: [HfKey; 20] = with_llama_keys([
    number(Field::Vocab, &["vocab_size"], 128_000.0),
    kv_heads(8.0),
    number(Field::Ffn, &["intermediate_size"], 14336.0),
    number(Field::Context, &["max_position_embeddings"], 8192.0),
    number(Field::NormEpsilon, &["rms_norm_eps"], 1e-5),
    key(Field::QkvBias, &["attention_bias"], Silence::Flag(false)),
    key(Field::OutputBias, &["attention_bias"], Silence::Flag(false)),
    key(Field::EmbeddingMultiplier, &["embedding_multiplier"], Silence::Number(1.0)),
    key(Field::LogitMultiplier, &["lm_head_multiplier"], Silence::Number(1.0)),
    number(Field::MambaHeads, &["mamba_n_heads"], 128.0),
    key(Field::MambaHeadDim, &["mamba_d_head"], Silence::Nothing),
    number(Field::MambaGroups, &["mamba_n_groups"], 1.0),
    number(Field::MambaState, &["mamba_d_state"], 256.0),
    number(Field::ConvTaps, &["mamba_d_conv"], 4.0),
]);

const LIMITS: &[HfLimit] = &[
    only("attention_bias", false),
    only("mlp_bias", false),
    only("projectors_bias", false),
    only("mamba_proj_bias", false),
    only("mamba_conv_bias", true),
    HfLimit { key: "hidden_act", accepted: Accepted::Words(&["silu"]) },
];

const GGUF_KEYS: &[GgufKey] = &[
    GgufKey::ContextLength,
    GgufKey::EmbeddingLength,
    GgufKey::FeedForwardLength,
    GgufKey::HeadCount,
    GgufKey::BlockCount,
    GgufKey::Mamba2,
    GgufKey::RmsEpsilon,
    GgufKey::VocabSize,
    GgufKey::HeadCountKv,
    GgufKey::KeyValueLength,
    GgufKey::RopeFreqBase,
];

/// Falcon-H1.
pub static FALCON_H1: Architecture = Architecture {
    name: "falcon-h1",
    hf_architectures: &["FalconH1ForCausalLM"],
    hf_model_types: &["falcon_h1"],
    hybrid: Hybrid::Beside,
    hf_keys: &KEYS,
    hf_limits: LIMITS,
    gguf_keys: GGUF_KEYS,
    tensors: TENSORS,
    ..USUAL
};

#[rustfmt::skip]
const TENSORS: &[TensorTemplate] = &[
    tensor(Role::TokenEmbedding, "model.embed_tokens.weight", "token_embd.weight", &[Vocab, Hidden], Always, Multiplied),
    tensor(Role::OutputNorm, "model.final_layernorm.weight", "output_norm.weight", &[Hidden], Always, Same),
    tensor(Role::Output, "lm_head.weight", "output.weight", &[Vocab, Hidden], UnlessTied, Multiplied),
    tensor(Role::AttentionNorm, "model.layers.{layer}.input_layernorm.weight", "blk.{layer}.attn_norm.weight", &[Hidden], Always, Same),
    tensor(Role::StateIn, "model.layers.{layer}.mamba.in_proj.weight", "blk.{layer}.ssm_in.weight", &[MambaIn, Hidden], Always, Multiplied),
    tensor(Role::StateConv, "model.layers.{layer}.mamba.conv1d.weight", "blk.{layer}.ssm_conv1d.weight", &[MambaConv, ConvTaps], Always, Conv),
    tensor(Role::StateConvBias, "model.layers.{layer}.mamba.conv1d.bias", "blk.{layer}.ssm_conv1d.bias", &[MambaConv], StateConvBias, Same),
    tensor(Role::StateTimeBias, "model.layers.{layer}.mamba.dt_bias", "blk.{layer}.ssm_dt.bias", &[MambaHeads], Always, Same),
    tensor(Role::StateDecay, "model.layers.{layer}.mamba.A_log", "blk.{layer}.ssm_a", &[MambaHeads, One], Always, FlatDecay),
    tensor(Role::StateSkip, "model.layers.{layer}.mamba.D", "blk.{layer}.ssm_d", &[MambaHeads, One], Always, Flat),
    tensor(Role::StateNorm, "model.layers.{layer}.mamba.norm.weight", "blk.{layer}.ssm_norm.weight", &[MambaGroups, MambaGroup], StateNorm, Flat),
    tensor(Role::StateOut, "model.layers.{layer}.mamba.out_proj.weight", "blk.{layer}.ssm_out.weight", &[Hidden, MambaInner], Always, Multiplied),
    tensor(Role::AttentionQ, "model.layers.{layer}.self_attn.q_proj.weight", "blk.{layer}.attn_q.weight", &[Query, Hidden], Always, Multiplied),
    tensor(Role::AttentionK, "model.layers.{layer}.self_attn.k_proj.weight", "blk.{layer}.attn_k.weight", &[KeyValue, Hidden], Always, Multiplied),
    tensor(Role::AttentionV, "model.layers.{layer}.self_attn.v_proj.weight", "blk.{layer}.attn_v.weight", &[KeyValue, Hidden], Always, Multiplied),
    tensor(Role::AttentionOutput, "model.layers.{layer}.self_attn.o_proj.weight", "blk.{layer}.attn_output.weight", &[Hidden, Query], Always, Multiplied),
    tensor(Role::FfnNorm, "model.layers.{layer}.pre_ff_layernorm.weight", "blk.{layer}.ffn_norm", &[Hidden], Always, Same),
    tensor(Role::FfnGate, "model.layers.{layer}.feed_forward.gate_proj.weight", "blk.{layer}.ffn_gate.weight", &[Ffn, Hidden], Always, Multiplied),
    tensor(Role::FfnUp, "model.layers.{layer}.feed_forward.up_proj.weight", "blk.{layer}.ffn_up.weight", &[Ffn, Hidden], Always, Same),
    tensor(Role::FfnDown, "model.layers.{layer}.feed_forward.down_proj.weight", "blk.{layer}.ffn_down.weight", &[Hidden, Ffn], Always, Multiplied),
];
