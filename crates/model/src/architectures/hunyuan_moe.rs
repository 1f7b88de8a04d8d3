//! Hunyuan of Tencent, mixtures of experts (Hunyuan-A13B): the attention of the dense models, and in each layer a mixture with
//! a shared expert.

use super::table::*;
use crate::architecture::{Accepted, Architecture, Field, GgufKey, HfKey, HfLimit, Silence, TensorTemplate};

/// With the defaults of transformers' `HunYuanMoEV1Config`. Published files have lists of numbers for all layers, which are
/// the same.
static KEYS: [HfKey; 19] = with_llama_keys([
    number(Field::Vocab, &["vocab_size"], 290_943.0),
    number(Field::NormEpsilon, &["rms_norm_eps"], 1e-5),
    key(Field::QkvBias, &["attention_bias"], Silence::Flag(false)),
    key(Field::OutputBias, &["attention_bias"], Silence::Flag(false)),
    always(Field::QkNorm, true),
    number(Field::Experts, &["num_experts", "num_local_experts"], 1.0),
    number(Field::ExpertsUsed, &["moe_topk", "num_experts_per_tok"], 1.0),
    key(Field::ExpertFfn, &["moe_intermediate_size"], Silence::Nothing),
    number(Field::SharedFfn, &["intermediate_size"], 11008.0).unwritten(),
    always(Field::NormTopk, true),
]);

/// Keys of the class that published files bring with them.
const LIMITS: &[HfLimit] = &[
    only("use_cla", false),
    only("use_qk_norm", true),
    only("norm_topk_prob", true),
    only("mlp_bias", false),
    HfLimit { key: "moe_layer_num_skipped", accepted: Accepted::Number(0.0) },
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
    GgufKey::KeyValueLengthIfGiven,
    GgufKey::ExpertSharedFeedForwardLength,
    GgufKey::ExpertFeedForwardLength,
    GgufKey::ExpertUsedCount,
    GgufKey::ExpertSharedCount,
    GgufKey::StretchedRope,
];

/// Hunyuan, mixtures of experts.
pub static HUNYUAN_MOE: Architecture = Architecture {
    name: "hunyuan-moe",
    has_experts: true,
    hf_architectures: &["HunYuanMoEV1ForCausalLM"],
    hf_model_types: &["hunyuan_v1_moe"],
    norms_after_rotation: true,
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
    tensor(Role::AttentionOutputBias, "model.layers.{layer}.self_attn.o_proj.bias", "blk.{layer}.attn_output.bias", &[Hidden], OutputBias, Same),
    tensor(Role::AttentionQNorm, "model.layers.{layer}.self_attn.query_layernorm.weight", "blk.{layer}.attn_q_norm.weight", &[HeadDim], QkNorm, Same),
    tensor(Role::AttentionKNorm, "model.layers.{layer}.self_attn.key_layernorm.weight", "blk.{layer}.attn_k_norm.weight", &[HeadDim], QkNorm, Same),
    tensor(Role::FfnNorm, "model.layers.{layer}.post_attention_layernorm.weight", "blk.{layer}.ffn_norm.weight", &[Hidden], Always, Same),
    tensor(Role::Router, "model.layers.{layer}.mlp.gate.wg.weight", "blk.{layer}.ffn_gate_inp.weight", &[Experts, Hidden], SparseLayers, Same),
    tensor(Role::ExpertsGate, "model.layers.{layer}.mlp.experts.{expert}.gate_proj.weight", "blk.{layer}.ffn_gate_exps.weight", &[Experts, ExpertFfn, Hidden], SparseLayers, EachExpert),
    tensor(Role::ExpertsUp, "model.layers.{layer}.mlp.experts.{expert}.up_proj.weight", "blk.{layer}.ffn_up_exps.weight", &[Experts, ExpertFfn, Hidden], SparseLayers, EachExpert),
    tensor(Role::ExpertsDown, "model.layers.{layer}.mlp.experts.{expert}.down_proj.weight", "blk.{layer}.ffn_down_exps.weight", &[Experts, Hidden, ExpertFfn], SparseLayers, EachExpert),
    tensor(Role::SharedGate, "model.layers.{layer}.mlp.shared_mlp.gate_proj.weight", "blk.{layer}.ffn_gate_shexp.weight", &[SharedFfn, Hidden], SharedExpert, Same),
    tensor(Role::SharedUp, "model.layers.{layer}.mlp.shared_mlp.up_proj.weight", "blk.{layer}.ffn_up_shexp.weight", &[SharedFfn, Hidden], SharedExpert, Same),
    tensor(Role::SharedDown, "model.layers.{layer}.mlp.shared_mlp.down_proj.weight", "blk.{layer}.ffn_down_shexp.weight", &[Hidden, SharedFfn], SharedExpert, Same),
];
