//! ERNIE 4.5 of Baidu, mixtures of experts: a softmax whose choice has a bias, shared experts, and one feed-forward network
//! in the first layers.

use super::table::*;
use crate::architecture::{
    Architecture, Field, GgufKey, HfKey, MixtureRules, RopeStyle, Silence, TensorTemplate,
};

/// With the defaults of transformers' `Ernie4_5_MoeConfig`.
static KEYS: [HfKey; 20] = with_llama_keys([
    number(Field::Vocab, &["vocab_size"], 103_424.0),
    number(Field::Hidden, &["hidden_size"], 2560.0),
    number(Field::Ffn, &["intermediate_size"], 12288.0),
    number(Field::Layers, &["num_hidden_layers"], 28.0),
    number(Field::Heads, &["num_attention_heads"], 20.0),
    kv_heads(4.0),
    number(Field::Context, &["max_position_embeddings"], 131_072.0),
    number(Field::NormEpsilon, &["rms_norm_eps"], 1e-5),
    number(Field::RopeTheta, &["rope_theta"], 500_000.0),
    key(Field::QkvBias, &["use_bias"], Silence::Flag(false)),
    key(Field::OutputBias, &["use_bias"], Silence::Flag(false)),
    key(Field::MlpBias, &["use_bias"], Silence::Flag(false)),
    key(Field::Experts, &["moe_num_experts"], Silence::Number(64.0)),
    key(Field::ExpertsUsed, &["moe_k"], Silence::Number(6.0)),
    number(Field::ExpertFfn, &["moe_intermediate_size"], 1536.0),
    key(Field::SharedExperts, &["moe_num_shared_experts"], Silence::Number(2.0)),
    key(Field::DenseLayers, &["moe_layer_start_index"], Silence::Number(1.0)),
    key(Field::SparseStep, &["moe_layer_interval"], Silence::Number(1.0)),
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
    GgufKey::KeyValueLengthIfGiven,
    GgufKey::ExpertCount,
    GgufKey::ExpertUsedCount,
    GgufKey::InterleaveMoeLayerStep,
    GgufKey::LeadingDenseBlockCount,
    GgufKey::ExpertFeedForwardLength,
    GgufKey::ExpertSharedCount,
    GgufKey::ExpertSharedFeedForwardLength,
];

/// ERNIE 4.5, mixtures of experts.
pub static ERNIE4_5_MOE: Architecture = Architecture {
    name: "ernie4_5-moe",
    has_experts: true,
    hf_architectures: &["Ernie4_5_MoeForCausalLM"],
    hf_model_types: &["ernie4_5_moe"],
    gguf_rope_style: RopeStyle::Interleaved,
    hf_rope_style: RopeStyle::Interleaved,
    tied_by_default: true,
    mixture: MixtureRules { choice_bias: true, ..MixtureRules::USUAL },
    hf_keys: &KEYS,
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
    tensor(Role::FfnNorm, "model.layers.{layer}.post_attention_layernorm.weight", "blk.{layer}.ffn_norm.weight", &[Hidden], Always, Same),
    tensor(Role::FfnGate, "model.layers.{layer}.mlp.gate_proj.weight", "blk.{layer}.ffn_gate.weight", &[Ffn, Hidden], DenseLayers, Same),
    tensor(Role::FfnUp, "model.layers.{layer}.mlp.up_proj.weight", "blk.{layer}.ffn_up.weight", &[Ffn, Hidden], DenseLayers, Same),
    tensor(Role::FfnDown, "model.layers.{layer}.mlp.down_proj.weight", "blk.{layer}.ffn_down.weight", &[Hidden, Ffn], DenseLayers, Same),
    tensor(Role::Router, "model.layers.{layer}.mlp.gate.weight", "blk.{layer}.ffn_gate_inp.weight", &[Experts, Hidden], SparseLayers, Same),
    tensor(Role::ChoiceBias, "model.layers.{layer}.mlp.moe_statics.e_score_correction_bias", "blk.{layer}.exp_probs_b.bias", &[One, Experts], ChoiceBias, Same),
    tensor(Role::ExpertsGate, "model.layers.{layer}.mlp.experts.{expert}.gate_proj.weight", "blk.{layer}.ffn_gate_exps.weight", &[Experts, ExpertFfn, Hidden], SparseLayers, EachExpert),
    tensor(Role::ExpertsUp, "model.layers.{layer}.mlp.experts.{expert}.up_proj.weight", "blk.{layer}.ffn_up_exps.weight", &[Experts, ExpertFfn, Hidden], SparseLayers, EachExpert),
    tensor(Role::ExpertsDown, "model.layers.{layer}.mlp.experts.{expert}.down_proj.weight", "blk.{layer}.ffn_down_exps.weight", &[Experts, Hidden, ExpertFfn], SparseLayers, EachExpert),
    tensor(Role::SharedGate, "model.layers.{layer}.mlp.shared_experts.gate_proj.weight", "blk.{layer}.ffn_gate_shexp.weight", &[SharedFfn, Hidden], SharedExpert, Same),
    tensor(Role::SharedUp, "model.layers.{layer}.mlp.shared_experts.up_proj.weight", "blk.{layer}.ffn_up_shexp.weight", &[SharedFfn, Hidden], SharedExpert, Same),
    tensor(Role::SharedDown, "model.layers.{layer}.mlp.shared_experts.down_proj.weight", "blk.{layer}.ffn_down_shexp.weight", &[Hidden, SharedFfn], SharedExpert, Same),
];
