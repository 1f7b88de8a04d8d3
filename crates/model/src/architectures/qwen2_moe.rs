//! Qwen 1.5 and 2 with mixtures of experts: beside the chosen experts one that all tokens use, weighted by a gate.

use super::table::*;
use crate::architecture::{
    Architecture, Field, GgufKey, HfKey, HfLimit, MixtureRules, Silence, TensorTemplate,
};

/// With the defaults of transformers' `Qwen2MoeConfig`.
static KEYS: [HfKey; 19] = with_llama_keys([
    number(Field::Vocab, &["vocab_size"], 151_936.0),
    number(Field::Hidden, &["hidden_size"], 2048.0),
    number(Field::Ffn, &["intermediate_size"], 5632.0),
    number(Field::Layers, &["num_hidden_layers"], 24.0),
    number(Field::Heads, &["num_attention_heads"], 16.0),
    kv_heads(16.0),
    number(Field::Context, &["max_position_embeddings"], 32768.0),
    key(Field::QkvBias, &["qkv_bias"], Silence::Flag(true)),
    always(Field::OutputBias, false),
    number(Field::Experts, &["num_local_experts", "num_experts"], 60.0).written("num_experts"),
    number(Field::ExpertsUsed, &["num_experts_per_tok"], 4.0),
    number(Field::ExpertFfn, &["moe_intermediate_size"], 1408.0),
    number(Field::SharedFfn, &["shared_expert_intermediate_size"], 5632.0),
    number(Field::SparseStep, &["decoder_sparse_step"], 1.0),
    key(Field::NormTopk, &["norm_topk_prob"], Silence::Flag(false)),
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
    GgufKey::KeyValueLengthIfGiven,
    GgufKey::ExpertFeedForwardLength,
    GgufKey::ExpertSharedFeedForwardLength,
];

/// Qwen 1.5 and 2, mixtures of experts.
pub static QWEN2_MOE: Architecture = Architecture {
    name: "qwen2moe",
    has_experts: true,
    hf_architectures: &["Qwen2MoeForCausalLM"],
    hf_model_types: &["qwen2_moe"],
    mixture: MixtureRules { shared_gated: true, normalized: false, ..MixtureRules::USUAL },
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
    tensor(Role::FfnNorm, "model.layers.{layer}.post_attention_layernorm.weight", "blk.{layer}.ffn_norm.weight", &[Hidden], Always, Same),
    tensor(Role::FfnGate, "model.layers.{layer}.mlp.gate_proj.weight", "blk.{layer}.ffn_gate.weight", &[Ffn, Hidden], DenseLayers, Same),
    tensor(Role::FfnUp, "model.layers.{layer}.mlp.up_proj.weight", "blk.{layer}.ffn_up.weight", &[Ffn, Hidden], DenseLayers, Same),
    tensor(Role::FfnDown, "model.layers.{layer}.mlp.down_proj.weight", "blk.{layer}.ffn_down.weight", &[Hidden, Ffn], DenseLayers, Same),
    tensor(Role::Router, "model.layers.{layer}.mlp.gate.weight", "blk.{layer}.ffn_gate_inp.weight", &[Experts, Hidden], SparseLayers, Same),
    tensor(Role::ExpertsGate, "model.layers.{layer}.mlp.experts.{expert}.gate_proj.weight", "blk.{layer}.ffn_gate_exps.weight", &[Experts, ExpertFfn, Hidden], SparseLayers, EachExpert),
    tensor(Role::ExpertsUp, "model.layers.{layer}.mlp.experts.{expert}.up_proj.weight", "blk.{layer}.ffn_up_exps.weight", &[Experts, ExpertFfn, Hidden], SparseLayers, EachExpert),
    tensor(Role::ExpertsDown, "model.layers.{layer}.mlp.experts.{expert}.down_proj.weight", "blk.{layer}.ffn_down_exps.weight", &[Experts, Hidden, ExpertFfn], SparseLayers, EachExpert),
    tensor(Role::SharedRouter, "model.layers.{layer}.mlp.shared_expert_gate.weight", "blk.{layer}.ffn_gate_inp_shexp.weight", &[One, Hidden], SharedRouter, Same),
    tensor(Role::SharedGate, "model.layers.{layer}.mlp.shared_expert.gate_proj.weight", "blk.{layer}.ffn_gate_shexp.weight", &[SharedFfn, Hidden], SharedExpert, Same),
    tensor(Role::SharedUp, "model.layers.{layer}.mlp.shared_expert.up_proj.weight", "blk.{layer}.ffn_up_shexp.weight", &[SharedFfn, Hidden], SharedExpert, Same),
    tensor(Role::SharedDown, "model.layers.{layer}.mlp.shared_expert.down_proj.weight", "blk.{layer}.ffn_down_shexp.weight", &[Hidden, SharedFfn], SharedExpert, Same),
];
