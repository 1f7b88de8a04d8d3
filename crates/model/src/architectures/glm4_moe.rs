//! GLM-4.5, 4.6 and 4.7: a part of each head rotates, heads are normalised in the large models, and all layers but the
//! first are mixtures with a shared expert. Layers that predict further tokens are left out. And Solar Open of Upstage,
//! whose GGUF files have the same architecture name.

use super::table::*;
use crate::architecture::{
    Architecture, Field, GgufKey, HfKey, MixtureRules, Scores, Silence, TensorTemplate,
};

/// With the defaults of transformers' `Glm4MoeConfig`.
static KEYS: [HfKey; 24] = with_llama_keys([
    number(Field::Vocab, &["vocab_size"], 151_552.0),
    number(Field::Ffn, &["intermediate_size"], 10944.0),
    number(Field::Layers, &["num_hidden_layers"], 46.0),
    number(Field::Heads, &["num_attention_heads"], 96.0),
    kv_heads(8.0),
    number(Field::Context, &["max_position_embeddings"], 131_072.0),
    number(Field::NormEpsilon, &["rms_norm_eps"], 1e-5),
    number(Field::PartialRotary, &["partial_rotary_factor"], 0.5),
    key(Field::QkvBias, &["attention_bias"], Silence::Flag(false)),
    always(Field::OutputBias, false),
    key(Field::QkNorm, &["use_qk_norm"], Silence::Flag(false)),
    number(Field::Experts, &["num_local_experts", "n_routed_experts"], 128.0).written("n_routed_experts"),
    number(Field::ExpertsUsed, &["num_experts_per_tok"], 8.0),
    number(Field::ExpertFfn, &["moe_intermediate_size"], 1408.0),
    number(Field::SharedExperts, &["n_shared_experts"], 1.0),
    number(Field::DenseLayers, &["first_k_dense_replace"], 1.0),
    key(Field::NormTopk, &["norm_topk_prob"], Silence::Flag(true)),
    number(Field::ExpertScale, &["routed_scaling_factor"], 1.0),
    number(Field::ExpertGroups, &["n_group"], 1.0),
    number(Field::ExpertGroupsUsed, &["topk_group"], 1.0),
]);

/// With the defaults of transformers' `SolarOpenConfig`. Every layer is a mixture, so that nothing reads
/// `intermediate_size`, which published files have all the same.
static SOLAR_OPEN_KEYS: [HfKey; 24] = with_llama_keys([
    number(Field::Vocab, &["vocab_size"], 196_608.0),
    number(Field::Layers, &["num_hidden_layers"], 48.0),
    number(Field::Heads, &["num_attention_heads"], 64.0),
    kv_heads(8.0),
    key(Field::HeadDim, &["head_dim"], Silence::Number(128.0)).null(Silence::Nothing),
    key(Field::Ffn, &["intermediate_size"], Silence::Times(4, Field::Hidden)),
    number(Field::Context, &["max_position_embeddings"], 131_072.0),
    number(Field::NormEpsilon, &["rms_norm_eps"], 1e-5),
    number(Field::RopeTheta, &["rope_theta"], 1e6),
    number(Field::PartialRotary, &["partial_rotary_factor"], 1.0),
    key(Field::QkvBias, &["attention_bias"], Silence::Flag(false)),
    always(Field::OutputBias, false),
    always(Field::QkNorm, false),
    number(Field::Experts, &["num_local_experts", "n_routed_experts"], 128.0).written("n_routed_experts"),
    number(Field::ExpertsUsed, &["num_experts_per_tok"], 8.0),
    number(Field::ExpertFfn, &["moe_intermediate_size"], 1280.0),
    number(Field::SharedExperts, &["n_shared_experts"], 1.0),
    key(Field::DenseLayers, &[], Silence::Number(0.0)),
    key(Field::NormTopk, &["norm_topk_prob"], Silence::Flag(true)),
    number(Field::ExpertScale, &["routed_scaling_factor"], 1.0),
    number(Field::ExpertGroups, &["n_group"], 1.0),
    number(Field::ExpertGroupsUsed, &["topk_group"], 1.0),
]);

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
    GgufKey::KeyValueLengthIfGiven,
    GgufKey::RopeDimensionCount,
    GgufKey::ExpertFeedForwardLength,
    GgufKey::ExpertSharedCount,
    GgufKey::LeadingDenseBlockCount,
    GgufKey::ExpertGatingFunc,
    GgufKey::ExpertWeightsScale,
    GgufKey::ExpertWeightsNorm,
];

/// GLM-4.5 and those after it.
pub static GLM4_MOE: Architecture = GLM4_MOE_ITSELF;

const GLM4_MOE_ITSELF: Architecture = Architecture {
    name: "glm4moe",
    has_experts: true,
    hf_architectures: &["Glm4MoeForCausalLM"],
    hf_model_types: &["glm4_moe"],
    mixture: MixtureRules {
        scores: Scores::Sigmoid,
        choice_bias: true,
        normalized: false,
        ..MixtureRules::USUAL
    },
    hf_keys: &KEYS,
    gguf_keys: GGUF_KEYS,
    tensors: TENSORS,
    hf_aliases: &FUSED_EXPERTS,
    ..USUAL
};

/// Solar Open: mixtures in all layers, no norms of heads, all of each head rotated. GGUF has one name for both.
pub static SOLAR_OPEN: Architecture = Architecture {
    hf_architectures: &["SolarOpenForCausalLM"],
    hf_model_types: &["solar_open"],
    hf_keys: &SOLAR_OPEN_KEYS,
    ..GLM4_MOE_ITSELF
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
    tensor(Role::AttentionQNorm, "model.layers.{layer}.self_attn.q_norm.weight", "blk.{layer}.attn_q_norm.weight", &[HeadDim], QkNorm, Same),
    tensor(Role::AttentionKNorm, "model.layers.{layer}.self_attn.k_norm.weight", "blk.{layer}.attn_k_norm.weight", &[HeadDim], QkNorm, Same),
    tensor(Role::FfnNorm, "model.layers.{layer}.post_attention_layernorm.weight", "blk.{layer}.post_attention_norm.weight", &[Hidden], Always, Same),
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
