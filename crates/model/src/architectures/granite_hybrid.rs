//! Granite 4 hybrid of IBM: layers of Mamba-2 and of attention without positions, each with a network whose gate and up
//! projection are one matrix, or a mixture of experts with one that all tokens use; Granite's constants multiply embeddings, scores, what is added, and divide the logits.

use super::table::*;
use crate::architecture::{
    Accepted, Architecture, Field, GgufKey, HfKey, HfLimit, Layout, RopeStyle, Silence, TensorTemplate,
    Unrotated,
};

/// With the defaults of transformers' `GraniteMoeHybridConfig`. How wide a head of Mamba-2 is follows from `mamba_expand`:
/// `config/mixers.rs`.
static KEYS: [HfKey; 20] = with_llama_keys([
    number(Field::Ffn, &["shared_intermediate_size"], 1024.0),
    number(Field::AttentionMultiplier, &["attention_multiplier"], 1.0),
    number(Field::EmbeddingMultiplier, &["embedding_multiplier"], 1.0),
    number(Field::ResidualMultiplier, &["residual_multiplier"], 1.0),
    number(Field::LogitDivisor, &["logits_scaling"], 1.0),
    number(Field::MambaHeads, &["mamba_n_heads"], 128.0),
    key(Field::MambaHeadDim, &["mamba_d_head"], Silence::Nothing),
    number(Field::MambaGroups, &["mamba_n_groups"], 1.0),
    number(Field::MambaState, &["mamba_d_state"], 256.0),
    number(Field::ConvTaps, &["mamba_d_conv"], 4.0),
]);

/// The same with experts, and one that all tokens use.
static MOE_KEYS: [HfKey; 23] = with_llama_keys([
    number(Field::AttentionMultiplier, &["attention_multiplier"], 1.0),
    number(Field::EmbeddingMultiplier, &["embedding_multiplier"], 1.0),
    number(Field::ResidualMultiplier, &["residual_multiplier"], 1.0),
    number(Field::LogitDivisor, &["logits_scaling"], 1.0),
    number(Field::MambaHeads, &["mamba_n_heads"], 128.0),
    key(Field::MambaHeadDim, &["mamba_d_head"], Silence::Nothing),
    number(Field::MambaGroups, &["mamba_n_groups"], 1.0),
    number(Field::MambaState, &["mamba_d_state"], 256.0),
    number(Field::ConvTaps, &["mamba_d_conv"], 4.0),
    number(Field::Experts, &["num_local_experts"], 8.0),
    number(Field::ExpertsUsed, &["num_experts_per_tok"], 2.0),
    number(Field::SharedFfn, &["shared_intermediate_size"], 1024.0),
]);

const LIMITS: &[HfLimit] = &[
    only("attention_bias", false),
    only("mamba_conv_bias", true),
    only("mamba_proj_bias", false),
    HfLimit { key: "position_embedding_type", accepted: Accepted::Words(&["nope"]) },
    NO_HEAD_DIM,
];

const GGUF_KEYS: &[GgufKey] = &[
    GgufKey::BlockCount,
    GgufKey::ContextLength,
    GgufKey::EmbeddingLength,
    GgufKey::FeedForwardLength,
    GgufKey::HeadCount,
    GgufKey::HeadCountKvLayers,
    GgufKey::RopeFreqBase,
    GgufKey::RmsEpsilon,
    GgufKey::NoExperts,
    GgufKey::VocabSize,
    GgufKey::RopeDimensionCount,
    GgufKey::Multipliers,
    GgufKey::Mamba2,
    GgufKey::RopeNotFinetuned,
];

/// Granite 4 hybrid without experts.
pub static GRANITE_HYBRID: Architecture = Architecture {
    name: "granitehybrid",
    hf_architectures: &["GraniteMoeHybridForCausalLM"],
    hf_model_types: &["granitemoehybrid"],
    // As the converter orders rows of queries and keys, though nothing is rotated.
    gguf_rope_style: RopeStyle::Interleaved,
    unrotated: Unrotated::All,
    hf_keys: &KEYS,
    hf_limits: LIMITS,
    gguf_keys: GGUF_KEYS,
    tensors: TENSORS,
    ..USUAL
};

const MOE_GGUF_KEYS: &[GgufKey] = &[
    GgufKey::BlockCount,
    GgufKey::ContextLength,
    GgufKey::EmbeddingLength,
    GgufKey::FeedForwardLength,
    GgufKey::HeadCount,
    GgufKey::HeadCountKvLayers,
    GgufKey::RopeFreqBase,
    GgufKey::RmsEpsilon,
    GgufKey::ExpertCount,
    GgufKey::ExpertUsedCount,
    GgufKey::ExpertSharedFeedForwardLength,
    GgufKey::VocabSize,
    GgufKey::RopeDimensionCount,
    GgufKey::Multipliers,
    GgufKey::Mamba2,
    GgufKey::RopeNotFinetuned,
];

/// Granite 4 hybrid with experts.
pub static GRANITE_HYBRID_MOE: Architecture = Architecture {
    name: "granitehybrid",
    has_experts: true,
    hf_architectures: &["GraniteMoeHybridForCausalLM"],
    hf_model_types: &["granitemoehybrid"],
    gguf_rope_style: RopeStyle::Interleaved,
    unrotated: Unrotated::All,
    hf_keys: &MOE_KEYS,
    hf_limits: LIMITS,
    gguf_keys: MOE_GGUF_KEYS,
    tensors: MOE_TENSORS,
    hf_aliases: &super::granite_moe::STACKS,
    hf_woven: true,
    ..USUAL
};

#[rustfmt::skip]
const TENSORS: &[TensorTemplate] = &[
    tensor(Role::TokenEmbedding, "model.embed_tokens.weight", "token_embd.weight", &[Vocab, Hidden], Always, Same),
    tensor(Role::OutputNorm, "model.norm.weight", "output_norm.weight", &[Hidden], Always, Same),
    tensor(Role::Output, "lm_head.weight", "output.weight", &[Vocab, Hidden], UnlessTied, Same),
    tensor(Role::AttentionNorm, "model.layers.{layer}.input_layernorm.weight", "blk.{layer}.attn_norm.weight", &[Hidden], Always, Same),
    tensor(Role::StateIn, "model.layers.{layer}.mamba.in_proj.weight", "blk.{layer}.ssm_in.weight", &[MambaIn, Hidden], StateLayers, Same),
    tensor(Role::StateConv, "model.layers.{layer}.mamba.conv1d.weight", "blk.{layer}.ssm_conv1d.weight", &[MambaConv, ConvTaps], StateLayers, Conv),
    tensor(Role::StateConvBias, "model.layers.{layer}.mamba.conv1d.bias", "blk.{layer}.ssm_conv1d.bias", &[MambaConv], StateConvBias, Same),
    tensor(Role::StateTimeBias, "model.layers.{layer}.mamba.dt_bias", "blk.{layer}.ssm_dt.bias", &[MambaHeads], StateLayers, Same),
    tensor(Role::StateDecay, "model.layers.{layer}.mamba.A_log", "blk.{layer}.ssm_a", &[MambaHeads, One], StateLayers, FlatDecay),
    tensor(Role::StateSkip, "model.layers.{layer}.mamba.D", "blk.{layer}.ssm_d", &[MambaHeads, One], StateLayers, Flat),
    tensor(Role::StateNorm, "model.layers.{layer}.mamba.norm.weight", "blk.{layer}.ssm_norm.weight", &[MambaGroups, MambaGroup], StateLayers, Flat),
    tensor(Role::StateOut, "model.layers.{layer}.mamba.out_proj.weight", "blk.{layer}.ssm_out.weight", &[Hidden, MambaInner], StateLayers, Same),
    tensor(Role::AttentionQ, "model.layers.{layer}.self_attn.q_proj.weight", "blk.{layer}.attn_q.weight", &[Query, Hidden], AttentionLayers, QueryHeads),
    tensor(Role::AttentionK, "model.layers.{layer}.self_attn.k_proj.weight", "blk.{layer}.attn_k.weight", &[KeyValue, Hidden], AttentionLayers, KeyHeads),
    tensor(Role::AttentionV, "model.layers.{layer}.self_attn.v_proj.weight", "blk.{layer}.attn_v.weight", &[KeyValue, Hidden], AttentionLayers, Same),
    tensor(Role::AttentionOutput, "model.layers.{layer}.self_attn.o_proj.weight", "blk.{layer}.attn_output.weight", &[Hidden, Query], AttentionLayers, Same),
    tensor(Role::FfnNorm, "model.layers.{layer}.post_attention_layernorm.weight", "blk.{layer}.ffn_norm.weight", &[Hidden], Always, Same),
    joined(Role::FfnGateUp, "model.layers.{layer}.shared_mlp.input_linear.weight", &[GateUp, Hidden], Always),
    derived(Role::FfnGate, "blk.{layer}.ffn_gate.weight", &[Ffn, Hidden], Always, Layout::GateRows),
    derived(Role::FfnUp, "blk.{layer}.ffn_up.weight", &[Ffn, Hidden], Always, Layout::UpRows),
    tensor(Role::FfnDown, "model.layers.{layer}.shared_mlp.output_linear.weight", "blk.{layer}.ffn_down.weight", &[Hidden, Ffn], Always, Same),
];

#[rustfmt::skip]
const MOE_TENSORS: &[TensorTemplate] = &[
    tensor(Role::TokenEmbedding, "model.embed_tokens.weight", "token_embd.weight", &[Vocab, Hidden], Always, Same),
    tensor(Role::OutputNorm, "model.norm.weight", "output_norm.weight", &[Hidden], Always, Same),
    tensor(Role::Output, "lm_head.weight", "output.weight", &[Vocab, Hidden], UnlessTied, Same),
    tensor(Role::AttentionNorm, "model.layers.{layer}.input_layernorm.weight", "blk.{layer}.attn_norm.weight", &[Hidden], Always, Same),
    tensor(Role::StateIn, "model.layers.{layer}.mamba.in_proj.weight", "blk.{layer}.ssm_in.weight", &[MambaIn, Hidden], StateLayers, Same),
    tensor(Role::StateConv, "model.layers.{layer}.mamba.conv1d.weight", "blk.{layer}.ssm_conv1d.weight", &[MambaConv, ConvTaps], StateLayers, Conv),
    tensor(Role::StateConvBias, "model.layers.{layer}.mamba.conv1d.bias", "blk.{layer}.ssm_conv1d.bias", &[MambaConv], StateConvBias, Same),
    tensor(Role::StateTimeBias, "model.layers.{layer}.mamba.dt_bias", "blk.{layer}.ssm_dt.bias", &[MambaHeads], StateLayers, Same),
    tensor(Role::StateDecay, "model.layers.{layer}.mamba.A_log", "blk.{layer}.ssm_a", &[MambaHeads, One], StateLayers, FlatDecay),
    tensor(Role::StateSkip, "model.layers.{layer}.mamba.D", "blk.{layer}.ssm_d", &[MambaHeads, One], StateLayers, Flat),
    tensor(Role::StateNorm, "model.layers.{layer}.mamba.norm.weight", "blk.{layer}.ssm_norm.weight", &[MambaGroups, MambaGroup], StateLayers, Flat),
    tensor(Role::StateOut, "model.layers.{layer}.mamba.out_proj.weight", "blk.{layer}.ssm_out.weight", &[Hidden, MambaInner], StateLayers, Same),
    tensor(Role::AttentionQ, "model.layers.{layer}.self_attn.q_proj.weight", "blk.{layer}.attn_q.weight", &[Query, Hidden], AttentionLayers, QueryHeads),
    tensor(Role::AttentionK, "model.layers.{layer}.self_attn.k_proj.weight", "blk.{layer}.attn_k.weight", &[KeyValue, Hidden], AttentionLayers, KeyHeads),
    tensor(Role::AttentionV, "model.layers.{layer}.self_attn.v_proj.weight", "blk.{layer}.attn_v.weight", &[KeyValue, Hidden], AttentionLayers, Same),
    tensor(Role::AttentionOutput, "model.layers.{layer}.self_attn.o_proj.weight", "blk.{layer}.attn_output.weight", &[Hidden, Query], AttentionLayers, Same),
    tensor(Role::FfnNorm, "model.layers.{layer}.post_attention_layernorm.weight", "blk.{layer}.ffn_norm.weight", &[Hidden], Always, Same),
    tensor(Role::Router, "model.layers.{layer}.block_sparse_moe.router.layer.weight", "blk.{layer}.ffn_gate_inp.weight", &[Experts, Hidden], SparseLayers, Same),
    tensor(Role::ExpertsGate, "model.layers.{layer}.block_sparse_moe.experts.{expert}.gate_proj.weight", "blk.{layer}.ffn_gate_exps.weight", &[Experts, ExpertFfn, Hidden], SparseLayers, EachExpert),
    tensor(Role::ExpertsUp, "model.layers.{layer}.block_sparse_moe.experts.{expert}.up_proj.weight", "blk.{layer}.ffn_up_exps.weight", &[Experts, ExpertFfn, Hidden], SparseLayers, EachExpert),
    tensor(Role::ExpertsDown, "model.layers.{layer}.block_sparse_moe.experts.{expert}.down_proj.weight", "blk.{layer}.ffn_down_exps.weight", &[Experts, Hidden, ExpertFfn], SparseLayers, EachExpert),
    tensor(Role::SharedGate, "model.layers.{layer}.shared_mlp.gate_proj.weight", "blk.{layer}.ffn_gate_shexp.weight", &[SharedFfn, Hidden], SharedExpert, Same),
    tensor(Role::SharedUp, "model.layers.{layer}.shared_mlp.up_proj.weight", "blk.{layer}.ffn_up_shexp.weight", &[SharedFfn, Hidden], SharedExpert, Same),
    tensor(Role::SharedDown, "model.layers.{layer}.shared_mlp.down_proj.weight", "blk.{layer}.ffn_down_shexp.weight", &[Hidden, SharedFfn], SharedExpert, Same),
];
