//! Latent attention over the positions that an indexer chooses: DeepSeek V3.2 and GLM-5.
//!
//! DeepSeek V3 with a few small heads beside attention (`config/indexer.rs`). GLM-5 rotates these in pairs of neighbours,
//! as it rotates attention's, and from 5.2 on some of its layers read what an earlier one chose.

use super::deepseek2;
use super::table::*;
use crate::architecture::{
    Accepted, Architecture, Field, GgufKey, HfKey, HfLimit, MixtureRules, Presence, RopeStyle, Scores,
    Silence, TensorTemplate,
};

/// With the defaults of transformers' `DeepseekV32Config`.
static V32_KEYS: [HfKey; 27] = [
    number(Field::Vocab, &["vocab_size"], 129_280.0),
    number(Field::Hidden, &["hidden_size"], 7168.0),
    number(Field::Layers, &["num_hidden_layers"], 61.0),
    number(Field::Heads, &["num_attention_heads"], 128.0),
    kv_heads(128.0),
    number(Field::Ffn, &["intermediate_size"], 18432.0),
    number(Field::Context, &["max_position_embeddings"], 163_840.0),
    number(Field::NormEpsilon, &["rms_norm_eps"], 1e-6),
    key(Field::Activation, &["hidden_act"], Silence::Word("silu")),
    number(Field::RopeTheta, &["rope_theta"], 10_000.0),
    number(Field::QueryRank, &["q_lora_rank"], 1536.0),
    number(Field::LatentRank, &["kv_lora_rank"], 512.0),
    number(Field::LatentNopeDim, &["qk_nope_head_dim"], 128.0),
    number(Field::LatentRopeDim, &["qk_rope_head_dim"], 64.0),
    number(Field::LatentValueDim, &["v_head_dim"], 128.0),
    number(Field::Experts, &["num_experts", "num_local_experts", "n_routed_experts"], 256.0)
        .written("n_routed_experts"),
    number(Field::ExpertsUsed, &["num_experts_per_tok"], 8.0),
    number(Field::ExpertFfn, &["moe_intermediate_size"], 2048.0),
    number(Field::SharedExperts, &["n_shared_experts"], 1.0),
    number(Field::DenseLayers, &["first_k_dense_replace"], 3.0),
    number(Field::ExpertScale, &["routed_scaling_factor"], 2.5),
    number(Field::ExpertGroups, &["n_group"], 8.0),
    number(Field::ExpertGroupsUsed, &["topk_group"], 4.0),
    key(Field::NormTopk, &["norm_topk_prob"], Silence::Flag(true)),
    number(Field::IndexerHeads, &["index_n_heads"], 64.0),
    number(Field::IndexerHeadDim, &["index_head_dim"], 128.0),
    number(Field::IndexerTopK, &["index_topk"], 2048.0),
];

/// With the defaults of transformers' `GlmMoeDsaConfig`.
static GLM_KEYS: [HfKey; 27] = [
    number(Field::Vocab, &["vocab_size"], 154_880.0),
    number(Field::Hidden, &["hidden_size"], 6144.0),
    number(Field::Layers, &["num_hidden_layers"], 78.0),
    number(Field::Heads, &["num_attention_heads"], 64.0),
    kv_heads(64.0),
    number(Field::Ffn, &["intermediate_size"], 12288.0),
    number(Field::Context, &["max_position_embeddings"], 202_752.0),
    number(Field::NormEpsilon, &["rms_norm_eps"], 1e-5),
    key(Field::Activation, &["hidden_act"], Silence::Word("silu")),
    number(Field::RopeTheta, &["rope_theta"], 10_000.0),
    number(Field::QueryRank, &["q_lora_rank"], 2048.0),
    number(Field::LatentRank, &["kv_lora_rank"], 512.0),
    number(Field::LatentNopeDim, &["qk_nope_head_dim"], 192.0),
    number(Field::LatentRopeDim, &["qk_rope_head_dim"], 64.0),
    number(Field::LatentValueDim, &["v_head_dim"], 256.0),
    number(Field::Experts, &["num_experts", "num_local_experts", "n_routed_experts"], 256.0)
        .written("n_routed_experts"),
    number(Field::ExpertsUsed, &["num_experts_per_tok"], 8.0),
    number(Field::ExpertFfn, &["moe_intermediate_size"], 2048.0),
    number(Field::SharedExperts, &["n_shared_experts"], 1.0),
    number(Field::DenseLayers, &["first_k_dense_replace"], 3.0),
    number(Field::ExpertScale, &["routed_scaling_factor"], 2.5),
    number(Field::ExpertGroups, &["n_group"], 1.0),
    number(Field::ExpertGroupsUsed, &["topk_group"], 1.0),
    key(Field::NormTopk, &["norm_topk_prob"], Silence::Flag(true)),
    number(Field::IndexerHeads, &["index_n_heads"], 32.0),
    number(Field::IndexerHeadDim, &["index_head_dim"], 128.0),
    number(Field::IndexerTopK, &["index_topk"], 2048.0),
];

/// What there are no tensors for, and rotation in one way only.
const V32_LIMITS: &[HfLimit] = &[
    only("attention_bias", false),
    only("mlp_bias", false),
    only("rope_interleave", true),
    only("indexer_rope_interleave", false),
    HfLimit { key: "topk_method", accepted: Accepted::Words(&["noaux_tc"]) },
    HfLimit { key: "scoring_func", accepted: Accepted::Words(&["sigmoid"]) },
];

const GLM_LIMITS: &[HfLimit] = &[
    only("attention_bias", false),
    only("mlp_bias", false),
    only("rope_interleave", true),
    only("indexer_rope_interleave", true),
    HfLimit { key: "topk_method", accepted: Accepted::Words(&["noaux_tc"]) },
    HfLimit { key: "scoring_func", accepted: Accepted::Words(&["sigmoid"]) },
];

static GGUF_KEYS: [GgufKey; 24] = chained(&[deepseek2::GGUF_KEYS, &[GgufKey::Indexer]]);

/// DeepSeek V3.2.
pub static DEEPSEEK_V32: Architecture = Architecture {
    name: "deepseek32",
    has_experts: true,
    hf_architectures: &["DeepseekV32ForCausalLM"],
    hf_model_types: &["deepseek_v32"],
    gguf_rope_style: RopeStyle::Interleaved,
    hf_rope_style: RopeStyle::Interleaved,
    indexer_rope_style: RopeStyle::HalfSplit,
    mixture: MixtureRules {
        scores: Scores::Sigmoid,
        choice_bias: true,
        normalized: false,
        ..MixtureRules::USUAL
    },
    hf_keys: &V32_KEYS,
    hf_limits: V32_LIMITS,
    gguf_keys: &GGUF_KEYS,
    tensors: TENSORS,
    hf_aliases: &FUSED_EXPERTS,
    ..USUAL
};

/// GLM-5.
pub static GLM_MOE_DSA: Architecture = Architecture {
    name: "glm-dsa",
    hf_architectures: &["GlmMoeDsaForCausalLM"],
    hf_model_types: &["glm_moe_dsa"],
    indexer_rope_style: RopeStyle::Interleaved,
    hf_keys: &GLM_KEYS,
    hf_limits: GLM_LIMITS,
    ..DEEPSEEK_V32
};

#[rustfmt::skip]
const TENSORS: &[TensorTemplate] = &[
    tensor(Role::TokenEmbedding, "model.embed_tokens.weight", "token_embd.weight", &[Vocab, Hidden], Always, Same),
    tensor(Role::OutputNorm, "model.norm.weight", "output_norm.weight", &[Hidden], Always, Same),
    tensor(Role::Output, "lm_head.weight", "output.weight", &[Vocab, Hidden], UnlessTied, Same),
    tensor(Role::AttentionNorm, "model.layers.{layer}.input_layernorm.weight", "blk.{layer}.attn_norm.weight", &[Hidden], Always, Same),
    tensor(Role::AttentionQDown, "model.layers.{layer}.self_attn.q_a_proj.weight", "blk.{layer}.attn_q_a.weight", &[QueryRank, Hidden], Always, Same),
    tensor(Role::AttentionQDownNorm, "model.layers.{layer}.self_attn.q_a_layernorm.weight", "blk.{layer}.attn_q_a_norm.weight", &[QueryRank], Always, Same),
    tensor(Role::AttentionQUp, "model.layers.{layer}.self_attn.q_b_proj.weight", "blk.{layer}.attn_q_b.weight", &[Query, QueryRank], Always, Same),
    tensor(Role::AttentionKvDown, "model.layers.{layer}.self_attn.kv_a_proj_with_mqa.weight", "blk.{layer}.attn_kv_a_mqa.weight", &[LatentCached, Hidden], Always, Same),
    tensor(Role::AttentionKvDownNorm, "model.layers.{layer}.self_attn.kv_a_layernorm.weight", "blk.{layer}.attn_kv_a_norm.weight", &[LatentRank], Always, Same),
    tensor(Role::AttentionKvUp, "model.layers.{layer}.self_attn.kv_b_proj.weight", "blk.{layer}.attn_kv_b.weight", &[LatentUp, LatentRank], Presence::JoinedUp, Same),
    derived(Role::AttentionKUp, "blk.{layer}.attn_k_b.weight", &[Heads, LatentRank, LatentNope], Presence::SplitUp, KeyUp),
    derived(Role::AttentionVUp, "blk.{layer}.attn_v_b.weight", &[Heads, LatentValue, LatentRank], Presence::SplitUp, ValueUp),
    tensor(Role::AttentionOutput, "model.layers.{layer}.self_attn.o_proj.weight", "blk.{layer}.attn_output.weight", &[Hidden, LatentValues], Always, Same),
    tensor(Role::IndexerQ, "model.layers.{layer}.self_attn.indexer.wq_b.weight", "blk.{layer}.indexer.attn_q_b.weight", &[IndexerQueries, QueryRank], Presence::Indexer, Same),
    tensor(Role::IndexerK, "model.layers.{layer}.self_attn.indexer.wk.weight", "blk.{layer}.indexer.attn_k.weight", &[IndexerHead, Hidden], Presence::Indexer, Same),
    tensor(Role::IndexerKNorm, "model.layers.{layer}.self_attn.indexer.k_norm.weight", "blk.{layer}.indexer.k_norm.weight", &[IndexerHead], Presence::Indexer, Same),
    tensor(Role::IndexerKNormBias, "model.layers.{layer}.self_attn.indexer.k_norm.bias", "blk.{layer}.indexer.k_norm.bias", &[IndexerHead], Presence::Indexer, Same),
    tensor(Role::IndexerWeights, "model.layers.{layer}.self_attn.indexer.weights_proj.weight", "blk.{layer}.indexer.proj.weight", &[IndexerHeads, Hidden], Presence::Indexer, Same),
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
