//! The text model of Llama 4 of Meta: a mixture in each layer, or every other, with a shared expert and shares that multiply
//! what experts read; three layers of four rotate and see their own part of the text alone, with norms without weights on
//! queries and keys (Scout), and each fourth sees everything, does not rotate, and has queries that grow.

use super::table::*;
use crate::architecture::{
    Alias, AliasLayout, Architecture, Field, GgufKey, HfKey, HfLimit, MixtureRules, RopeStyle, Scores,
    Silence, Sliding, TensorTemplate, Unrotated,
};

/// With the defaults of transformers' `Llama4TextConfig`. Those of [`crate::config`]'s `llama4` are beside them.
static KEYS: [HfKey; 21] = with_llama_keys([
    number(Field::Vocab, &["vocab_size"], 202_048.0),
    number(Field::Hidden, &["hidden_size"], 5120.0),
    number(Field::Ffn, &["intermediate_size_mlp"], 16384.0),
    number(Field::Layers, &["num_hidden_layers"], 48.0),
    number(Field::Heads, &["num_attention_heads"], 40.0),
    kv_heads(8.0),
    number(Field::HeadDim, &["head_dim"], 128.0).null(Silence::Nothing),
    number(Field::Context, &["max_position_embeddings"], 131_072.0),
    number(Field::NormEpsilon, &["rms_norm_eps"], 1e-5),
    number(Field::RopeTheta, &["rope_theta"], 500_000.0),
    key(Field::QkNorm, &["use_qk_norm"], Silence::Flag(true)),
    key(Field::SlidingWindow, &["attention_chunk_size"], Silence::Number(8192.0)).null(Silence::Nothing),
    number(Field::UnrotatedInterval, &["no_rope_layer_interval"], 4.0).unwritten(),
    number(Field::Experts, &["num_local_experts"], 16.0),
    number(Field::ExpertsUsed, &["num_experts_per_tok"], 1.0),
    number(Field::ExpertFfn, &["intermediate_size"], 8192.0),
    number(Field::SharedFfn, &["intermediate_size"], 8192.0).unwritten(),
    number(Field::SparseStep, &["interleave_moe_layer_step"], 1.0),
    always(Field::NormTopk, false),
    always(Field::QkvBias, false),
]);

const LIMITS: &[HfLimit] = &[only("attention_bias", false)];

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
    GgufKey::InterleaveMoeLayerStep,
    GgufKey::ExpertFeedForwardLength,
    GgufKey::Llama4,
];

const GATE_UP: &str = "model.layers.{layer}.feed_forward.experts.gate_up_proj";
const DOWN: &str = "model.layers.{layer}.feed_forward.experts.down_proj";

static STACKS: [Alias; 3] = [
    Alias { role: Role::ExpertsGate, name: GATE_UP, layout: AliasLayout::Beside { of: 2, which: 0 } },
    Alias { role: Role::ExpertsUp, name: GATE_UP, layout: AliasLayout::Beside { of: 2, which: 1 } },
    Alias { role: Role::ExpertsDown, name: DOWN, layout: AliasLayout::Beside { of: 1, which: 0 } },
];

/// The text model of Llama 4, by itself or in a multimodal release.
pub static LLAMA4: Architecture = Architecture {
    name: "llama4",
    has_experts: true,
    hf_architectures: &["Llama4ForCausalLM", "Llama4ForConditionalGeneration"],
    hf_model_types: &["llama4_text"],
    hf_multimodal: &[("Llama4ForConditionalGeneration", "llama4_text")],
    gguf_rope_style: RopeStyle::Interleaved,
    hf_rope_style: RopeStyle::Interleaved,
    unrotated: Unrotated::Every(4),
    sliding: Sliding::ButEvery(4),
    chunked: true,
    mixture: MixtureRules {
        scores: Scores::Sigmoid,
        scaled_inputs: true,
        normalized: false,
        ..MixtureRules::USUAL
    },
    hf_keys: &KEYS,
    hf_limits: LIMITS,
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
    tensor(Role::AttentionQ, "model.layers.{layer}.self_attn.q_proj.weight", "blk.{layer}.attn_q.weight", &[Query, Hidden], Always, Same),
    tensor(Role::AttentionK, "model.layers.{layer}.self_attn.k_proj.weight", "blk.{layer}.attn_k.weight", &[KeyValue, Hidden], Always, Same),
    tensor(Role::AttentionV, "model.layers.{layer}.self_attn.v_proj.weight", "blk.{layer}.attn_v.weight", &[KeyValue, Hidden], Always, Same),
    tensor(Role::AttentionOutput, "model.layers.{layer}.self_attn.o_proj.weight", "blk.{layer}.attn_output.weight", &[Hidden, Query], Always, Same),
    tensor(Role::FfnNorm, "model.layers.{layer}.post_attention_layernorm.weight", "blk.{layer}.ffn_norm.weight", &[Hidden], Always, Same),
    tensor(Role::FfnGate, "model.layers.{layer}.feed_forward.gate_proj.weight", "blk.{layer}.ffn_gate.weight", &[Ffn, Hidden], DenseLayers, Same),
    tensor(Role::FfnUp, "model.layers.{layer}.feed_forward.up_proj.weight", "blk.{layer}.ffn_up.weight", &[Ffn, Hidden], DenseLayers, Same),
    tensor(Role::FfnDown, "model.layers.{layer}.feed_forward.down_proj.weight", "blk.{layer}.ffn_down.weight", &[Hidden, Ffn], DenseLayers, Same),
    tensor(Role::Router, "model.layers.{layer}.feed_forward.router.weight", "blk.{layer}.ffn_gate_inp.weight", &[Experts, Hidden], SparseLayers, Same),
    tensor(Role::ExpertsGate, "model.layers.{layer}.feed_forward.experts.{expert}.gate_proj.weight", "blk.{layer}.ffn_gate_exps.weight", &[Experts, ExpertFfn, Hidden], SparseLayers, EachExpert),
    tensor(Role::ExpertsUp, "model.layers.{layer}.feed_forward.experts.{expert}.up_proj.weight", "blk.{layer}.ffn_up_exps.weight", &[Experts, ExpertFfn, Hidden], SparseLayers, EachExpert),
    tensor(Role::ExpertsDown, "model.layers.{layer}.feed_forward.experts.{expert}.down_proj.weight", "blk.{layer}.ffn_down_exps.weight", &[Experts, Hidden, ExpertFfn], SparseLayers, EachExpert),
    tensor(Role::SharedGate, "model.layers.{layer}.feed_forward.shared_expert.gate_proj.weight", "blk.{layer}.ffn_gate_shexp.weight", &[SharedFfn, Hidden], SharedExpert, Same),
    tensor(Role::SharedUp, "model.layers.{layer}.feed_forward.shared_expert.up_proj.weight", "blk.{layer}.ffn_up_shexp.weight", &[SharedFfn, Hidden], SharedExpert, Same),
    tensor(Role::SharedDown, "model.layers.{layer}.feed_forward.shared_expert.down_proj.weight", "blk.{layer}.ffn_down_shexp.weight", &[Hidden, SharedFfn], SharedExpert, Same),
];
