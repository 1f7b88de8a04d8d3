//! Qwen3-Next: gated delta nets whose projections are joined head by head, gated attention with a partial rotation in each
//! fourth layer, and mixtures of experts with one that all tokens use.

use super::table::*;
use crate::architecture::{
    Accepted, Architecture, Field, GgufKey, HfKey, HfLimit, Layout, MixtureRules, Silence, TensorTemplate,
};

/// With the defaults of transformers' `Qwen3NextConfig`.
static KEYS: [HfKey; 23] = with_llama_keys([
    number(Field::Vocab, &["vocab_size"], 151_936.0),
    number(Field::Hidden, &["hidden_size"], 2048.0),
    number(Field::Ffn, &["intermediate_size"], 5632.0),
    number(Field::Layers, &["num_hidden_layers"], 48.0),
    number(Field::Heads, &["num_attention_heads"], 16.0),
    kv_heads(2.0),
    number(Field::HeadDim, &["head_dim"], 256.0),
    number(Field::Context, &["max_position_embeddings"], 32768.0),
    number(Field::PartialRotary, &["partial_rotary_factor"], 0.25),
    always(Field::QkNorm, true),
    number(Field::DeltaKeyHeads, &["linear_num_key_heads"], 16.0),
    number(Field::DeltaValueHeads, &["linear_num_value_heads"], 32.0),
    number(Field::DeltaKeyDim, &["linear_key_head_dim"], 128.0),
    number(Field::DeltaValueDim, &["linear_value_head_dim"], 128.0),
    number(Field::ConvTaps, &["linear_conv_kernel_dim"], 4.0),
    number(Field::Experts, &["num_local_experts", "num_experts"], 512.0).written("num_experts"),
    number(Field::ExpertsUsed, &["num_experts_per_tok"], 10.0),
    number(Field::ExpertFfn, &["moe_intermediate_size"], 512.0),
    number(Field::SharedFfn, &["shared_expert_intermediate_size"], 512.0),
    key(Field::NormTopk, &["norm_topk_prob"], Silence::Flag(true)),
]);

/// All layers of published models are mixtures.
const LIMITS: &[HfLimit] = &[
    only("attention_bias", false),
    HfLimit { key: "decoder_sparse_step", accepted: Accepted::Number(1.0) },
    HfLimit { key: "mlp_only_layers", accepted: Accepted::Empty },
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
    GgufKey::KeyValueLength,
    GgufKey::ExpertFeedForwardLength,
    GgufKey::ExpertSharedFeedForwardLength,
    GgufKey::ExpertWeightsNormOff,
    GgufKey::DeltaNet,
    GgufKey::RopeDimensionCount,
];

/// Qwen3-Next.
pub static QWEN3_NEXT: Architecture = Architecture {
    name: "qwen3next",
    has_experts: true,
    hf_architectures: &["Qwen3NextForCausalLM"],
    hf_model_types: &["qwen3_next"],
    norm_plus_one: true,
    gated_attention: true,
    mixture: MixtureRules { shared_gated: true, ..MixtureRules::USUAL },
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
    tensor(Role::OutputNorm, "model.norm.weight", "output_norm.weight", &[Hidden], Always, PlusOne),
    tensor(Role::Output, "lm_head.weight", "output.weight", &[Vocab, Hidden], UnlessTied, Same),
    tensor(Role::AttentionNorm, "model.layers.{layer}.input_layernorm.weight", "blk.{layer}.attn_norm.weight", &[Hidden], Always, PlusOne),
    joined(Role::StateIn, "model.layers.{layer}.linear_attn.in_proj_qkvz.weight", &[DeltaIn, Hidden], StateLayers),
    derived(Role::DeltaQkv, "blk.{layer}.attn_qkv.weight", &[DeltaQkv, Hidden], StateLayers, Layout::DeltaInQkv),
    derived(Role::DeltaGate, "blk.{layer}.attn_gate.weight", &[DeltaValues, Hidden], StateLayers, Layout::DeltaInGate),
    tensor(Role::DeltaBetaAlpha, "model.layers.{layer}.linear_attn.in_proj_ba.weight", "blk.{layer}.ssm_ba.weight", &[DeltaPairs, Hidden], StateLayers, Same),
    tensor(Role::StateConv, "model.layers.{layer}.linear_attn.conv1d.weight", "blk.{layer}.ssm_conv1d.weight", &[DeltaQkv, ConvTaps], StateLayers, Conv),
    tensor(Role::StateTimeBias, "model.layers.{layer}.linear_attn.dt_bias", "blk.{layer}.ssm_dt.bias", &[DeltaHeads], StateLayers, Same),
    tensor(Role::StateDecay, "model.layers.{layer}.linear_attn.A_log", "blk.{layer}.ssm_a", &[DeltaHeads], StateLayers, FlatDecay),
    tensor(Role::StateNorm, "model.layers.{layer}.linear_attn.norm.weight", "blk.{layer}.ssm_norm.weight", &[DeltaHeadDim], StateLayers, Same),
    tensor(Role::StateOut, "model.layers.{layer}.linear_attn.out_proj.weight", "blk.{layer}.ssm_out.weight", &[Hidden, DeltaValues], StateLayers, Same),
    tensor(Role::AttentionQ, "model.layers.{layer}.self_attn.q_proj.weight", "blk.{layer}.attn_q.weight", &[QueryGate, Hidden], AttentionLayers, Same),
    tensor(Role::AttentionK, "model.layers.{layer}.self_attn.k_proj.weight", "blk.{layer}.attn_k.weight", &[KeyValue, Hidden], AttentionLayers, Same),
    tensor(Role::AttentionV, "model.layers.{layer}.self_attn.v_proj.weight", "blk.{layer}.attn_v.weight", &[KeyValue, Hidden], AttentionLayers, Same),
    tensor(Role::AttentionOutput, "model.layers.{layer}.self_attn.o_proj.weight", "blk.{layer}.attn_output.weight", &[Hidden, Query], AttentionLayers, Same),
    tensor(Role::AttentionQNorm, "model.layers.{layer}.self_attn.q_norm.weight", "blk.{layer}.attn_q_norm.weight", &[HeadDim], AttentionLayers, PlusOne),
    tensor(Role::AttentionKNorm, "model.layers.{layer}.self_attn.k_norm.weight", "blk.{layer}.attn_k_norm.weight", &[HeadDim], AttentionLayers, PlusOne),
    tensor(Role::FfnNorm, "model.layers.{layer}.post_attention_layernorm.weight", "blk.{layer}.post_attention_norm.weight", &[Hidden], Always, PlusOne),
    tensor(Role::Router, "model.layers.{layer}.mlp.gate.weight", "blk.{layer}.ffn_gate_inp.weight", &[Experts, Hidden], SparseLayers, Same),
    tensor(Role::ExpertsGate, "model.layers.{layer}.mlp.experts.{expert}.gate_proj.weight", "blk.{layer}.ffn_gate_exps.weight", &[Experts, ExpertFfn, Hidden], SparseLayers, EachExpert),
    tensor(Role::ExpertsUp, "model.layers.{layer}.mlp.experts.{expert}.up_proj.weight", "blk.{layer}.ffn_up_exps.weight", &[Experts, ExpertFfn, Hidden], SparseLayers, EachExpert),
    tensor(Role::ExpertsDown, "model.layers.{layer}.mlp.experts.{expert}.down_proj.weight", "blk.{layer}.ffn_down_exps.weight", &[Experts, Hidden, ExpertFfn], SparseLayers, EachExpert),
    tensor(Role::SharedRouter, "model.layers.{layer}.mlp.shared_expert_gate.weight", "blk.{layer}.ffn_gate_inp_shexp.weight", &[One, Hidden], SharedRouter, Same),
    tensor(Role::SharedGate, "model.layers.{layer}.mlp.shared_expert.gate_proj.weight", "blk.{layer}.ffn_gate_shexp.weight", &[SharedFfn, Hidden], SharedExpert, Same),
    tensor(Role::SharedUp, "model.layers.{layer}.mlp.shared_expert.up_proj.weight", "blk.{layer}.ffn_up_shexp.weight", &[SharedFfn, Hidden], SharedExpert, Same),
    tensor(Role::SharedDown, "model.layers.{layer}.mlp.shared_expert.down_proj.weight", "blk.{layer}.ffn_down_shexp.weight", &[Hidden, SharedFfn], SharedExpert, Same),
];
