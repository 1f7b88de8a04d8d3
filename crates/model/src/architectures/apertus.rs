//! Apertus of the Swiss AI Initiative: Llama with norms of heads and a plain network, whose activation xIELU has parameters
//! of its own in each layer. GGUF has them in the metadata.

use super::table::*;
use crate::architecture::{
    Activation, Architecture, Field, GgufKey, HfKey, Presence, Silence, TensorTemplate,
};

/// With the defaults of transformers' `ApertusConfig`; without a rope it takes llama3 scaling, which all published files
/// state.
static KEYS: [HfKey; 14] = with_llama_keys([
    number(Field::Vocab, &["vocab_size"], 131_072.0),
    number(Field::Ffn, &["intermediate_size"], 14336.0),
    number(Field::Context, &["max_position_embeddings"], 65536.0),
    number(Field::NormEpsilon, &["rms_norm_eps"], 1e-5),
    key(Field::Activation, &["hidden_act"], Silence::Word("xielu")),
    number(Field::RopeTheta, &["rope_theta"], 12e6),
    key(Field::QkvBias, &["attention_bias"], Silence::Flag(false)),
    key(Field::OutputBias, &["attention_bias"], Silence::Flag(false)),
    always(Field::QkNorm, true),
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
    GgufKey::VocabSize,
    GgufKey::RopeDimensionCount,
    GgufKey::Xielu,
];

/// Apertus.
pub static APERTUS: Architecture = Architecture {
    name: "apertus",
    hf_architectures: &["ApertusForCausalLM"],
    hf_model_types: &["apertus"],
    activations: &[Activation::Xielu],
    gated: false,
    hf_keys: &KEYS,
    gguf_keys: GGUF_KEYS,
    tensors: TENSORS,
    ..USUAL
};

#[rustfmt::skip]
const TENSORS: &[TensorTemplate] = &[
    tensor(Role::TokenEmbedding, "model.embed_tokens.weight", "token_embd.weight", &[Vocab, Hidden], Always, Same),
    tensor(Role::OutputNorm, "model.norm.weight", "output_norm.weight", &[Hidden], Always, Same),
    computed(Role::RopeFactors, "rope_freqs.weight", crate::architecture::Presence::RopeFactors),
    tensor(Role::Output, "lm_head.weight", "output.weight", &[Vocab, Hidden], UnlessTied, Same),
    tensor(Role::AttentionNorm, "model.layers.{layer}.attention_layernorm.weight", "blk.{layer}.attn_norm.weight", &[Hidden], Always, Same),
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
    tensor(Role::FfnNorm, "model.layers.{layer}.feedforward_layernorm.weight", "blk.{layer}.ffn_norm.weight", &[Hidden], Always, Same),
    tensor(Role::FfnUp, "model.layers.{layer}.mlp.up_proj.weight", "blk.{layer}.ffn_up.weight", &[Ffn, Hidden], Always, Same),
    tensor(Role::FfnDown, "model.layers.{layer}.mlp.down_proj.weight", "blk.{layer}.ffn_down.weight", &[Hidden, Ffn], Always, Same),
    tensor(Role::XieluAlphaP, "model.layers.{layer}.mlp.act_fn.alpha_p", "blk.{layer}.xielu_alpha_p", &[One], Presence::HuggingFace, Same),
    tensor(Role::XieluAlphaN, "model.layers.{layer}.mlp.act_fn.alpha_n", "blk.{layer}.xielu_alpha_n", &[One], Presence::HuggingFace, Same),
    tensor(Role::XieluBeta, "model.layers.{layer}.mlp.act_fn.beta", "blk.{layer}.xielu_beta", &[], Presence::HuggingFace, Same),
    tensor(Role::XieluEps, "model.layers.{layer}.mlp.act_fn.eps", "blk.{layer}.xielu_eps", &[], Presence::HuggingFace, Same),
];
