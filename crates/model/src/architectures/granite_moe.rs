//! Granite 3 of IBM, mixtures of experts: the multipliers of the dense models, and all experts of a layer in one tensor. Some
//! have a shared expert.

use super::table::*;
use crate::architecture::{
    Alias, AliasLayout, Architecture, Field, GgufKey, HfKey, RopeStyle, Silence, TensorTemplate,
};

/// With the defaults of transformers' `GraniteMoeConfig`.
static KEYS: [HfKey; 21] = with_llama_keys([
    key(Field::QkvBias, &["attention_bias"], Silence::Flag(false)),
    key(Field::OutputBias, &["attention_bias"], Silence::Flag(false)),
    number(Field::AttentionMultiplier, &["attention_multiplier"], 1.0),
    number(Field::EmbeddingMultiplier, &["embedding_multiplier"], 1.0),
    number(Field::ResidualMultiplier, &["residual_multiplier"], 1.0),
    number(Field::LogitDivisor, &["logits_scaling"], 1.0),
    number(Field::Experts, &["num_local_experts"], 8.0),
    number(Field::ExpertsUsed, &["num_experts_per_tok"], 2.0),
    key(Field::SharedFfn, &["shared_intermediate_size"], Silence::Number(0.0)),
    always(Field::NormTopk, true),
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
    GgufKey::KeyValueLengthUnlessUsual,
    GgufKey::VocabSize,
    GgufKey::RopeDimensionCount,
    GgufKey::Multipliers,
    GgufKey::ExpertSharedFeedForwardLength,
];

/// As released, and the names that transformers 5 has in memory.
pub(super) static STACKS: [Alias; 10] = [
    stacked(Role::ExpertsGate, "model.layers.{layer}.block_sparse_moe.input_linear.weight", 2, 0),
    stacked(Role::ExpertsUp, "model.layers.{layer}.block_sparse_moe.input_linear.weight", 2, 1),
    stacked(Role::ExpertsDown, "model.layers.{layer}.block_sparse_moe.output_linear.weight", 1, 0),
    stacked(Role::SharedGate, "model.layers.{layer}.shared_mlp.input_linear.weight", 2, 0),
    stacked(Role::SharedUp, "model.layers.{layer}.shared_mlp.input_linear.weight", 2, 1),
    stacked(Role::SharedDown, "model.layers.{layer}.shared_mlp.output_linear.weight", 1, 0),
    stacked(Role::ExpertsGate, "model.layers.{layer}.block_sparse_moe.experts.gate_up_proj", 2, 0),
    stacked(Role::ExpertsUp, "model.layers.{layer}.block_sparse_moe.experts.gate_up_proj", 2, 1),
    stacked(Role::ExpertsDown, "model.layers.{layer}.block_sparse_moe.experts.down_proj", 1, 0),
    Alias {
        role: Role::Router,
        name: "model.layers.{layer}.block_sparse_moe.router.weight",
        layout: AliasLayout::Same,
    },
];

/// Granite, mixtures of experts.
pub static GRANITE_MOE: Architecture = Architecture {
    name: "granitemoe",
    has_experts: true,
    hf_architectures: &["GraniteMoeForCausalLM", "GraniteMoeSharedForCausalLM"],
    hf_model_types: &["granitemoe", "granitemoeshared"],
    gguf_rope_style: RopeStyle::Interleaved,
    hf_keys: &KEYS,
    gguf_keys: GGUF_KEYS,
    tensors: TENSORS,
    hf_aliases: &STACKS,
    hf_woven: true,
    ..USUAL
};

#[rustfmt::skip]
const TENSORS: &[TensorTemplate] = &[
    tensor(Role::TokenEmbedding, "model.embed_tokens.weight", "token_embd.weight", &[Vocab, Hidden], Always, Same),
    tensor(Role::OutputNorm, "model.norm.weight", "output_norm.weight", &[Hidden], Always, Same),
    tensor(Role::Output, "lm_head.weight", "output.weight", &[Vocab, Hidden], UnlessTied, Same),
    computed(Role::RopeFactors, "rope_freqs.weight", crate::architecture::Presence::RopeFactors),
    tensor(Role::AttentionNorm, "model.layers.{layer}.input_layernorm.weight", "blk.{layer}.attn_norm.weight", &[Hidden], Always, Same),
    tensor(Role::AttentionQ, "model.layers.{layer}.self_attn.q_proj.weight", "blk.{layer}.attn_q.weight", &[Query, Hidden], Always, QueryHeads),
    tensor(Role::AttentionK, "model.layers.{layer}.self_attn.k_proj.weight", "blk.{layer}.attn_k.weight", &[KeyValue, Hidden], Always, KeyHeads),
    tensor(Role::AttentionV, "model.layers.{layer}.self_attn.v_proj.weight", "blk.{layer}.attn_v.weight", &[KeyValue, Hidden], Always, Same),
    tensor(Role::AttentionOutput, "model.layers.{layer}.self_attn.o_proj.weight", "blk.{layer}.attn_output.weight", &[Hidden, Query], Always, Same),
    tensor(Role::AttentionQBias, "model.layers.{layer}.self_attn.q_proj.bias", "blk.{layer}.attn_q.bias", &[Query], QkvBias, QueryHeads),
    tensor(Role::AttentionKBias, "model.layers.{layer}.self_attn.k_proj.bias", "blk.{layer}.attn_k.bias", &[KeyValue], QkvBias, KeyHeads),
    tensor(Role::AttentionVBias, "model.layers.{layer}.self_attn.v_proj.bias", "blk.{layer}.attn_v.bias", &[KeyValue], QkvBias, Same),
    tensor(Role::AttentionOutputBias, "model.layers.{layer}.self_attn.o_proj.bias", "blk.{layer}.attn_output.bias", &[Hidden], OutputBias, Same),
    tensor(Role::FfnNorm, "model.layers.{layer}.post_attention_layernorm.weight", "blk.{layer}.ffn_norm.weight", &[Hidden], Always, Same),
    tensor(Role::Router, "model.layers.{layer}.block_sparse_moe.router.layer.weight", "blk.{layer}.ffn_gate_inp.weight", &[Experts, Hidden], SparseLayers, Same),
    tensor(Role::ExpertsGate, "model.layers.{layer}.block_sparse_moe.experts.{expert}.gate_proj.weight", "blk.{layer}.ffn_gate_exps.weight", &[Experts, ExpertFfn, Hidden], SparseLayers, EachExpert),
    tensor(Role::ExpertsUp, "model.layers.{layer}.block_sparse_moe.experts.{expert}.up_proj.weight", "blk.{layer}.ffn_up_exps.weight", &[Experts, ExpertFfn, Hidden], SparseLayers, EachExpert),
    tensor(Role::ExpertsDown, "model.layers.{layer}.block_sparse_moe.experts.{expert}.down_proj.weight", "blk.{layer}.ffn_down_exps.weight", &[Experts, Hidden, ExpertFfn], SparseLayers, EachExpert),
    tensor(Role::SharedGate, "model.layers.{layer}.shared_mlp.gate_proj.weight", "blk.{layer}.ffn_gate_shexp.weight", &[SharedFfn, Hidden], SharedExpert, Same),
    tensor(Role::SharedUp, "model.layers.{layer}.shared_mlp.up_proj.weight", "blk.{layer}.ffn_up_shexp.weight", &[SharedFfn, Hidden], SharedExpert, Same),
    tensor(Role::SharedDown, "model.layers.{layer}.shared_mlp.down_proj.weight", "blk.{layer}.ffn_down_shexp.weight", &[Hidden, SharedFfn], SharedExpert, Same),
];
