//! K-EXAONE of LG AI Research: mixtures as DeepSeek V3's with norms of heads; three layers of four have a sliding window, the
//! fourth does not rotate queries and keys. Layers that predict further tokens are left out.

use super::table::*;
use crate::architecture::{
    Alias, AliasLayout, Architecture, Field, GgufKey, HfKey, MixtureRules, Scores, Silence, Sliding,
    TensorTemplate, Unrotated,
};

/// With the defaults of transformers' `ExaoneMoeConfig`.
static KEYS: [HfKey; 22] = with_llama_keys([
    number(Field::Vocab, &["vocab_size"], 102_400.0),
    number(Field::Ffn, &["intermediate_size"], 16384.0),
    key(Field::KvHeads, &["num_key_value_heads"], Silence::Number(32.0)).null(Silence::Required),
    number(Field::NormEpsilon, &["rms_norm_eps"], 1e-5),
    window(4096.0),
    always(Field::QkNorm, true),
    number(Field::Experts, &["num_experts"], 64.0),
    number(Field::ExpertsUsed, &["num_experts_per_tok"], 8.0),
    number(Field::ExpertFfn, &["moe_intermediate_size"], 1024.0),
    number(Field::SharedExperts, &["num_shared_experts"], 1.0),
    number(Field::DenseLayers, &["first_k_dense_replace"], 1.0),
    key(Field::NormTopk, &["norm_topk_prob"], Silence::Flag(true)),
    number(Field::ExpertScale, &["routed_scaling_factor"], 2.5),
    number(Field::ExpertGroups, &["n_group"], 1.0),
    number(Field::ExpertGroupsUsed, &["topk_group"], 1.0),
]);

/// The router of transformers 5 has the bias of the choice.
static ALIASES: [Alias; 4] = [
    Alias {
        role: Role::ChoiceBias,
        name: "model.layers.{layer}.mlp.gate.e_score_correction_bias",
        layout: AliasLayout::Same,
    },
    FUSED_EXPERTS[0],
    FUSED_EXPERTS[1],
    FUSED_EXPERTS[2],
];

const GGUF_KEYS: &[GgufKey] = &[
    GgufKey::BlockCount,
    GgufKey::ContextLength,
    GgufKey::EmbeddingLength,
    GgufKey::FeedForwardLength,
    GgufKey::HeadCount,
    GgufKey::HeadCountKv,
    GgufKey::RopeFreqBase,
    GgufKey::RmsEpsilon,
    GgufKey::ExpertCount,
    GgufKey::ExpertUsedCount,
    GgufKey::ExpertGroups,
    GgufKey::ExpertGatingFunc,
    GgufKey::KeyValueLengthIfGiven,
    GgufKey::VocabSize,
    GgufKey::SlidingWindow,
    GgufKey::SlidingWindowLayers,
    GgufKey::ExpertFeedForwardLength,
    GgufKey::ExpertSharedCount,
    GgufKey::ExpertSharedFeedForwardLength,
    GgufKey::ExpertWeightsScale,
    GgufKey::ExpertWeightsNorm,
    GgufKey::LeadingDenseBlockCount,
    GgufKey::NoSpeculativeLayers,
    GgufKey::RopeScalingNone,
];

/// K-EXAONE.
pub static EXAONE_MOE: Architecture = Architecture {
    name: "exaone-moe",
    has_experts: true,
    // Transformers 5.1 renamed the class.
    hf_architectures: &["ExaoneMoeForCausalLM", "ExaoneMoEForCausalLM"],
    hf_model_types: &["exaone_moe"],
    sliding: Sliding::ButEvery(4),
    unrotated: Unrotated::Unwindowed,
    mixture: MixtureRules {
        scores: Scores::Sigmoid,
        choice_bias: true,
        normalized: false,
        ..MixtureRules::USUAL
    },
    hf_keys: &KEYS,
    gguf_keys: GGUF_KEYS,
    tensors: TENSORS,
    hf_aliases: &ALIASES,
    ..USUAL
};

#[rustfmt::skip]
const TENSORS: &[TensorTemplate] = &[
    tensor(Role::TokenEmbedding, "model.embed_tokens.weight", "token_embd.weight", &[Vocab, Hidden], Always, Same),
    tensor(Role::OutputNorm, "model.norm.weight", "output_norm.weight", &[Hidden], Always, Same),
    tensor(Role::Output, "lm_head.weight", "output.weight", &[Vocab, Hidden], UnlessTied, Same),
    computed(Role::RopeFactors, "rope_freqs.weight", crate::architecture::Presence::RopeFactors),
    tensor(Role::AttentionNorm, "model.layers.{layer}.input_layernorm.weight", "blk.{layer}.attn_norm.weight", &[Hidden], Always, Same),
    tensor(Role::AttentionQ, "model.layers.{layer}.self_attn.q_proj.weight", "blk.{layer}.attn_q.weight", &[Query, Hidden], Always, Same),
    tensor(Role::AttentionK, "model.layers.{layer}.self_attn.k_proj.weight", "blk.{layer}.attn_k.weight", &[KeyValue, Hidden], Always, Same),
    tensor(Role::AttentionV, "model.layers.{layer}.self_attn.v_proj.weight", "blk.{layer}.attn_v.weight", &[KeyValue, Hidden], Always, Same),
    tensor(Role::AttentionOutput, "model.layers.{layer}.self_attn.o_proj.weight", "blk.{layer}.attn_output.weight", &[Hidden, Query], Always, Same),
    tensor(Role::AttentionQNorm, "model.layers.{layer}.self_attn.q_norm.weight", "blk.{layer}.attn_q_norm.weight", &[HeadDim], QkNorm, Same),
    tensor(Role::AttentionKNorm, "model.layers.{layer}.self_attn.k_norm.weight", "blk.{layer}.attn_k_norm.weight", &[HeadDim], QkNorm, Same),
    tensor(Role::FfnNorm, "model.layers.{layer}.post_attention_layernorm.weight", "blk.{layer}.ffn_norm.weight", &[Hidden], Always, Same),
    tensor(Role::FfnGate, "model.layers.{layer}.mlp.gate_proj.weight", "blk.{layer}.ffn_gate.weight", &[Ffn, Hidden], DenseLayers, Same),
    tensor(Role::FfnUp, "model.layers.{layer}.mlp.up_proj.weight", "blk.{layer}.ffn_up.weight", &[Ffn, Hidden], DenseLayers, Same),
    tensor(Role::FfnDown, "model.layers.{layer}.mlp.down_proj.weight", "blk.{layer}.ffn_down.weight", &[Hidden, Ffn], DenseLayers, Same),
    tensor(Role::Router, "model.layers.{layer}.mlp.gate.weight", "blk.{layer}.ffn_gate_inp.weight", &[Experts, Hidden], SparseLayers, Same),
    tensor(Role::ChoiceBias, "model.layers.{layer}.mlp.e_score_correction_bias", "blk.{layer}.exp_probs_b.bias", &[Experts], ChoiceBias, Same),
    tensor(Role::ExpertsGate, "model.layers.{layer}.mlp.experts.{expert}.gate_proj.weight", "blk.{layer}.ffn_gate_exps.weight", &[Experts, ExpertFfn, Hidden], SparseLayers, EachExpert),
    tensor(Role::ExpertsUp, "model.layers.{layer}.mlp.experts.{expert}.up_proj.weight", "blk.{layer}.ffn_up_exps.weight", &[Experts, ExpertFfn, Hidden], SparseLayers, EachExpert),
    tensor(Role::ExpertsDown, "model.layers.{layer}.mlp.experts.{expert}.down_proj.weight", "blk.{layer}.ffn_down_exps.weight", &[Experts, Hidden, ExpertFfn], SparseLayers, EachExpert),
    tensor(Role::SharedGate, "model.layers.{layer}.mlp.shared_experts.gate_proj.weight", "blk.{layer}.ffn_gate_shexp.weight", &[SharedFfn, Hidden], SharedExpert, Same),
    tensor(Role::SharedUp, "model.layers.{layer}.mlp.shared_experts.up_proj.weight", "blk.{layer}.ffn_up_shexp.weight", &[SharedFfn, Hidden], SharedExpert, Same),
    tensor(Role::SharedDown, "model.layers.{layer}.mlp.shared_experts.down_proj.weight", "blk.{layer}.ffn_down_shexp.weight", &[Hidden, SharedFfn], SharedExpert, Same),
];
