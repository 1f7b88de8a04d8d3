//! Phi-3.5-MoE of Microsoft: layer norms and biases, and two experts for each token, chosen and weighted one after the
//! other.

use super::table::*;
use crate::architecture::{
    Alias, AliasLayout, Architecture, Field, GgufKey, HfKey, HfLimit, MixtureRules, Norm, Scores, Silence,
    TensorTemplate,
};

/// With the defaults of transformers' `PhimoeConfig`.
static KEYS: [HfKey; 18] = with_llama_keys([
    number(Field::Vocab, &["vocab_size"], 32064.0),
    number(Field::Ffn, &["intermediate_size"], 6400.0),
    number(Field::KvHeads, &["num_key_value_heads"], 8.0),
    number(Field::Context, &["max_position_embeddings"], 131_072.0),
    number(Field::NormEpsilon, &["rms_norm_eps"], 1e-5),
    key(Field::SlidingWindow, &["sliding_window"], Silence::Nothing),
    key(Field::QkvBias, &["attention_bias"], Silence::Flag(false)),
    key(Field::OutputBias, &["attention_bias"], Silence::Flag(false)),
    number(Field::Experts, &["num_local_experts"], 16.0),
    number(Field::ExpertsUsed, &["num_experts_per_tok"], 2.0),
    number(Field::RouterJitter, &["router_jitter_noise"], 0.01),
    always(Field::NormTopk, false),
]);

/// All files have a bias of the head.
const LIMITS: &[HfLimit] = &[only("lm_head_bias", true)];

/// The epsilon has the name that other norms' has.
const GGUF_KEYS: &[GgufKey] = &[
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
    GgufKey::ExpertUsedCount,
    GgufKey::ExpertCount,
    GgufKey::RopeAttentionFactor,
];

/// In transformers 5's layout.
static ALIASES: [Alias; 4] = [
    Alias { role: Role::Router, name: "model.layers.{layer}.mlp.router.weight", layout: AliasLayout::Same },
    FUSED_EXPERTS[0],
    FUSED_EXPERTS[1],
    FUSED_EXPERTS[2],
];

/// Phi-3.5-MoE.
pub static PHIMOE: Architecture = Architecture {
    name: "phimoe",
    has_experts: true,
    hf_architectures: &["PhiMoEForCausalLM", "PhimoeForCausalLM"],
    hf_model_types: &["phimoe"],
    norm: Norm::Layer,
    mixture: MixtureRules {
        scores: Scores::SparseMixer { jitter: 0.01 },
        normalized: false,
        ..MixtureRules::USUAL
    },
    hf_keys: &KEYS,
    hf_limits: LIMITS,
    gguf_keys: GGUF_KEYS,
    tensors: TENSORS,
    hf_aliases: &ALIASES,
    ..USUAL
};

#[rustfmt::skip]
const TENSORS: &[TensorTemplate] = &[
    tensor(Role::TokenEmbedding, "model.embed_tokens.weight", "token_embd.weight", &[Vocab, Hidden], Always, Same),
    tensor(Role::OutputNorm, "model.norm.weight", "output_norm.weight", &[Hidden], Always, Same),
    tensor(Role::OutputNormBias, "model.norm.bias", "output_norm.bias", &[Hidden], Always, Same),
    tensor(Role::Output, "lm_head.weight", "output.weight", &[Vocab, Hidden], UnlessTied, Same),
    tensor(Role::OutputBias, "lm_head.bias", "output.bias", &[Vocab], Always, Same),
    computed(Role::RopeFactorsLong, "rope_factors_long.weight", crate::architecture::Presence::LongRope),
    computed(Role::RopeFactorsShort, "rope_factors_short.weight", crate::architecture::Presence::LongRope),
    tensor(Role::AttentionNorm, "model.layers.{layer}.input_layernorm.weight", "blk.{layer}.attn_norm.weight", &[Hidden], Always, Same),
    tensor(Role::AttentionNormBias, "model.layers.{layer}.input_layernorm.bias", "blk.{layer}.attn_norm.bias", &[Hidden], Always, Same),
    tensor(Role::AttentionQ, "model.layers.{layer}.self_attn.q_proj.weight", "blk.{layer}.attn_q.weight", &[Query, Hidden], Always, Same),
    tensor(Role::AttentionK, "model.layers.{layer}.self_attn.k_proj.weight", "blk.{layer}.attn_k.weight", &[KeyValue, Hidden], Always, Same),
    tensor(Role::AttentionV, "model.layers.{layer}.self_attn.v_proj.weight", "blk.{layer}.attn_v.weight", &[KeyValue, Hidden], Always, Same),
    tensor(Role::AttentionOutput, "model.layers.{layer}.self_attn.o_proj.weight", "blk.{layer}.attn_output.weight", &[Hidden, Query], Always, Same),
    tensor(Role::AttentionQBias, "model.layers.{layer}.self_attn.q_proj.bias", "blk.{layer}.attn_q.bias", &[Query], QkvBias, Same),
    tensor(Role::AttentionKBias, "model.layers.{layer}.self_attn.k_proj.bias", "blk.{layer}.attn_k.bias", &[KeyValue], QkvBias, Same),
    tensor(Role::AttentionVBias, "model.layers.{layer}.self_attn.v_proj.bias", "blk.{layer}.attn_v.bias", &[KeyValue], QkvBias, Same),
    tensor(Role::AttentionOutputBias, "model.layers.{layer}.self_attn.o_proj.bias", "blk.{layer}.attn_output.bias", &[Hidden], OutputBias, Same),
    tensor(Role::FfnNorm, "model.layers.{layer}.post_attention_layernorm.weight", "blk.{layer}.ffn_norm.weight", &[Hidden], Always, Same),
    tensor(Role::FfnNormBias, "model.layers.{layer}.post_attention_layernorm.bias", "blk.{layer}.ffn_norm.bias", &[Hidden], Always, Same),
    tensor(Role::Router, "model.layers.{layer}.block_sparse_moe.gate.weight", "blk.{layer}.ffn_gate_inp.weight", &[Experts, Hidden], SparseLayers, Same),
    tensor(Role::ExpertsGate, "model.layers.{layer}.block_sparse_moe.experts.{expert}.w1.weight", "blk.{layer}.ffn_gate_exps.weight", &[Experts, ExpertFfn, Hidden], SparseLayers, EachExpert),
    tensor(Role::ExpertsUp, "model.layers.{layer}.block_sparse_moe.experts.{expert}.w3.weight", "blk.{layer}.ffn_up_exps.weight", &[Experts, ExpertFfn, Hidden], SparseLayers, EachExpert),
    tensor(Role::ExpertsDown, "model.layers.{layer}.block_sparse_moe.experts.{expert}.w2.weight", "blk.{layer}.ffn_down_exps.weight", &[Experts, Hidden, ExpertFfn], SparseLayers, EachExpert),
];
