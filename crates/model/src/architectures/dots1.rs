//! dots.llm1 of rednote: Qwen 3's attention, and all layers but the first are mixtures with shared experts.

use super::table::*;
use crate::architecture::{
    Architecture, Field, GgufKey, HfKey, HfLimit, MixtureRules, Scores, Silence, TensorTemplate,
};

/// With the defaults of transformers' `Dots1Config`.
static KEYS: [HfKey; 23] = with_llama_keys([
    number(Field::Vocab, &["vocab_size"], 152_064.0),
    number(Field::Hidden, &["hidden_size"], 4608.0),
    number(Field::Ffn, &["intermediate_size"], 10944.0),
    number(Field::Layers, &["num_hidden_layers"], 62.0),
    kv_heads(32.0),
    key(Field::QkvBias, &["attention_bias"], Silence::Flag(false)),
    key(Field::OutputBias, &["attention_bias"], Silence::Flag(false)),
    always(Field::QkNorm, true),
    key(Field::Experts, &["num_local_experts", "n_routed_experts"], Silence::Nothing)
        .written("n_routed_experts"),
    key(Field::ExpertsUsed, &["num_experts_per_tok"], Silence::Required),
    number(Field::ExpertFfn, &["moe_intermediate_size"], 1408.0),
    key(Field::SharedExperts, &["n_shared_experts"], Silence::Required),
    key(Field::DenseLayers, &["first_k_dense_replace"], Silence::Number(0.0)),
    key(Field::NormTopk, &["norm_topk_prob"], Silence::Flag(false)),
    number(Field::ExpertScale, &["routed_scaling_factor"], 1.0),
    key(Field::ExpertGroups, &["n_group"], Silence::Number(1.0)),
    key(Field::ExpertGroupsUsed, &["topk_group"], Silence::Number(1.0)),
]);

/// No published model has a window.
const LIMITS: &[HfLimit] = &[only("use_sliding_window", false)];

const GGUF_KEYS: &[GgufKey] = &[
    GgufKey::BlockCount,
    GgufKey::ContextLength,
    GgufKey::EmbeddingLength,
    GgufKey::FeedForwardLength,
    GgufKey::HeadCount,
    GgufKey::HeadCountKv,
    GgufKey::RopeScaling,
    GgufKey::RopeFreqBase,
    GgufKey::RmsEpsilon,
    GgufKey::ExpertCount,
    GgufKey::ExpertUsedCount,
    GgufKey::ExpertGroups,
    GgufKey::ExpertGatingFunc,
    GgufKey::KeyValueLengthIfGiven,
    GgufKey::ExpertFeedForwardLength,
    GgufKey::LeadingDenseBlockCount,
    GgufKey::ExpertSharedCount,
    GgufKey::ExpertWeightsScale,
    GgufKey::ExpertWeightsNorm,
];

/// dots.llm1.
pub static DOTS1: Architecture = Architecture {
    name: "dots1",
    has_experts: true,
    hf_architectures: &["Dots1ForCausalLM"],
    hf_model_types: &["dots1"],
    mixture: MixtureRules {
        scores: Scores::Sigmoid,
        choice_bias: true,
        normalized: false,
        ..MixtureRules::USUAL
    },
    hf_keys: &KEYS,
    hf_limits: LIMITS,
    gguf_keys: GGUF_KEYS,
    tensors: TENSORS,
    hf_aliases: &FUSED_EXPERTS,
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
    tensor(Role::AttentionQBias, "model.layers.{layer}.self_attn.q_proj.bias", "blk.{layer}.attn_q.bias", &[Query], QkvBias, Same),
    tensor(Role::AttentionKBias, "model.layers.{layer}.self_attn.k_proj.bias", "blk.{layer}.attn_k.bias", &[KeyValue], QkvBias, Same),
    tensor(Role::AttentionVBias, "model.layers.{layer}.self_attn.v_proj.bias", "blk.{layer}.attn_v.bias", &[KeyValue], QkvBias, Same),
    tensor(Role::AttentionOutputBias, "model.layers.{layer}.self_attn.o_proj.bias", "blk.{layer}.attn_output.bias", &[Hidden], OutputBias, Same),
    tensor(Role::AttentionQNorm, "model.layers.{layer}.self_attn.q_norm.weight", "blk.{layer}.attn_q_norm.weight", &[HeadDim], QkNorm, Same),
    tensor(Role::AttentionKNorm, "model.layers.{layer}.self_attn.k_norm.weight", "blk.{layer}.attn_k_norm.weight", &[HeadDim], QkNorm, Same),
    tensor(Role::FfnNorm, "model.layers.{layer}.post_attention_layernorm.weight", "blk.{layer}.ffn_norm.weight", &[Hidden], Always, Same),
    tensor(Role::FfnGate, "model.layers.{layer}.mlp.gate_proj.weight", "blk.{layer}.ffn_gate.weight", &[Ffn, Hidden], DenseLayers, Same),
    tensor(Role::FfnUp, "model.layers.{layer}.mlp.up_proj.weight", "blk.{layer}.ffn_up.weight", &[Ffn, Hidden], DenseLayers, Same),
    tensor(Role::FfnDown, "model.layers.{layer}.mlp.down_proj.weight", "blk.{layer}.ffn_down.weight", &[Hidden, Ffn], DenseLayers, Same),
    tensor(Role::Router, "model.layers.{layer}.mlp.gate.weight", "blk.{layer}.ffn_gate_inp.weight", &[Experts, Hidden], SparseLayers, Same),
    tensor(Role::ChoiceBias, "model.layers.{layer}.mlp.gate.e_score_correction_bias", "blk.{layer}.exp_probs_b.bias", &[Experts], ChoiceBias, Same),
    tensor(Role::ExpertsGate, "model.layers.{layer}.mlp.experts.{expert}.gate_proj.weight", "blk.{layer}.ffn_gate_exps.weight", &[Experts, ExpertFfn, Hidden], SparseLayers, EachExpert),
    tensor(Role::ExpertsUp, "model.layers.{layer}.mlp.experts.{expert}.up_proj.weight", "blk.{layer}.ffn_up_exps.weight", &[Experts, ExpertFfn, Hidden], SparseLayers, EachExpert),
    tensor(Role::ExpertsDown, "model.layers.{layer}.mlp.experts.{expert}.down_proj.weight", "blk.{layer}.ffn_down_exps.weight", &[Experts, Hidden, ExpertFfn], SparseLayers, EachExpert),
    tensor(Role::SharedGate, "model.layers.{layer}.mlp.shared_experts.gate_proj.weight", "blk.{layer}.ffn_gate_shexp.weight", &[SharedFfn, Hidden], SharedExpert, Same),
    tensor(Role::SharedUp, "model.layers.{layer}.mlp.shared_experts.up_proj.weight", "blk.{layer}.ffn_up_shexp.weight", &[SharedFfn, Hidden], SharedExpert, Same),
    tensor(Role::SharedDown, "model.layers.{layer}.mlp.shared_experts.down_proj.weight", "blk.{layer}.ffn_down_shexp.weight", &[Hidden, SharedFfn], SharedExpert, Same),
];
