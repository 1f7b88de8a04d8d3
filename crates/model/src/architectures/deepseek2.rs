//! Multi-head latent attention: DeepSeek V2, DeepSeek V3 and R1 (Kimi K2 is of the same class), GLM-4.7-Flash; and
//! Youtu-LLM, whose layers all have one feed-forward network.

use super::table::*;
use crate::architecture::{
    Accepted, Architecture, Field, GgufKey, HfKey, HfLimit, MixtureRules, Presence, RopeStyle, Scores,
    Silence, TensorTemplate,
};

/// With the defaults of transformers' `DeepseekV2Config`.
static V2_KEYS: [HfKey; 24] = [
    number(Field::Vocab, &["vocab_size"], 102_400.0),
    number(Field::Hidden, &["hidden_size"], 4096.0),
    number(Field::Layers, &["num_hidden_layers"], 32.0),
    number(Field::Heads, &["num_attention_heads"], 32.0),
    KV_HEADS,
    number(Field::Ffn, &["intermediate_size"], 11008.0),
    number(Field::Context, &["max_position_embeddings"], 2048.0),
    number(Field::NormEpsilon, &["rms_norm_eps"], 1e-6),
    key(Field::Activation, &["hidden_act"], Silence::Word("silu")),
    number(Field::RopeTheta, &["rope_theta"], 10_000.0),
    key(Field::QueryRank, &["q_lora_rank"], Silence::Number(1536.0)).null(Silence::Nothing),
    number(Field::LatentRank, &["kv_lora_rank"], 512.0),
    number(Field::LatentNopeDim, &["qk_nope_head_dim"], 128.0),
    number(Field::LatentRopeDim, &["qk_rope_head_dim"], 64.0),
    number(Field::LatentValueDim, &["v_head_dim"], 128.0),
    number(Field::Experts, &["num_experts", "n_routed_experts"], 64.0).written("n_routed_experts"),
    key(Field::ExpertsUsed, &["num_experts_per_tok"], Silence::Required),
    number(Field::ExpertFfn, &["moe_intermediate_size"], 1407.0),
    number(Field::SharedExperts, &["n_shared_experts"], 2.0),
    number(Field::DenseLayers, &["first_k_dense_replace"], 0.0),
    number(Field::ExpertScale, &["routed_scaling_factor"], 1.0),
    key(Field::ExpertGroups, &["n_group"], Silence::Nothing),
    key(Field::ExpertGroupsUsed, &["topk_group"], Silence::Nothing),
    always(Field::NormTopk, false),
];

/// With the defaults of transformers' `DeepseekV3Config`.
static V3_KEYS: [HfKey; 24] = [
    number(Field::Vocab, &["vocab_size"], 129_280.0),
    number(Field::Hidden, &["hidden_size"], 7168.0),
    number(Field::Layers, &["num_hidden_layers"], 61.0),
    number(Field::Heads, &["num_attention_heads"], 128.0),
    kv_heads(128.0),
    number(Field::Ffn, &["intermediate_size"], 18432.0),
    number(Field::Context, &["max_position_embeddings"], 4096.0),
    number(Field::NormEpsilon, &["rms_norm_eps"], 1e-6),
    key(Field::Activation, &["hidden_act"], Silence::Word("silu")),
    number(Field::RopeTheta, &["rope_theta"], 10_000.0),
    key(Field::QueryRank, &["q_lora_rank"], Silence::Number(1536.0)).null(Silence::Nothing),
    number(Field::LatentRank, &["kv_lora_rank"], 512.0),
    number(Field::LatentNopeDim, &["qk_nope_head_dim"], 128.0),
    number(Field::LatentRopeDim, &["qk_rope_head_dim"], 64.0),
    number(Field::LatentValueDim, &["v_head_dim"], 128.0),
    number(Field::Experts, &["num_local_experts", "n_routed_experts"], 256.0).written("n_routed_experts"),
    number(Field::ExpertsUsed, &["num_experts_per_tok"], 8.0),
    number(Field::ExpertFfn, &["moe_intermediate_size"], 2048.0),
    number(Field::SharedExperts, &["n_shared_experts"], 1.0),
    number(Field::DenseLayers, &["first_k_dense_replace"], 3.0),
    number(Field::ExpertScale, &["routed_scaling_factor"], 2.5),
    number(Field::ExpertGroups, &["n_group"], 8.0),
    number(Field::ExpertGroupsUsed, &["topk_group"], 4.0),
    key(Field::NormTopk, &["norm_topk_prob"], Silence::Flag(true)),
];

/// With the defaults of transformers' `Glm4MoeLiteConfig`.
static GLM_LITE_KEYS: [HfKey; 24] = [
    number(Field::Vocab, &["vocab_size"], 154_880.0),
    number(Field::Hidden, &["hidden_size"], 2048.0),
    number(Field::Layers, &["num_hidden_layers"], 47.0),
    number(Field::Heads, &["num_attention_heads"], 20.0),
    kv_heads(20.0),
    number(Field::Ffn, &["intermediate_size"], 10240.0),
    number(Field::Context, &["max_position_embeddings"], 202_752.0),
    number(Field::NormEpsilon, &["rms_norm_eps"], 1e-5),
    key(Field::Activation, &["hidden_act"], Silence::Word("silu")),
    number(Field::RopeTheta, &["rope_theta"], 10_000.0),
    key(Field::QueryRank, &["q_lora_rank"], Silence::Number(768.0)).null(Silence::Nothing),
    number(Field::LatentRank, &["kv_lora_rank"], 512.0),
    number(Field::LatentNopeDim, &["qk_nope_head_dim"], 192.0),
    number(Field::LatentRopeDim, &["qk_rope_head_dim"], 64.0),
    number(Field::LatentValueDim, &["v_head_dim"], 256.0),
    number(Field::Experts, &["num_local_experts", "n_routed_experts"], 64.0).written("n_routed_experts"),
    number(Field::ExpertsUsed, &["num_experts_per_tok"], 4.0),
    number(Field::ExpertFfn, &["moe_intermediate_size"], 1536.0),
    number(Field::SharedExperts, &["n_shared_experts"], 1.0),
    // Where no list says it.
    key(Field::DenseLayers, &[], Silence::Number(1.0)),
    number(Field::ExpertScale, &["routed_scaling_factor"], 1.8),
    number(Field::ExpertGroups, &["n_group"], 1.0),
    number(Field::ExpertGroupsUsed, &["topk_group"], 1.0),
    key(Field::NormTopk, &["norm_topk_prob"], Silence::Flag(true)),
];

/// What llama.cpp's loader of deepseek2 has no tensors for; the rest as published.
const V2_LIMITS: &[HfLimit] = &[
    only("attention_bias", false),
    only("mlp_bias", false),
    only("norm_topk_prob", false),
    HfLimit { key: "topk_method", accepted: Accepted::Words(&["greedy", "group_limited_greedy"]) },
    HfLimit { key: "scoring_func", accepted: Accepted::Words(&["softmax"]) },
];

/// The same; and rotation in one way only.
const V3_LIMITS: &[HfLimit] = &[
    only("attention_bias", false),
    only("rope_interleave", true),
    HfLimit { key: "topk_method", accepted: Accepted::Words(&["noaux_tc"]) },
    HfLimit { key: "scoring_func", accepted: Accepted::Words(&["sigmoid"]) },
];

pub(super) const GGUF_KEYS: &[GgufKey] = &[
    GgufKey::BlockCount,
    GgufKey::ContextLength,
    GgufKey::EmbeddingLength,
    GgufKey::FeedForwardLength,
    GgufKey::HeadCount,
    GgufKey::HeadCountKvOne,
    GgufKey::RopeScaling,
    GgufKey::RopeFreqBase,
    GgufKey::RmsEpsilon,
    GgufKey::ExpertCount,
    GgufKey::ExpertUsedCount,
    GgufKey::ExpertGroups,
    GgufKey::ExpertGatingFunc,
    GgufKey::LeadingDenseBlockCount,
    GgufKey::VocabSize,
    GgufKey::LatentRanks,
    GgufKey::LatentLengths,
    GgufKey::ExpertFeedForwardLength,
    GgufKey::ExpertSharedCount,
    GgufKey::ExpertWeightsScale,
    GgufKey::ExpertWeightsNormOn,
    GgufKey::RopeDimensionCount,
    GgufKey::YarnScoreMultiplier,
];

/// DeepSeek V2 and V2-Lite.
pub static DEEPSEEK_V2: Architecture = Architecture {
    name: "deepseek2",
    has_experts: true,
    hf_architectures: &["DeepseekV2ForCausalLM"],
    hf_model_types: &["deepseek_v2"],
    gguf_rope_style: RopeStyle::Interleaved,
    hf_rope_style: RopeStyle::Interleaved,
    mixture: MixtureRules { normalized: false, ..MixtureRules::USUAL },
    hf_keys: &V2_KEYS,
    hf_limits: V2_LIMITS,
    gguf_keys: GGUF_KEYS,
    tensors: TENSORS,
    hf_aliases: &FUSED_EXPERTS,
    ..USUAL
};

/// DeepSeek V3 and R1, and Kimi K2.
pub static DEEPSEEK_V3: Architecture = Architecture {
    hf_architectures: &["DeepseekV3ForCausalLM", "KimiK2ForCausalLM"],
    hf_model_types: &["deepseek_v3", "kimi_k2"],
    mixture: MixtureRules {
        scores: Scores::Sigmoid,
        choice_bias: true,
        normalized: false,
        ..MixtureRules::USUAL
    },
    hf_keys: &V3_KEYS,
    hf_limits: V3_LIMITS,
    ..DEEPSEEK_V2
};

/// GLM-4.7-Flash: DeepSeek V3 with other defaults. GGUF files cannot tell both apart.
pub static GLM4_MOE_LITE: Architecture = Architecture {
    hf_architectures: &["Glm4MoeLiteForCausalLM"],
    hf_model_types: &["glm4_moe_lite"],
    hf_keys: &GLM_LITE_KEYS,
    ..DEEPSEEK_V3
};

/// With the defaults of transformers' `YoutuConfig`.
static YOUTU_KEYS: [HfKey; 15] = [
    number(Field::Vocab, &["vocab_size"], 128_256.0),
    number(Field::Hidden, &["hidden_size"], 2048.0),
    number(Field::Layers, &["num_hidden_layers"], 32.0),
    number(Field::Heads, &["num_attention_heads"], 16.0),
    number(Field::KvHeads, &["num_key_value_heads"], 16.0),
    number(Field::Ffn, &["intermediate_size"], 6144.0),
    number(Field::Context, &["max_position_embeddings"], 131_072.0),
    number(Field::NormEpsilon, &["rms_norm_eps"], 1e-6),
    key(Field::Activation, &["hidden_act"], Silence::Word("silu")),
    number(Field::RopeTheta, &["rope_theta"], 10_000.0),
    key(Field::QueryRank, &["q_lora_rank"], Silence::Number(1536.0)).null(Silence::Nothing),
    number(Field::LatentRank, &["kv_lora_rank"], 512.0),
    number(Field::LatentNopeDim, &["qk_nope_head_dim"], 128.0),
    number(Field::LatentRopeDim, &["qk_rope_head_dim"], 64.0),
    number(Field::LatentValueDim, &["v_head_dim"], 128.0),
];

/// What llama.cpp's loader of deepseek2 has no tensors for, and rotates in one way only.
const YOUTU_LIMITS: &[HfLimit] = &[only("attention_bias", false), only("rope_interleave", true)];

const YOUTU_GGUF_KEYS: &[GgufKey] = &[
    GgufKey::BlockCount,
    GgufKey::ContextLength,
    GgufKey::EmbeddingLength,
    GgufKey::FeedForwardLength,
    GgufKey::HeadCount,
    GgufKey::HeadCountKvOne,
    GgufKey::RopeScaling,
    GgufKey::RopeFreqBase,
    GgufKey::RmsEpsilon,
    GgufKey::DenseLayersAlone,
    GgufKey::VocabSize,
    GgufKey::LatentRanks,
    GgufKey::LatentLengths,
    GgufKey::RopeDimensionCount,
    GgufKey::YarnScoreMultiplier,
];

/// Youtu-LLM.
pub static YOUTU: Architecture = Architecture {
    name: "deepseek2",
    hf_architectures: &["YoutuForCausalLM"],
    hf_model_types: &["youtu", "youtu_llm"],
    gguf_rope_style: RopeStyle::Interleaved,
    hf_rope_style: RopeStyle::Interleaved,
    tied_by_default: true,
    hf_keys: &YOUTU_KEYS,
    hf_limits: YOUTU_LIMITS,
    gguf_keys: YOUTU_GGUF_KEYS,
    tensors: TENSORS,
    ..USUAL
};

#[rustfmt::skip]
const TENSORS: &[TensorTemplate] = &[
    tensor(Role::TokenEmbedding, "model.embed_tokens.weight", "token_embd.weight", &[Vocab, Hidden], Always, Same),
    tensor(Role::OutputNorm, "model.norm.weight", "output_norm.weight", &[Hidden], Always, Same),
    tensor(Role::Output, "lm_head.weight", "output.weight", &[Vocab, Hidden], UnlessTied, Same),
    tensor(Role::AttentionNorm, "model.layers.{layer}.input_layernorm.weight", "blk.{layer}.attn_norm.weight", &[Hidden], Always, Same),
    tensor(Role::AttentionQ, "model.layers.{layer}.self_attn.q_proj.weight", "blk.{layer}.attn_q.weight", &[Query, Hidden], Presence::NoQueryRank, Same),
    tensor(Role::AttentionQDown, "model.layers.{layer}.self_attn.q_a_proj.weight", "blk.{layer}.attn_q_a.weight", &[QueryRank, Hidden], Presence::QueryRank, Same),
    tensor(Role::AttentionQDownNorm, "model.layers.{layer}.self_attn.q_a_layernorm.weight", "blk.{layer}.attn_q_a_norm.weight", &[QueryRank], Presence::QueryRank, Same),
    tensor(Role::AttentionQUp, "model.layers.{layer}.self_attn.q_b_proj.weight", "blk.{layer}.attn_q_b.weight", &[Query, QueryRank], Presence::QueryRank, Same),
    tensor(Role::AttentionKvDown, "model.layers.{layer}.self_attn.kv_a_proj_with_mqa.weight", "blk.{layer}.attn_kv_a_mqa.weight", &[LatentCached, Hidden], Always, Same),
    tensor(Role::AttentionKvDownNorm, "model.layers.{layer}.self_attn.kv_a_layernorm.weight", "blk.{layer}.attn_kv_a_norm.weight", &[LatentRank], Always, Same),
    tensor(Role::AttentionKvUp, "model.layers.{layer}.self_attn.kv_b_proj.weight", "blk.{layer}.attn_kv_b.weight", &[LatentUp, LatentRank], Presence::JoinedUp, Same),
    derived(Role::AttentionKUp, "blk.{layer}.attn_k_b.weight", &[Heads, LatentRank, LatentNope], Presence::SplitUp, KeyUp),
    derived(Role::AttentionVUp, "blk.{layer}.attn_v_b.weight", &[Heads, LatentValue, LatentRank], Presence::SplitUp, ValueUp),
    tensor(Role::AttentionOutput, "model.layers.{layer}.self_attn.o_proj.weight", "blk.{layer}.attn_output.weight", &[Hidden, LatentValues], Always, Same),
    tensor(Role::FfnNorm, "model.layers.{layer}.post_attention_layernorm.weight", "blk.{layer}.ffn_norm.weight", &[Hidden], Always, Same),
    tensor(Role::FfnGate, "model.layers.{layer}.mlp.gate_proj.weight", "blk.{layer}.ffn_gate.weight", &[Ffn, Hidden], DenseLayers, Same),
    tensor(Role::FfnUp, "model.layers.{layer}.mlp.up_proj.weight", "blk.{layer}.ffn_up.weight", &[Ffn, Hidden], DenseLayers, Same),
    tensor(Role::FfnDown, "model.layers.{layer}.mlp.down_proj.weight", "blk.{layer}.ffn_down.weight", &[Hidden, Ffn], DenseLayers, Same),
    tensor(Role::Router, "model.layers.{layer}.mlp.gate.weight", "blk.{layer}.ffn_gate_inp.weight", &[Experts, Hidden], SparseLayers, Same),
    tensor(Role::ChoiceBias, "model.layers.{layer}.mlp.gate.e_score_correction_bias", "blk.{layer}.exp_probs_b.bias", &[Experts], Presence::ChoiceBias, Same),
    tensor(Role::ExpertsGate, "model.layers.{layer}.mlp.experts.{expert}.gate_proj.weight", "blk.{layer}.ffn_gate_exps.weight", &[Experts, ExpertFfn, Hidden], SparseLayers, EachExpert),
    tensor(Role::ExpertsUp, "model.layers.{layer}.mlp.experts.{expert}.up_proj.weight", "blk.{layer}.ffn_up_exps.weight", &[Experts, ExpertFfn, Hidden], SparseLayers, EachExpert),
    tensor(Role::ExpertsDown, "model.layers.{layer}.mlp.experts.{expert}.down_proj.weight", "blk.{layer}.ffn_down_exps.weight", &[Experts, Hidden, ExpertFfn], SparseLayers, EachExpert),
    tensor(Role::SharedGate, "model.layers.{layer}.mlp.shared_experts.gate_proj.weight", "blk.{layer}.ffn_gate_shexp.weight", &[SharedFfn, Hidden], SharedExpert, Same),
    tensor(Role::SharedUp, "model.layers.{layer}.mlp.shared_experts.up_proj.weight", "blk.{layer}.ffn_up_shexp.weight", &[SharedFfn, Hidden], SharedExpert, Same),
    tensor(Role::SharedDown, "model.layers.{layer}.mlp.shared_experts.down_proj.weight", "blk.{layer}.ffn_down_shexp.weight", &[Hidden, SharedFfn], SharedExpert, Same),
];
