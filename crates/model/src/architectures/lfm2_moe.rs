//! LFM2 of Liquid AI with mixtures of experts, which are chosen by sigmoids and a bias, in all layers but the first.

use super::table::*;
use crate::architecture::{
    Architecture, Field, GgufKey, HfKey, HfLimit, MixtureRules, Presence, Scores, Silence, TensorTemplate,
};

/// With the defaults of transformers' `Lfm2MoeConfig`.
static KEYS: [HfKey; 18] = with_llama_keys([
    number(Field::Vocab, &["vocab_size"], 65536.0),
    number(Field::Hidden, &["hidden_size"], 2048.0),
    number(Field::Ffn, &["intermediate_size"], 7168.0),
    kv_heads(8.0),
    number(Field::Context, &["max_position_embeddings"], 128_000.0),
    number(Field::NormEpsilon, &["norm_eps"], 1e-5),
    key(Field::Activation, &[], Silence::Word("silu")),
    number(Field::RopeTheta, &["rope_theta"], 1_000_000.0),
    always(Field::QkNorm, true),
    number(Field::ConvTaps, &["conv_L_cache"], 3.0),
    number(Field::Experts, &["num_experts"], 32.0),
    number(Field::ExpertsUsed, &["num_experts_per_tok"], 4.0),
    number(Field::ExpertFfn, &["moe_intermediate_size"], 1792.0),
    number(Field::DenseLayers, &["num_dense_layers"], 2.0),
    number(Field::ExpertScale, &["routed_scaling_factor"], 1.0),
]);

const LIMITS: &[HfLimit] = &[
    only("conv_bias", false),
    only("tie_embedding", true),
    only("use_expert_bias", true),
    only("norm_topk_prob", true),
];

const GGUF_KEYS: &[GgufKey] = &[
    GgufKey::BlockCount,
    GgufKey::ContextLength,
    GgufKey::EmbeddingLength,
    GgufKey::FeedForwardLength,
    GgufKey::HeadCount,
    GgufKey::HeadCountKvLayers,
    GgufKey::RopeScaling,
    GgufKey::RopeFreqBase,
    GgufKey::RmsEpsilon,
    GgufKey::KeyValueLengthIfGiven,
    GgufKey::ExpertCount,
    GgufKey::ExpertUsedCount,
    GgufKey::ExpertFeedForwardLength,
    GgufKey::LeadingDenseBlockCount,
    GgufKey::ExpertGatingFunc,
    GgufKey::ExpertWeightsScaleUnlessOne,
    GgufKey::VocabSize,
    GgufKey::ShortConv,
];

/// LFM2 with experts.
pub static LFM2_MOE: Architecture = Architecture {
    name: "lfm2moe",
    has_experts: true,
    hf_architectures: &["Lfm2MoeForCausalLM"],
    hf_model_types: &["lfm2_moe"],
    tied_by_default: true,
    mixture: MixtureRules { scores: Scores::Sigmoid, choice_bias: true, ..MixtureRules::USUAL },
    hf_keys: &KEYS,
    hf_limits: LIMITS,
    gguf_keys: GGUF_KEYS,
    tensors: TENSORS,
    ..USUAL
};

#[rustfmt::skip]
const TENSORS: &[TensorTemplate] = &[
    tensor(Role::TokenEmbedding, "model.embed_tokens.weight", "token_embd.weight", &[Vocab, Hidden], Always, Same),
    tensor(Role::OutputNorm, "model.embedding_norm.weight", "token_embd_norm.weight", &[Hidden], Always, Same),
    tensor(Role::Output, "lm_head.weight", "output.weight", &[Vocab, Hidden], UnlessTied, Same),
    tensor(Role::AttentionNorm, "model.layers.{layer}.operator_norm.weight", "blk.{layer}.attn_norm.weight", &[Hidden], Always, Same),
    tensor(Role::StateIn, "model.layers.{layer}.conv.in_proj.weight", "blk.{layer}.shortconv.in_proj.weight", &[TripleHidden, Hidden], StateLayers, Same),
    tensor(Role::StateConv, "model.layers.{layer}.conv.conv.weight", "blk.{layer}.shortconv.conv.weight", &[Hidden, ConvTaps], StateLayers, Conv),
    tensor(Role::StateOut, "model.layers.{layer}.conv.out_proj.weight", "blk.{layer}.shortconv.out_proj.weight", &[Hidden, Hidden], StateLayers, Same),
    tensor(Role::AttentionQ, "model.layers.{layer}.self_attn.q_proj.weight", "blk.{layer}.attn_q.weight", &[Query, Hidden], AttentionLayers, Same),
    tensor(Role::AttentionK, "model.layers.{layer}.self_attn.k_proj.weight", "blk.{layer}.attn_k.weight", &[KeyValue, Hidden], AttentionLayers, Same),
    tensor(Role::AttentionV, "model.layers.{layer}.self_attn.v_proj.weight", "blk.{layer}.attn_v.weight", &[KeyValue, Hidden], AttentionLayers, Same),
    tensor(Role::AttentionOutput, "model.layers.{layer}.self_attn.out_proj.weight", "blk.{layer}.attn_output.weight", &[Hidden, Query], AttentionLayers, Same),
    tensor(Role::AttentionQNorm, "model.layers.{layer}.self_attn.q_layernorm.weight", "blk.{layer}.attn_q_norm.weight", &[HeadDim], AttentionLayers, Same),
    tensor(Role::AttentionKNorm, "model.layers.{layer}.self_attn.k_layernorm.weight", "blk.{layer}.attn_k_norm.weight", &[HeadDim], AttentionLayers, Same),
    tensor(Role::FfnNorm, "model.layers.{layer}.ffn_norm.weight", "blk.{layer}.ffn_norm.weight", &[Hidden], Always, Same),
    tensor(Role::FfnGate, "model.layers.{layer}.feed_forward.w1.weight", "blk.{layer}.ffn_gate.weight", &[Ffn, Hidden], DenseLayers, Same),
    tensor(Role::FfnUp, "model.layers.{layer}.feed_forward.w3.weight", "blk.{layer}.ffn_up.weight", &[Ffn, Hidden], DenseLayers, Same),
    tensor(Role::FfnDown, "model.layers.{layer}.feed_forward.w2.weight", "blk.{layer}.ffn_down.weight", &[Hidden, Ffn], DenseLayers, Same),
    tensor(Role::Router, "model.layers.{layer}.feed_forward.gate.weight", "blk.{layer}.ffn_gate_inp.weight", &[Experts, Hidden], SparseLayers, Same),
    tensor(Role::ChoiceBias, "model.layers.{layer}.feed_forward.expert_bias", "blk.{layer}.exp_probs_b.bias", &[Experts], Presence::ChoiceBias, Same),
    tensor(Role::ExpertsGate, "model.layers.{layer}.feed_forward.experts.{expert}.w1.weight", "blk.{layer}.ffn_gate_exps.weight", &[Experts, ExpertFfn, Hidden], SparseLayers, EachExpert),
    tensor(Role::ExpertsUp, "model.layers.{layer}.feed_forward.experts.{expert}.w3.weight", "blk.{layer}.ffn_up_exps.weight", &[Experts, ExpertFfn, Hidden], SparseLayers, EachExpert),
    tensor(Role::ExpertsDown, "model.layers.{layer}.feed_forward.experts.{expert}.w2.weight", "blk.{layer}.ffn_down_exps.weight", &[Experts, Hidden, ExpertFfn], SparseLayers, EachExpert),
];
