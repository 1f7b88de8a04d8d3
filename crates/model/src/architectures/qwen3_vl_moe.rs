//! The text models of Qwen 3-VL's and Qwen 3-Omni's mixtures of experts: Qwen 3's. Releases of the first hold all experts
//! of a layer in one tensor, transposed.

use super::qwen::QWEN3_MOE_TENSORS;
use super::table::*;
use crate::architecture::{Alias, Architecture, Field, GgufKey, HfKey, HfLimit, Silence};

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

/// With the defaults of transformers' `Qwen3OmniMoeTextConfig`.
static OMNI_KEYS: [HfKey; 19] = with_llama_keys([
    number(Field::Vocab, &["vocab_size"], 3584.0),
    number(Field::Hidden, &["hidden_size"], 2048.0),
    number(Field::Ffn, &["intermediate_size"], 18944.0),
    number(Field::Layers, &["num_hidden_layers"], 28.0),
    number(Field::Heads, &["num_attention_heads"], 28.0),
    number(Field::KvHeads, &["num_key_value_heads"], 4.0),
    number(Field::Context, &["max_position_embeddings"], 32768.0),
    number(Field::RopeTheta, &["rope_theta"], 1e6),
    key(Field::QkvBias, &["attention_bias"], Silence::Flag(false)),
    key(Field::OutputBias, &["attention_bias"], Silence::Flag(false)),
    always(Field::QkNorm, true),
    number(Field::Experts, &["num_local_experts", "num_experts"], 128.0).written("num_experts"),
    number(Field::ExpertsUsed, &["num_experts_per_tok"], 8.0),
    number(Field::ExpertFfn, &["moe_intermediate_size"], 768.0),
    number(Field::SparseStep, &["decoder_sparse_step"], 1.0),
    always(Field::NormTopk, true),
]);

/// GGUF files of this name do not say whether the experts' shares sum to one.
const OMNI_LIMITS: &[HfLimit] = &[only("norm_topk_prob", true)];

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
pub static QWEN3_VL_MOE: Architecture = QWEN3_VL_MOE_ITSELF;

const QWEN3_VL_MOE_ITSELF: Architecture = Architecture {
    name: "qwen3vlmoe",
    has_experts: true,
    hf_architectures: &["Qwen3VLMoeForConditionalGeneration"],
    hf_model_types: &["qwen3_vl_moe_text"],
    hf_multimodal: &[("Qwen3VLMoeForConditionalGeneration", "qwen3_vl_moe_text")],
    tied_by_default: true,
    hf_keys: &KEYS,
    gguf_keys: GGUF_KEYS,
    tensors: QWEN3_MOE_TENSORS,
    hf_aliases: &STACKS,
    ..USUAL
};

/// The thinker of Qwen 3-Omni, which reads text, images and sound and writes text: the same numbers as in Qwen 3-VL, with a
/// head of its own. The vision tower adds nothing to layers by GGUF's metadata, as llama.cpp's converter writes it.
pub static QWEN3_OMNI_MOE: Architecture = Architecture {
    hf_architectures: &[
        "Qwen3OmniMoeForConditionalGeneration",
        "Qwen3OmniMoeThinkerForConditionalGeneration",
    ],
    hf_model_types: &["qwen3_omni_moe_text"],
    hf_multimodal: &[
        ("Qwen3OmniMoeForConditionalGeneration", "qwen3_omni_moe_text"),
        ("Qwen3OmniMoeThinkerForConditionalGeneration", "qwen3_omni_moe_text"),
    ],
    tied_by_default: false,
    hf_keys: &OMNI_KEYS,
    hf_limits: OMNI_LIMITS,
    hf_aliases: &FUSED_EXPERTS,
    ..QWEN3_VL_MOE_ITSELF
};
