//! Gemma 4, the language model: Gemma 3's block with weights of norms as they are, attention that is not scaled, normalized
//! values, heads of another size in layers without a window, and a factor behind each block. The smaller models have
//! vectors of their own for each token in each layer, and last layers that use keys and values of earlier ones; one has
//! experts beside the network of each block, whose router reads the normalized residual stream.

use super::table::*;
use crate::architecture::{
    Accepted, Activation, Alias, Architecture, Field, GgufKey, HfKey, HfLimit, MixtureRules, Presence,
    Silence, Sliding, TensorTemplate,
};

use crate::architecture::Presence::PerLayer as InLayers;

/// With the defaults of transformers' `Gemma4TextConfig`; sizes that differ between layers are read by
/// `config::gemma4`.
static KEYS: [HfKey; 15] = with_llama_keys([
    number(Field::Vocab, &["vocab_size"], 262_144.0),
    number(Field::Hidden, &["hidden_size"], 2304.0),
    number(Field::Ffn, &["intermediate_size"], 9216.0),
    number(Field::Layers, &["num_hidden_layers"], 30.0),
    number(Field::Heads, &["num_attention_heads"], 8.0),
    number(Field::KvHeads, &["num_key_value_heads"], 4.0),
    number(Field::HeadDim, &["head_dim"], 256.0),
    number(Field::Context, &["max_position_embeddings"], 131_072.0),
    key(Field::Activation, &["hidden_activation"], Silence::Word("gelu_pytorch_tanh")),
    number(Field::SlidingWindow, &["sliding_window"], 512.0),
    key(Field::FinalSoftcap, &["final_logit_softcapping"], Silence::Nothing),
    key(Field::LocalRopeTheta, &[], Silence::Number(10_000.0)),
    always(Field::QkNorm, true),
]);

/// The same with experts, for whose numbers the class has no defaults.
static MOE_KEYS: [HfKey; 19] = with_llama_keys([
    number(Field::Vocab, &["vocab_size"], 262_144.0),
    number(Field::Hidden, &["hidden_size"], 2304.0),
    number(Field::Ffn, &["intermediate_size"], 9216.0),
    number(Field::Layers, &["num_hidden_layers"], 30.0),
    number(Field::Heads, &["num_attention_heads"], 8.0),
    number(Field::KvHeads, &["num_key_value_heads"], 4.0),
    number(Field::HeadDim, &["head_dim"], 256.0),
    number(Field::Context, &["max_position_embeddings"], 131_072.0),
    key(Field::Activation, &["hidden_activation"], Silence::Word("gelu_pytorch_tanh")),
    number(Field::SlidingWindow, &["sliding_window"], 512.0),
    key(Field::FinalSoftcap, &["final_logit_softcapping"], Silence::Nothing),
    key(Field::LocalRopeTheta, &[], Silence::Number(10_000.0)),
    always(Field::QkNorm, true),
    key(Field::Experts, &["num_experts"], Silence::Required),
    key(Field::ExpertsUsed, &["top_k_experts"], Silence::Required),
    key(Field::ExpertFfn, &["moe_intermediate_size"], Silence::Required),
    always(Field::NormTopk, true),
]);

/// No published Gemma has biases. Images see each other ("vision"), text does not.
const LIMITS: &[HfLimit] = &[
    HfLimit { key: "use_bidirectional_attention", accepted: Accepted::Words(&["vision"]) },
    only("attention_bias", false),
];

const GGUF_KEYS: &[GgufKey] = &[
    GgufKey::BlockCount,
    GgufKey::ContextLength,
    GgufKey::EmbeddingLength,
    GgufKey::FeedForwardLength,
    GgufKey::HeadCount,
    GgufKey::HeadCountKv,
    GgufKey::RopeFreqBase,
    GgufKey::RopeFreqBaseSwa,
    GgufKey::RmsEpsilon,
    GgufKey::KeyValueLength,
    GgufKey::FinalSoftcap,
    GgufKey::SlidingWindow,
    GgufKey::SharedKvLayers,
    GgufKey::PerLayerLength,
    GgufKey::SlidingWindowLayers,
    GgufKey::WindowedHeads,
    GgufKey::RopeDimensionCount,
];

const MOE_GGUF_KEYS: &[GgufKey] = &[
    GgufKey::BlockCount,
    GgufKey::ContextLength,
    GgufKey::EmbeddingLength,
    GgufKey::FeedForwardLength,
    GgufKey::HeadCount,
    GgufKey::HeadCountKv,
    GgufKey::RopeFreqBase,
    GgufKey::RopeFreqBaseSwa,
    GgufKey::RmsEpsilon,
    GgufKey::ExpertCount,
    GgufKey::ExpertUsedCount,
    GgufKey::KeyValueLength,
    GgufKey::FinalSoftcap,
    GgufKey::SlidingWindow,
    GgufKey::SharedKvLayers,
    GgufKey::PerLayerLength,
    GgufKey::SlidingWindowLayers,
    GgufKey::WindowedHeads,
    GgufKey::ExpertFeedForwardLength,
    GgufKey::RopeDimensionCount,
];

/// Gemma 4, dense.
pub static GEMMA4: Architecture = Architecture {
    name: "gemma4",
    hf_architectures: &["Gemma4ForCausalLM"],
    hf_model_types: &["gemma4_text"],
    hf_multimodal: &[("Gemma4ForConditionalGeneration", "gemma4_text")],
    normalized_values: true,
    scaled_embeddings: true,
    sliding: Sliding::ButEvery(6),
    activations: &[Activation::GeluTanh],
    tied_by_default: true,
    hf_keys: &KEYS,
    hf_limits: LIMITS,
    gguf_keys: GGUF_KEYS,
    tensors: &TENSORS,
    ..USUAL
};

/// Gemma 4 with experts beside the network of each block (26B-A4B).
pub static GEMMA4_MOE: Architecture = Architecture {
    name: "gemma4",
    has_experts: true,
    hf_architectures: &["Gemma4ForCausalLM"],
    hf_model_types: &["gemma4_text"],
    hf_multimodal: &[("Gemma4ForConditionalGeneration", "gemma4_text")],
    normalized_values: true,
    scaled_embeddings: true,
    sliding: Sliding::ButEvery(6),
    activations: &[Activation::GeluTanh],
    tied_by_default: true,
    mixture: MixtureRules { beside: true, ..MixtureRules::USUAL },
    hf_keys: &MOE_KEYS,
    hf_limits: LIMITS,
    gguf_keys: MOE_GGUF_KEYS,
    tensors: &MOE_TENSORS,
    hf_aliases: &STACKS,
    hf_woven: true,
    ..USUAL
};

/// As released, and as transformers has them in memory.
static STACKS: [Alias; 2] = [
    stacked(Role::ExpertsGateUp, "model.layers.{layer}.experts.gate_up_proj", 1, 0),
    stacked(Role::ExpertsDown, "model.layers.{layer}.experts.down_proj", 1, 0),
];

/// Up to the dense network.
#[rustfmt::skip]
const FRONT: &[TensorTemplate] = &[
    tensor(Role::TokenEmbedding, "model.embed_tokens.weight", "token_embd.weight", &[Vocab, Hidden], Always, Same),
    tensor(Role::PerLayerEmbedding, "model.embed_tokens_per_layer.weight", "per_layer_token_embd.weight", &[PerLayerVocab, PerLayerAll], InLayers, Same),
    tensor(Role::PerLayerContext, "model.per_layer_model_projection.weight", "per_layer_model_proj.weight", &[PerLayerAll, Hidden], InLayers, Same),
    tensor(Role::PerLayerContextNorm, "model.per_layer_projection_norm.weight", "per_layer_proj_norm.weight", &[PerLayer], InLayers, Same),
    computed(Role::RopeFactors, "rope_freqs.weight", Presence::RopeFactors),
    tensor(Role::OutputNorm, "model.norm.weight", "output_norm.weight", &[Hidden], Always, Same),
    tensor(Role::Output, "lm_head.weight", "output.weight", &[Vocab, Hidden], UnlessTied, Same),
    tensor(Role::AttentionNorm, "model.layers.{layer}.input_layernorm.weight", "blk.{layer}.attn_norm.weight", &[Hidden], Always, Same),
    tensor(Role::AttentionQ, "model.layers.{layer}.self_attn.q_proj.weight", "blk.{layer}.attn_q.weight", &[Query, Hidden], Always, Same),
    tensor(Role::AttentionK, "model.layers.{layer}.self_attn.k_proj.weight", "blk.{layer}.attn_k.weight", &[KeyValue, Hidden], OwnKeys, Same),
    tensor(Role::AttentionV, "model.layers.{layer}.self_attn.v_proj.weight", "blk.{layer}.attn_v.weight", &[KeyValue, Hidden], OwnValues, Same),
    tensor(Role::AttentionOutput, "model.layers.{layer}.self_attn.o_proj.weight", "blk.{layer}.attn_output.weight", &[Hidden, Query], Always, Same),
    tensor(Role::AttentionQNorm, "model.layers.{layer}.self_attn.q_norm.weight", "blk.{layer}.attn_q_norm.weight", &[HeadDim], Always, Same),
    tensor(Role::AttentionKNorm, "model.layers.{layer}.self_attn.k_norm.weight", "blk.{layer}.attn_k_norm.weight", &[HeadDim], OwnKeys, Same),
    tensor(Role::AttentionPostNorm, "model.layers.{layer}.post_attention_layernorm.weight", "blk.{layer}.post_attention_norm.weight", &[Hidden], Always, Same),
    tensor(Role::FfnNorm, "model.layers.{layer}.pre_feedforward_layernorm.weight", "blk.{layer}.ffn_norm.weight", &[Hidden], Always, Same),
    tensor(Role::FfnGate, "model.layers.{layer}.mlp.gate_proj.weight", "blk.{layer}.ffn_gate.weight", &[Ffn, Hidden], Always, Same),
    tensor(Role::FfnUp, "model.layers.{layer}.mlp.up_proj.weight", "blk.{layer}.ffn_up.weight", &[Ffn, Hidden], Always, Same),
    tensor(Role::FfnDown, "model.layers.{layer}.mlp.down_proj.weight", "blk.{layer}.ffn_down.weight", &[Hidden, Ffn], Always, Same),
];

/// Behind the networks.
#[rustfmt::skip]
const BACK: &[TensorTemplate] = &[
    tensor(Role::FfnPostNorm, "model.layers.{layer}.post_feedforward_layernorm.weight", "blk.{layer}.post_ffw_norm.weight", &[Hidden], Always, Same),
    tensor(Role::PerLayerGate, "model.layers.{layer}.per_layer_input_gate.weight", "blk.{layer}.inp_gate.weight", &[PerLayer, Hidden], InLayers, Same),
    tensor(Role::PerLayerOutput, "model.layers.{layer}.per_layer_projection.weight", "blk.{layer}.proj.weight", &[Hidden, PerLayer], InLayers, Same),
    tensor(Role::PerLayerNorm, "model.layers.{layer}.post_per_layer_input_norm.weight", "blk.{layer}.post_norm.weight", &[Hidden], InLayers, Same),
    tensor(Role::LayerScale, "model.layers.{layer}.layer_scalar", "blk.{layer}.layer_output_scale.weight", &[One], Always, Same),
];

/// The experts beside the dense network.
#[rustfmt::skip]
const EXPERTS: &[TensorTemplate] = &[
    tensor(Role::DensePostNorm, "model.layers.{layer}.post_feedforward_layernorm_1.weight", "blk.{layer}.post_ffw_norm_1.weight", &[Hidden], SparseLayers, Same),
    tensor(Role::ExpertsNorm, "model.layers.{layer}.pre_feedforward_layernorm_2.weight", "blk.{layer}.pre_ffw_norm_2.weight", &[Hidden], SparseLayers, Same),
    tensor(Role::RouterScale, "model.layers.{layer}.router.scale", "blk.{layer}.ffn_gate_inp.scale", &[Hidden], SparseLayers, Same),
    tensor(Role::Router, "model.layers.{layer}.router.proj.weight", "blk.{layer}.ffn_gate_inp.weight", &[Experts, Hidden], SparseLayers, Same),
    tensor(Role::ExpertsScale, "model.layers.{layer}.router.per_expert_scale", "blk.{layer}.ffn_down_exps.scale", &[Experts], SparseLayers, Same),
    tensor(Role::ExpertsGateUp, "model.layers.{layer}.experts.{expert}.gate_up_proj.weight", "blk.{layer}.ffn_gate_up_exps.weight", &[Experts, ExpertGateUp, Hidden], SparseLayers, EachExpert),
    tensor(Role::ExpertsDown, "model.layers.{layer}.experts.{expert}.down_proj.weight", "blk.{layer}.ffn_down_exps.weight", &[Experts, Hidden, ExpertFfn], SparseLayers, EachExpert),
    tensor(Role::ExpertsPostNorm, "model.layers.{layer}.post_feedforward_layernorm_2.weight", "blk.{layer}.post_ffw_norm_2.weight", &[Hidden], SparseLayers, Same),
];

static TENSORS: [TensorTemplate; 24] = chained(&[FRONT, BACK]);

static MOE_TENSORS: [TensorTemplate; 32] = chained(&[FRONT, EXPERTS, BACK]);
