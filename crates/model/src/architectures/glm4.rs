//! GLM-4 of Z.ai, dense: half of each head rotated by pairs of neighbours, gate and up projection in one matrix; from 0414
//! on also norms behind attention and network. The models before it have transformers' class `Glm`, and in GGUF the name
//! of ChatGLM.

use super::table::*;
use crate::architecture::{Architecture, Field, GgufKey, HfKey, RopeStyle, Silence, TensorTemplate};

/// With the defaults of transformers' `Glm4Config` and `GlmConfig`.
static KEYS: [HfKey; 14] = with_llama_keys([
    number(Field::Vocab, &["vocab_size"], 151_552.0),
    number(Field::Ffn, &["intermediate_size"], 13696.0),
    number(Field::Layers, &["num_hidden_layers"], 40.0),
    key(Field::KvHeads, &["num_key_value_heads"], Silence::Number(2.0)).null(Silence::Required),
    number(Field::HeadDim, &["head_dim"], 128.0),
    number(Field::Context, &["max_position_embeddings"], 131_072.0),
    number(Field::NormEpsilon, &["rms_norm_eps"], 1.5625e-7),
    number(Field::PartialRotary, &["partial_rotary_factor"], 0.5),
    key(Field::QkvBias, &["attention_bias"], Silence::Flag(true)),
    always(Field::OutputBias, false),
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
    GgufKey::KeyValueLength,
    GgufKey::RopeDimensionCount,
];

/// llama.cpp's converter writes the hidden size as the context and other constants than `config.json` has, for it looks for
/// the keys of ChatGLM.
const CHATGLM_GGUF_KEYS: &[GgufKey] = &[
    GgufKey::ContextLength,
    GgufKey::EmbeddingLength,
    GgufKey::FeedForwardLength,
    GgufKey::BlockCount,
    GgufKey::HeadCount,
    GgufKey::HeadCountKv,
    GgufKey::RmsEpsilon,
    GgufKey::RopeDimensionCount,
    GgufKey::RopeFreqBase,
    GgufKey::KeyValueLengthUnlessUsual,
];

/// With the defaults of transformers' `Glm4vTextConfig`.
static GLM4V_KEYS: [HfKey; 14] = with_llama_keys([
    number(Field::Vocab, &["vocab_size"], 151_552.0),
    number(Field::Ffn, &["intermediate_size"], 13696.0),
    number(Field::Layers, &["num_hidden_layers"], 40.0),
    key(Field::KvHeads, &["num_key_value_heads"], Silence::Number(2.0)).null(Silence::Times(1, Field::Heads)),
    number(Field::Context, &["max_position_embeddings"], 32768.0),
    number(Field::NormEpsilon, &["rms_norm_eps"], 1e-5),
    number(Field::PartialRotary, &["partial_rotary_factor"], 0.5),
    always(Field::QkvBias, true),
    always(Field::OutputBias, false),
]);

/// GLM-4 (0414), dense.
pub static GLM4: Architecture = GLM4_ITSELF;

const GLM4_ITSELF: Architecture = Architecture {
    name: "glm4",
    hf_architectures: &["Glm4ForCausalLM"],
    hf_model_types: &["glm4"],
    gguf_rope_style: RopeStyle::Interleaved,
    hf_rope_style: RopeStyle::Interleaved,
    hf_keys: &KEYS,
    gguf_keys: GGUF_KEYS,
    tensors: TENSORS,
    ..USUAL
};

/// The text model of GLM-4.1V and GLM-OCR's like: GLM-4 (0414) whose rope follows the three coordinates of an image, which
/// text rotates alike. llama.cpp's files of it have rows of queries and keys in another order; quern writes the text model as
/// the GLM-4 that it is.
pub static GLM4V: Architecture = Architecture {
    hf_architectures: &["Glm4vForConditionalGeneration"],
    hf_model_types: &["glm4v_text"],
    hf_multimodal: &[("Glm4vForConditionalGeneration", "glm4v_text")],
    hf_keys: &GLM4V_KEYS,
    ..GLM4_ITSELF
};

/// GLM-4 before 0414.
pub static CHATGLM: Architecture = Architecture {
    name: "chatglm",
    hf_architectures: &["GlmForCausalLM"],
    hf_model_types: &["glm"],
    gguf_rope_style: RopeStyle::Interleaved,
    hf_rope_style: RopeStyle::Interleaved,
    hf_keys: &KEYS,
    gguf_keys: CHATGLM_GGUF_KEYS,
    tensors: CHATGLM_TENSORS,
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
    tensor(Role::AttentionPostNorm, "model.layers.{layer}.post_self_attn_layernorm.weight", "blk.{layer}.post_attention_norm.weight", &[Hidden], Always, Same),
    tensor(Role::FfnNorm, "model.layers.{layer}.post_attention_layernorm.weight", "blk.{layer}.ffn_norm.weight", &[Hidden], Always, Same),
    tensor(Role::FfnGateUp, "model.layers.{layer}.mlp.gate_up_proj.weight", "blk.{layer}.ffn_up.weight", &[GateUp, Hidden], Always, Same),
    tensor(Role::FfnDown, "model.layers.{layer}.mlp.down_proj.weight", "blk.{layer}.ffn_down.weight", &[Hidden, Ffn], Always, Same),
    tensor(Role::FfnPostNorm, "model.layers.{layer}.post_mlp_layernorm.weight", "blk.{layer}.post_ffw_norm.weight", &[Hidden], Always, Same),
];

#[rustfmt::skip]
const CHATGLM_TENSORS: &[TensorTemplate] = &[
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
    tensor(Role::FfnNorm, "model.layers.{layer}.post_attention_layernorm.weight", "blk.{layer}.ffn_norm.weight", &[Hidden], Always, Same),
    tensor(Role::FfnGateUp, "model.layers.{layer}.mlp.gate_up_proj.weight", "blk.{layer}.ffn_up.weight", &[GateUp, Hidden], Always, Same),
    tensor(Role::FfnDown, "model.layers.{layer}.mlp.down_proj.weight", "blk.{layer}.ffn_down.weight", &[Hidden, Ffn], Always, Same),
];
