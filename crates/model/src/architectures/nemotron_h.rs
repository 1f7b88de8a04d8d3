//! Nemotron-H of NVIDIA (Nemotron Nano 2): layers of Mamba-2, of attention without positions and of a plain network with
//! the square of ReLU, each with one norm in front; in Nemotron 3 mixtures of such networks are in the network's place. The
//! experts of Nemotron 3 Super read and make vectors that are narrower than the residual stream.

use super::table::*;
use crate::architecture::{
    Accepted, Activation, Alias, Architecture, Field, GgufKey, HfKey, HfLimit, Hybrid, MixtureRules,
    RopeStyle, Scores, Silence, TensorTemplate, Unrotated,
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

/// The same with experts. A layer's network is then a mixture: `config/mixers.rs` finds which class it is by the layers.
static MOE_KEYS: [HfKey; 26] = with_llama_keys([
    number(Field::Vocab, &["vocab_size"], 131_072.0),
    key(Field::Layers, &["num_hidden_layers"], Silence::Number(1.0)),
    kv_heads(8.0),
    number(Field::HeadDim, &["head_dim"], 128.0),
    number(Field::Ffn, &["moe_intermediate_size"], 7688.0).unwritten(),
    number(Field::Context, &["max_position_embeddings"], 4096.0),
    number(Field::NormEpsilon, &["layer_norm_epsilon"], 1e-5),
    key(Field::Activation, &["mlp_hidden_act"], Silence::Word("relu2")),
    key(Field::RopeTheta, &[], Silence::Number(10_000.0)),
    number(Field::MambaHeads, &["mamba_num_heads"], 128.0),
    number(Field::MambaHeadDim, &["mamba_head_dim"], 64.0),
    number(Field::MambaGroups, &["mamba_n_groups", "n_groups"], 8.0).written("n_groups"),
    number(Field::MambaState, &["ssm_state_size"], 128.0),
    number(Field::ConvTaps, &["mamba_d_conv", "conv_kernel"], 4.0).written("conv_kernel"),
    number(Field::Experts, &["num_local_experts", "n_routed_experts"], 8.0).written("n_routed_experts"),
    number(Field::ExpertsUsed, &["num_experts_per_tok"], 2.0),
    number(Field::ExpertFfn, &["moe_intermediate_size"], 7688.0),
    key(Field::ExpertLatent, &["moe_latent_size"], Silence::Nothing),
    number(Field::SharedFfn, &["moe_shared_expert_intermediate_size"], 7688.0),
    key(Field::NormTopk, &["norm_topk_prob"], Silence::Flag(true)),
    number(Field::ExpertScale, &["routed_scaling_factor"], 1.0),
    number(Field::ExpertGroups, &["n_group"], 1.0),
    number(Field::ExpertGroupsUsed, &["topk_group"], 1.0),
    number(Field::SharedExperts, &["n_shared_experts"], 1.0).unwritten(),
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
    hybrid: Hybrid::Single,
    activations: &[Activation::ReluSquared],
    gated: false,
    hf_keys: &KEYS,
    hf_limits: LIMITS,
    gguf_keys: GGUF_KEYS,
    tensors: TENSORS,
    ..USUAL
};

const MOE_LIMITS: &[HfLimit] = &[
    only("attention_bias", false),
    only("mlp_bias", false),
    only("use_bias", false),
    only("mamba_proj_bias", false),
    only("use_conv_bias", true),
    only("mamba_conv_bias", true),
    HfLimit { key: "mamba_hidden_act", accepted: Accepted::Words(&["silu"]) },
    // The widths are said of one shared expert.
    HfLimit { key: "n_shared_experts", accepted: Accepted::Number(1.0) },
];

const MOE_GGUF_KEYS: &[GgufKey] = &[
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
    GgufKey::ExpertCount,
    GgufKey::ExpertUsedCount,
    GgufKey::ExpertGroups,
    GgufKey::ExpertFeedForwardLength,
    GgufKey::MoeLatentSize,
    GgufKey::ExpertSharedFeedForwardLength,
    GgufKey::ExpertSharedCountOne,
    GgufKey::ExpertWeightsNorm,
    GgufKey::ExpertWeightsScale,
];

/// Nemotron-H with experts (Nemotron 3 Nano and Super).
pub static NEMOTRON_H_MOE: Architecture = Architecture {
    name: "nemotron_h_moe",
    has_experts: true,
    hf_architectures: &["NemotronHForCausalLM"],
    hf_model_types: &["nemotron_h"],
    hf_prefix: "backbone.",
    gguf_rope_style: RopeStyle::Interleaved,
    unrotated: Unrotated::All,
    hybrid: Hybrid::Single,
    activations: &[Activation::ReluSquared],
    gated: false,
    mixture: MixtureRules { scores: Scores::Sigmoid, choice_bias: true, ..MixtureRules::USUAL },
    hf_keys: &MOE_KEYS,
    hf_limits: MOE_LIMITS,
    gguf_keys: MOE_GGUF_KEYS,
    tensors: MOE_TENSORS,
    hf_aliases: &STACKS,
    ..USUAL
};

/// The experts as transformers 5 has them in memory.
static STACKS: [Alias; 2] = [
    stacked(Role::ExpertsUp, "backbone.layers.{layer}.mixer.experts.up_proj", 1, 0),
    stacked(Role::ExpertsDown, "backbone.layers.{layer}.mixer.experts.down_proj", 1, 0),
];

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

#[rustfmt::skip]
const MOE_TENSORS: &[TensorTemplate] = &[
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
    tensor(Role::Router, "backbone.layers.{layer}.mixer.gate.weight", "blk.{layer}.ffn_gate_inp.weight", &[Experts, Hidden], SparseLayers, Same),
    tensor(Role::ChoiceBias, "backbone.layers.{layer}.mixer.gate.e_score_correction_bias", "blk.{layer}.exp_probs_b.bias", &[Experts], ChoiceBias, Same),
    tensor(Role::ExpertsIn, "backbone.layers.{layer}.mixer.fc1_latent_proj.weight", "blk.{layer}.ffn_latent_down.weight", &[ExpertHidden, Hidden], ExpertLatent, Same),
    tensor(Role::ExpertsUp, "backbone.layers.{layer}.mixer.experts.{expert}.up_proj.weight", "blk.{layer}.ffn_up_exps.weight", &[Experts, ExpertFfn, ExpertHidden], SparseLayers, EachExpert),
    tensor(Role::ExpertsDown, "backbone.layers.{layer}.mixer.experts.{expert}.down_proj.weight", "blk.{layer}.ffn_down_exps.weight", &[Experts, ExpertHidden, ExpertFfn], SparseLayers, EachExpert),
    tensor(Role::ExpertsOut, "backbone.layers.{layer}.mixer.fc2_latent_proj.weight", "blk.{layer}.ffn_latent_up.weight", &[Hidden, ExpertHidden], ExpertLatent, Same),
    tensor(Role::SharedUp, "backbone.layers.{layer}.mixer.shared_experts.up_proj.weight", "blk.{layer}.ffn_up_shexp.weight", &[SharedFfn, Hidden], SharedExpert, Same),
    tensor(Role::SharedDown, "backbone.layers.{layer}.mixer.shared_experts.down_proj.weight", "blk.{layer}.ffn_down_shexp.weight", &[Hidden, SharedFfn], SharedExpert, Same),
];
