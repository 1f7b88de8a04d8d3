//! The text model of Qwen 3-VL's mixtures of experts: Qwen 3's, whose releases hold all experts of a layer in one tensor,
//! transposed.

use super::table::*;
use crate::architecture::{Alias, Architecture, Field, GgufKey, HfKey, Silence, TensorTemplate};

/// With the defaults of transformers' `Qwen3VLMoeTextConfig`.
static KEYS: [HfKey; 19] = with_llama_keys([
    number(Field::Vocab, &["vocab_size"], 151_936.0),
    number(Field::Hidden, &["hidden_size"], 2048.0),
    number(Field::Ffn, &["intermediate_size"], 5632.0),
    number(Field::Layers, &["num_hidden_layers"], 24.0),
    number(Field::Heads, &["num_attention_heads"], 16.0),
    number(Field::KvHeads, &["num_key_value_heads"], 16.0),
    number(Field::Context, &["max_position_embeddings"], 128_000.0),
    number(Field::RopeTheta, &["rope_theta"], 500_000.0),
    key(Field::QkvBias, &["attention_bias"], Silence::Flag(false)),
    key(Field::OutputBias, &["attention_bias"], Silence::Flag(false)),
    always(Field::QkNorm, true),
    number(Field::Experts, &["num_local_experts", "num_experts"], 60.0).written("num_experts"),
    number(Field::ExpertsUsed, &["num_experts_per_tok"], 4.0),
    number(Field::ExpertFfn, &["moe_intermediate_size"], 1408.0),
    number(Field::SparseStep, &["decoder_sparse_step"], 1.0),
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
    GgufKey::RopeSections,
    GgufKey::RopeFreqBase,
    GgufKey::RmsEpsilon,
    GgufKey::ExpertCount,
    GgufKey::ExpertUsedCount,
    GgufKey::KeyValueLengthIfGiven,
    GgufKey::ExpertFeedForwardLength,
    GgufKey::DeepstackLayers,
];

/// As transformers 5 saves them, and as released. Of two layouts that fit, transformers takes the first as well.
static STACKS: [Alias; 6] = [
    stacked(Role::ExpertsGate, "model.layers.{layer}.mlp.experts.gate_up_proj", 2, 0),
    stacked(Role::ExpertsUp, "model.layers.{layer}.mlp.experts.gate_up_proj", 2, 1),
    stacked(Role::ExpertsDown, "model.layers.{layer}.mlp.experts.down_proj", 1, 0),
    beside(Role::ExpertsGate, "model.layers.{layer}.mlp.experts.gate_up_proj", 2, 0),
    beside(Role::ExpertsUp, "model.layers.{layer}.mlp.experts.gate_up_proj", 2, 1),
    beside(Role::ExpertsDown, "model.layers.{layer}.mlp.experts.down_proj", 1, 0),
];

/// The text model of Qwen 3-VL, mixtures of experts. By itself it is written as Qwen 3's class, one tensor an expert.
pub static QWEN3_VL_MOE: Architecture = Architecture {
    name: "qwen3vlmoe",
    has_experts: true,
    hf_architectures: &["Qwen3VLMoeForConditionalGeneration"],
    hf_model_types: &["qwen3_vl_moe_text"],
    hf_multimodal: &[("Qwen3VLMoeForConditionalGeneration", "qwen3_vl_moe_text")],
    tied_by_default: true,
    hf_keys: &KEYS,
    gguf_keys: GGUF_KEYS,
    tensors: TENSORS,
    hf_aliases: &STACKS,
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
    tensor(Role::ExpertsGate, "model.layers.{layer}.mlp.experts.{expert}.gate_proj.weight", "blk.{layer}.ffn_gate_exps.weight", &[Experts, ExpertFfn, Hidden], SparseLayers, EachExpert),
    tensor(Role::ExpertsUp, "model.layers.{layer}.mlp.experts.{expert}.up_proj.weight", "blk.{layer}.ffn_up_exps.weight", &[Experts, ExpertFfn, Hidden], SparseLayers, EachExpert),
    tensor(Role::ExpertsDown, "model.layers.{layer}.mlp.experts.{expert}.down_proj.weight", "blk.{layer}.ffn_down_exps.weight", &[Experts, Hidden, ExpertFfn], SparseLayers, EachExpert),
];
