//! AFMoE of Arcee (Trinity): a gate of what attention gathers, norms in front of and behind attention and network, three
//! layers of four under a window and rotated alone, and mixtures of experts behind a few layers with one network.

use super::table::*;
use crate::architecture::{
    Accepted, Architecture, Field, GgufKey, HfKey, HfLimit, MixtureRules, Scores, Silence, Sliding,
    TensorTemplate, Unrotated,
};

/// With the defaults of transformers' `AfmoeConfig`.
static KEYS: [HfKey; 20] = with_llama_keys([
    number(Field::Vocab, &["vocab_size"], 200_192.0),
    number(Field::Hidden, &["hidden_size"], 2048.0),
    number(Field::Ffn, &["intermediate_size"], 6144.0),
    number(Field::Heads, &["num_attention_heads"], 16.0),
    key(Field::HeadDim, &["head_dim"], Silence::Number(128.0)).null(Silence::Nothing),
    number(Field::Context, &["max_position_embeddings"], 16384.0),
    number(Field::NormEpsilon, &["rms_norm_eps"], 1e-5),
    window(1024.0),
    always(Field::QkNorm, true),
    number(Field::Experts, &["num_experts"], 64.0),
    number(Field::ExpertsUsed, &["num_experts_per_tok"], 6.0),
    number(Field::ExpertFfn, &["moe_intermediate_size"], 1408.0),
    number(Field::SharedExperts, &["num_shared_experts"], 2.0),
    number(Field::ExpertScale, &["route_scale"], 1.0),
    number(Field::DenseLayers, &["num_dense_layers"], 1.0),
    always(Field::NormTopk, true),
]);

/// Embeddings are multiplied in all published models, and by llama.cpp in any case: `config/quirks.rs`.
const LIMITS: &[HfLimit] = &[
    only("attention_bias", false),
    only("mup_enabled", true),
    HfLimit { key: "global_attn_every_n_layers", accepted: Accepted::Number(4.0) },
    HfLimit { key: "score_func", accepted: Accepted::Words(&["sigmoid"]) },
    only("route_norm", true),
];

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
    GgufKey::KeyValueLengthIfGiven,
    GgufKey::VocabSize,
    GgufKey::RopeDimensionCount,
    GgufKey::ExpertSharedCount,
    GgufKey::ExpertFeedForwardLength,
    GgufKey::LeadingDenseBlockCount,
    GgufKey::ExpertWeightsNorm,
    GgufKey::ExpertWeightsScale,
    GgufKey::SlidingWindow,
];

/// AFMoE.
pub static AFMOE: Architecture = Architecture {
    name: "afmoe",
    has_experts: true,
    hf_architectures: &["AfmoeForCausalLM"],
    hf_model_types: &["afmoe"],
    scaled_embeddings: true,
    sliding: Sliding::ButEvery(4),
    unrotated: Unrotated::Unwindowed,
    mixture: MixtureRules { scores: Scores::Sigmoid, choice_bias: true, ..MixtureRules::USUAL },
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
    tensor(Role::AttentionGate, "model.layers.{layer}.self_attn.gate_proj.weight", "blk.{layer}.attn_gate.weight", &[Query, Hidden], Always, Same),
    tensor(Role::AttentionOutput, "model.layers.{layer}.self_attn.o_proj.weight", "blk.{layer}.attn_output.weight", &[Hidden, Query], Always, Same),
    tensor(Role::AttentionQNorm, "model.layers.{layer}.self_attn.q_norm.weight", "blk.{layer}.attn_q_norm.weight", &[HeadDim], Always, Same),
    tensor(Role::AttentionKNorm, "model.layers.{layer}.self_attn.k_norm.weight", "blk.{layer}.attn_k_norm.weight", &[HeadDim], Always, Same),
    tensor(Role::AttentionPostNorm, "model.layers.{layer}.post_attention_layernorm.weight", "blk.{layer}.post_attention_norm.weight", &[Hidden], Always, Same),
    tensor(Role::FfnNorm, "model.layers.{layer}.pre_mlp_layernorm.weight", "blk.{layer}.ffn_norm.weight", &[Hidden], Always, Same),
    tensor(Role::FfnGate, "model.layers.{layer}.mlp.gate_proj.weight", "blk.{layer}.ffn_gate.weight", &[Ffn, Hidden], DenseLayers, Same),
    tensor(Role::FfnUp, "model.layers.{layer}.mlp.up_proj.weight", "blk.{layer}.ffn_up.weight", &[Ffn, Hidden], DenseLayers, Same),
    tensor(Role::FfnDown, "model.layers.{layer}.mlp.down_proj.weight", "blk.{layer}.ffn_down.weight", &[Hidden, Ffn], DenseLayers, Same),
    tensor(Role::Router, "model.layers.{layer}.mlp.router.gate.weight", "blk.{layer}.ffn_gate_inp.weight", &[Experts, Hidden], SparseLayers, Same),
    tensor(Role::ChoiceBias, "model.layers.{layer}.mlp.expert_bias", "blk.{layer}.exp_probs_b.bias", &[Experts], ChoiceBias, Same),
    tensor(Role::ExpertsGate, "model.layers.{layer}.mlp.experts.{expert}.gate_proj.weight", "blk.{layer}.ffn_gate_exps.weight", &[Experts, ExpertFfn, Hidden], SparseLayers, EachExpert),
    tensor(Role::ExpertsUp, "model.layers.{layer}.mlp.experts.{expert}.up_proj.weight", "blk.{layer}.ffn_up_exps.weight", &[Experts, ExpertFfn, Hidden], SparseLayers, EachExpert),
    tensor(Role::ExpertsDown, "model.layers.{layer}.mlp.experts.{expert}.down_proj.weight", "blk.{layer}.ffn_down_exps.weight", &[Experts, Hidden, ExpertFfn], SparseLayers, EachExpert),
    tensor(Role::SharedGate, "model.layers.{layer}.mlp.shared_experts.gate_proj.weight", "blk.{layer}.ffn_gate_shexp.weight", &[SharedFfn, Hidden], SharedExpert, Same),
    tensor(Role::SharedUp, "model.layers.{layer}.mlp.shared_experts.up_proj.weight", "blk.{layer}.ffn_up_shexp.weight", &[SharedFfn, Hidden], SharedExpert, Same),
    tensor(Role::SharedDown, "model.layers.{layer}.mlp.shared_experts.down_proj.weight", "blk.{layer}.ffn_down_shexp.weight", &[Hidden, SharedFfn], SharedExpert, Same),
    tensor(Role::FfnPostNorm, "model.layers.{layer}.post_mlp_layernorm.weight", "blk.{layer}.post_ffw_norm.weight", &[Hidden], Always, Same),
];
