//! GraniteSWA of IBM: Granite with sinks in the softmax of attention, a window on some layers, and layers that do not
//! rotate queries and keys.

use super::granite;
use super::table::*;
use crate::architecture::{
    Architecture, Field, GgufKey, HfKey, RopeStyle, Silence, Sliding, TensorTemplate, Unrotated,
};

/// With the defaults of transformers' `GraniteSWAConfig`.
static KEYS: [HfKey; 19] = with_llama_keys([
    number(Field::Vocab, &["vocab_size"], 100_352.0),
    number(Field::Hidden, &["hidden_size"], 2560.0),
    number(Field::Layers, &["num_hidden_layers"], 24.0),
    number(Field::Heads, &["num_attention_heads"], 20.0),
    kv_heads(4.0),
    number(Field::Ffn, &["intermediate_size"], 8192.0),
    number(Field::Context, &["max_position_embeddings"], 8192.0),
    number(Field::NormEpsilon, &["rms_norm_eps"], 1e-5),
    window(128.0),
    key(Field::QkvBias, &["attention_bias"], Silence::Flag(false)),
    key(Field::OutputBias, &["attention_bias"], Silence::Flag(false)),
    key(Field::MlpBias, &["mlp_bias"], Silence::Flag(false)),
    number(Field::AttentionMultiplier, &["attention_multiplier"], 1.0),
    number(Field::EmbeddingMultiplier, &["embedding_multiplier"], 1.0),
    number(Field::ResidualMultiplier, &["residual_multiplier"], 1.0),
    number(Field::LogitDivisor, &["logits_scaling"], 1.0),
]);

static GGUF_KEYS: [GgufKey; 16] = chained(&[
    granite::GGUF_KEYS,
    &[GgufKey::SlidingWindow, GgufKey::SlidingWindowLayers, GgufKey::RotatedLayers],
]);

/// GraniteSWA, dense.
pub static GRANITE_SWA: Architecture = Architecture {
    name: "granite_swa",
    hf_architectures: &["GraniteSWAForCausalLM"],
    hf_model_types: &["granite_swa"],
    gguf_rope_style: RopeStyle::Interleaved,
    sliding: Sliding::ButFirstOf(4),
    unrotated: Unrotated::WithoutBase,
    tied_by_default: true,
    hf_keys: &KEYS,
    gguf_keys: &GGUF_KEYS,
    tensors: &TENSORS,
    ..USUAL
};

static TENSORS: [TensorTemplate; 21] = chained(&[granite::TENSORS, &[SINKS]]);

#[rustfmt::skip]
const SINKS: TensorTemplate =
    tensor(Role::AttentionSinks, "model.layers.{layer}.self_attn.sinks", "blk.{layer}.attn_sinks.weight", &[Heads], Always, Same);
