//! EXAONE 3, 3.5 and Deep of LG: Llama, whose tensors and keys of the configuration have names of their own.

use super::table::*;
use crate::architecture::{Architecture, Field, GgufKey, HfKey, Silence, TensorTemplate};

/// With the defaults of transformers' `ExaoneConfig`; the first spellings are those of published files.
static KEYS: [HfKey; 11] = with_llama_keys([
    number(Field::Vocab, &["vocab_size"], 102_400.0),
    number(Field::Layers, &["num_layers", "num_hidden_layers"], 32.0),
    kv_heads(8.0),
    number(Field::Ffn, &["intermediate_size"], 14336.0),
    number(Field::Context, &["max_position_embeddings"], 4096.0),
    number(Field::NormEpsilon, &["layer_norm_epsilon", "rms_norm_eps"], 1e-5),
    key(Field::Activation, &["activation_function", "hidden_act"], Silence::Word("silu")),
    number(Field::RopeTheta, &["rope_theta"], 500_000.0),
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
    GgufKey::KeyValueLengthIfGiven,
    GgufKey::RopeDimensionCount,
];

/// EXAONE 3. transformers 5 computes it as Llama and writes that class beside the `model_type`.
pub static EXAONE: Architecture = Architecture {
    name: "exaone",
    hf_architectures: &["ExaoneForCausalLM"],
    hf_model_types: &["exaone"],
    hf_prefix: "transformer.",
    hf_keys: &KEYS,
    hf_limits: &[only("attention_bias", false), only("mlp_bias", false)],
    gguf_keys: GGUF_KEYS,
    tensors: TENSORS,
    ..USUAL
};

#[rustfmt::skip]
const TENSORS: &[TensorTemplate] = &[
    tensor(Role::TokenEmbedding, "transformer.wte.weight", "token_embd.weight", &[Vocab, Hidden], Always, Same),
    tensor(Role::OutputNorm, "transformer.ln_f.weight", "output_norm.weight", &[Hidden], Always, Same),
    tensor(Role::Output, "lm_head.weight", "output.weight", &[Vocab, Hidden], UnlessTied, Same),
    computed(Role::RopeFactors, "rope_freqs.weight", crate::architecture::Presence::RopeFactors),
    tensor(Role::AttentionNorm, "transformer.h.{layer}.ln_1.weight", "blk.{layer}.attn_norm.weight", &[Hidden], Always, Same),
    tensor(Role::AttentionQ, "transformer.h.{layer}.attn.attention.q_proj.weight", "blk.{layer}.attn_q.weight", &[Query, Hidden], Always, Same),
    tensor(Role::AttentionK, "transformer.h.{layer}.attn.attention.k_proj.weight", "blk.{layer}.attn_k.weight", &[KeyValue, Hidden], Always, Same),
    tensor(Role::AttentionV, "transformer.h.{layer}.attn.attention.v_proj.weight", "blk.{layer}.attn_v.weight", &[KeyValue, Hidden], Always, Same),
    tensor(Role::AttentionOutput, "transformer.h.{layer}.attn.attention.out_proj.weight", "blk.{layer}.attn_output.weight", &[Hidden, Query], Always, Same),
    tensor(Role::FfnNorm, "transformer.h.{layer}.ln_2.weight", "blk.{layer}.ffn_norm.weight", &[Hidden], Always, Same),
    tensor(Role::FfnGate, "transformer.h.{layer}.mlp.c_fc_0.weight", "blk.{layer}.ffn_gate.weight", &[Ffn, Hidden], Always, Same),
    tensor(Role::FfnUp, "transformer.h.{layer}.mlp.c_fc_1.weight", "blk.{layer}.ffn_up.weight", &[Ffn, Hidden], Always, Same),
    tensor(Role::FfnDown, "transformer.h.{layer}.mlp.c_proj.weight", "blk.{layer}.ffn_down.weight", &[Hidden, Ffn], Always, Same),
];
