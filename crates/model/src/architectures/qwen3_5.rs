//! Qwen 3.5 and 3.6: gated delta nets, and gated attention with a partial rotation in each fourth layer.

use super::table::*;
use crate::architecture::{
    Architecture, Field, GgufKey, HfKey, HfLimit, Layout, MixtureRules, Silence, TensorTemplate,
};

/// With the defaults of transformers' `Qwen3_5TextConfig`.
static KEYS: [HfKey; 18] = with_llama_keys([
    number(Field::Vocab, &["vocab_size"], 248_320.0),
    number(Field::Ffn, &["intermediate_size"], 12288.0),
    number(Field::Heads, &["num_attention_heads"], 16.0),
    kv_heads(4.0),
    number(Field::HeadDim, &["head_dim"], 256.0),
    number(Field::Context, &["max_position_embeddings"], 32768.0),
    number(Field::PartialRotary, &["partial_rotary_factor"], 0.25),
    always(Field::QkNorm, true),
    number(Field::DeltaKeyHeads, &["linear_num_key_heads"], 16.0),
    number(Field::DeltaValueHeads, &["linear_num_value_heads"], 32.0),
    number(Field::DeltaKeyDim, &["linear_key_head_dim"], 128.0),
    number(Field::DeltaValueDim, &["linear_value_head_dim"], 128.0),
    number(Field::ConvTaps, &["linear_conv_kernel_dim"], 4.0),
]);

const LIMITS: &[HfLimit] = &[only("attention_bias", false)];

/// With the defaults of transformers' `Qwen3_5MoeTextConfig`. There is no network beside the experts.
static MOE_KEYS: [HfKey; 22] = with_llama_keys([
    number(Field::Vocab, &["vocab_size"], 248_320.0),
    number(Field::Hidden, &["hidden_size"], 2048.0),
    key(Field::Ffn, &[], Silence::Times(4, Field::Hidden)),
    number(Field::Layers, &["num_hidden_layers"], 40.0),
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
    number(Field::Experts, &["num_local_experts", "num_experts"], 256.0).written("num_experts"),
    number(Field::ExpertsUsed, &["num_experts_per_tok"], 8.0),
    number(Field::ExpertFfn, &["moe_intermediate_size"], 512.0),
    number(Field::SharedFfn, &["shared_expert_intermediate_size"], 512.0),
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
    GgufKey::KeyValueLength,
    GgufKey::DeltaNet,
    GgufKey::RopeDimensionCount,
];

/// Qwen 3.5 and 3.6 without experts; releases have a vision tower around it.
pub static QWEN3_5: Architecture = Architecture {
    name: "qwen35",
    hf_architectures: &["Qwen3_5ForCausalLM", "Qwen3_5ForConditionalGeneration"],
    hf_model_types: &["qwen3_5_text"],
    hf_multimodal: &[("Qwen3_5ForConditionalGeneration", "qwen3_5_text")],
    norm_plus_one: true,
    gated_attention: true,
    hf_keys: &KEYS,
    hf_limits: LIMITS,
    gguf_keys: GGUF_KEYS,
    tensors: TENSORS,
    ..USUAL
};

const MOE_GGUF_KEYS: &[GgufKey] = &[
    GgufKey::BlockCount,
    GgufKey::ContextLength,
    GgufKey::EmbeddingLength,
    GgufKey::HeadCount,
    GgufKey::HeadCountKv,
    GgufKey::RopeScaling,
    GgufKey::RopeSections,
    GgufKey::RopeFreqBase,
    GgufKey::RmsEpsilon,
    GgufKey::ExpertCount,
    GgufKey::ExpertUsedCount,
    GgufKey::KeyValueLength,
    GgufKey::ExpertFeedForwardLength,
    GgufKey::ExpertSharedFeedForwardLength,
    GgufKey::DeltaNet,
    GgufKey::RopeDimensionCount,
];

/// Qwen 3.5 and 3.6 with mixtures of experts, and one expert that all tokens use.
pub static QWEN3_5_MOE: Architecture = Architecture {
    name: "qwen35moe",
    has_experts: true,
    hf_architectures: &["Qwen3_5MoeForCausalLM", "Qwen3_5MoeForConditionalGeneration"],
    hf_model_types: &["qwen3_5_moe_text"],
    hf_multimodal: &[("Qwen3_5MoeForConditionalGeneration", "qwen3_5_moe_text")],
    norm_plus_one: true,
    gated_attention: true,
    mixture: MixtureRules { shared_gated: true, ..MixtureRules::USUAL },
    hf_keys: &MOE_KEYS,
    hf_limits: LIMITS,
    gguf_keys: MOE_GGUF_KEYS,
    tensors: MOE_TENSORS,
    hf_aliases: &FUSED_EXPERTS,
    ..USUAL
};

#[rustfmt::skip]
const TENSORS: &[TensorTemplate] = &[
    tensor(Role::TokenEmbedding, "model.embed_tokens.weight", "token_embd.weight", &[Vocab, Hidden], Always, Same),
    tensor(Role::OutputNorm, "model.norm.weight", "output_norm.weight", &[Hidden], Always, PlusOne),
    tensor(Role::Output, "lm_head.weight", "output.weight", &[Vocab, Hidden], UnlessTied, Same),
    tensor(Role::AttentionNorm, "model.layers.{layer}.input_layernorm.weight", "blk.{layer}.attn_norm.weight", &[Hidden], Always, PlusOne),
    tensor(Role::DeltaQkv, "model.layers.{layer}.linear_attn.in_proj_qkv.weight", "blk.{layer}.attn_qkv.weight", &[DeltaQkv, Hidden], StateLayers, Layout::DeltaQkv),
    tensor(Role::DeltaGate, "model.layers.{layer}.linear_attn.in_proj_z.weight", "blk.{layer}.attn_gate.weight", &[DeltaValues, Hidden], StateLayers, Layout::DeltaValues),
    tensor(Role::DeltaBeta, "model.layers.{layer}.linear_attn.in_proj_b.weight", "blk.{layer}.ssm_beta.weight", &[DeltaHeads, Hidden], StateLayers, Layout::DeltaHeads),
    tensor(Role::DeltaAlpha, "model.layers.{layer}.linear_attn.in_proj_a.weight", "blk.{layer}.ssm_alpha.weight", &[DeltaHeads, Hidden], StateLayers, Layout::DeltaHeads),
    tensor(Role::StateConv, "model.layers.{layer}.linear_attn.conv1d.weight", "blk.{layer}.ssm_conv1d.weight", &[DeltaQkv, ConvTaps], StateLayers, Layout::DeltaConv),
    tensor(Role::StateTimeBias, "model.layers.{layer}.linear_attn.dt_bias", "blk.{layer}.ssm_dt.bias", &[DeltaHeads], StateLayers, Layout::DeltaHeads),
    tensor(Role::StateDecay, "model.layers.{layer}.linear_attn.A_log", "blk.{layer}.ssm_a", &[DeltaHeads], StateLayers, Layout::DeltaDecay),
    tensor(Role::StateNorm, "model.layers.{layer}.linear_attn.norm.weight", "blk.{layer}.ssm_norm.weight", &[DeltaHeadDim], StateLayers, Same),
    tensor(Role::StateOut, "model.layers.{layer}.linear_attn.out_proj.weight", "blk.{layer}.ssm_out.weight", &[Hidden, DeltaValues], StateLayers, Layout::DeltaColumns),
    tensor(Role::AttentionQ, "model.layers.{layer}.self_attn.q_proj.weight", "blk.{layer}.attn_q.weight", &[QueryGate, Hidden], AttentionLayers, Same),
    tensor(Role::AttentionK, "model.layers.{layer}.self_attn.k_proj.weight", "blk.{layer}.attn_k.weight", &[KeyValue, Hidden], AttentionLayers, Same),
    tensor(Role::AttentionV, "model.layers.{layer}.self_attn.v_proj.weight", "blk.{layer}.attn_v.weight", &[KeyValue, Hidden], AttentionLayers, Same),
    tensor(Role::AttentionOutput, "model.layers.{layer}.self_attn.o_proj.weight", "blk.{layer}.attn_output.weight", &[Hidden, Query], AttentionLayers, Same),
    tensor(Role::AttentionQNorm, "model.layers.{layer}.self_attn.q_norm.weight", "blk.{layer}.attn_q_norm.weight", &[HeadDim], AttentionLayers, PlusOne),
    tensor(Role::AttentionKNorm, "model.layers.{layer}.self_attn.k_norm.weight", "blk.{layer}.attn_k_norm.weight", &[HeadDim], AttentionLayers, PlusOne),
    tensor(Role::FfnNorm, "model.layers.{layer}.post_attention_layernorm.weight", "blk.{layer}.post_attention_norm.weight", &[Hidden], Always, PlusOne),
    tensor(Role::FfnGate, "model.layers.{layer}.mlp.gate_proj.weight", "blk.{layer}.ffn_gate.weight", &[Ffn, Hidden], Always, Same),
    tensor(Role::FfnUp, "model.layers.{layer}.mlp.up_proj.weight", "blk.{layer}.ffn_up.weight", &[Ffn, Hidden], Always, Same),
    tensor(Role::FfnDown, "model.layers.{layer}.mlp.down_proj.weight", "blk.{layer}.ffn_down.weight", &[Hidden, Ffn], Always, Same),
];

#[rustfmt::skip]
const MOE_TENSORS: &[TensorTemplate] = &[
    tensor(Role::TokenEmbedding, "model.embed_tokens.weight", "token_embd.weight", &[Vocab, Hidden], Always, Same),
    tensor(Role::OutputNorm, "model.norm.weight", "output_norm.weight", &[Hidden], Always, PlusOne),
    tensor(Role::Output, "lm_head.weight", "output.weight", &[Vocab, Hidden], UnlessTied, Same),
    tensor(Role::AttentionNorm, "model.layers.{layer}.input_layernorm.weight", "blk.{layer}.attn_norm.weight", &[Hidden], Always, PlusOne),
    tensor(Role::DeltaQkv, "model.layers.{layer}.linear_attn.in_proj_qkv.weight", "blk.{layer}.attn_qkv.weight", &[DeltaQkv, Hidden], StateLayers, Layout::DeltaQkv),
    tensor(Role::DeltaGate, "model.layers.{layer}.linear_attn.in_proj_z.weight", "blk.{layer}.attn_gate.weight", &[DeltaValues, Hidden], StateLayers, Layout::DeltaValues),
    tensor(Role::DeltaBeta, "model.layers.{layer}.linear_attn.in_proj_b.weight", "blk.{layer}.ssm_beta.weight", &[DeltaHeads, Hidden], StateLayers, Layout::DeltaHeads),
    tensor(Role::DeltaAlpha, "model.layers.{layer}.linear_attn.in_proj_a.weight", "blk.{layer}.ssm_alpha.weight", &[DeltaHeads, Hidden], StateLayers, Layout::DeltaHeads),
    tensor(Role::StateConv, "model.layers.{layer}.linear_attn.conv1d.weight", "blk.{layer}.ssm_conv1d.weight", &[DeltaQkv, ConvTaps], StateLayers, Layout::DeltaConv),
    tensor(Role::StateTimeBias, "model.layers.{layer}.linear_attn.dt_bias", "blk.{layer}.ssm_dt.bias", &[DeltaHeads], StateLayers, Layout::DeltaHeads),
    tensor(Role::StateDecay, "model.layers.{layer}.linear_attn.A_log", "blk.{layer}.ssm_a", &[DeltaHeads], StateLayers, Layout::DeltaDecay),
    tensor(Role::StateNorm, "model.layers.{layer}.linear_attn.norm.weight", "blk.{layer}.ssm_norm.weight", &[DeltaHeadDim], StateLayers, Same),
    tensor(Role::StateOut, "model.layers.{layer}.linear_attn.out_proj.weight", "blk.{layer}.ssm_out.weight", &[Hidden, DeltaValues], StateLayers, Layout::DeltaColumns),
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
