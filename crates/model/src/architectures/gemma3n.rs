//! Gemma 3n, the language model: Gemma 3's block with weights of norms as they are, attention that is not scaled and
//! normalized values; several residual streams, of which each block computes the first; a second, narrow way beside
//! attention; vectors of each token in each layer; last layers that use keys and values of earlier ones.

use super::table::*;
use crate::architecture::{
    Activation, Architecture, Field, GgufKey, HfKey, HfLimit, Silence, Sliding, TensorTemplate,
};

/// With the defaults of transformers' `Gemma3nTextConfig`; what other families have not is read by `config::gemma3n`.
static KEYS: [HfKey; 15] = with_llama_keys([
    number(Field::Vocab, &["vocab_size"], 262_400.0),
    number(Field::Hidden, &["hidden_size"], 2048.0),
    number(Field::Ffn, &["intermediate_size"], 16384.0),
    number(Field::Layers, &["num_hidden_layers"], 35.0),
    number(Field::Heads, &["num_attention_heads"], 8.0),
    number(Field::KvHeads, &["num_key_value_heads"], 2.0),
    number(Field::HeadDim, &["head_dim"], 256.0),
    number(Field::Context, &["max_position_embeddings"], 32768.0),
    key(Field::Activation, &["hidden_activation"], Silence::Word("gelu_pytorch_tanh")),
    number(Field::RopeTheta, &["rope_theta"], 1e6),
    number(Field::SlidingWindow, &["sliding_window"], 512.0),
    key(Field::FinalSoftcap, &["final_logit_softcapping"], Silence::Number(30.0)).null(Silence::Nothing),
    number(Field::LocalRopeTheta, &["rope_local_base_freq"], 10_000.0),
    always(Field::QkNorm, true),
]);

/// No published Gemma has biases.
const LIMITS: &[HfLimit] = &[only("attention_bias", false), only("altup_correct_scale", true)];

const GGUF_KEYS: &[GgufKey] = &[
    GgufKey::BlockCount,
    GgufKey::ContextLength,
    GgufKey::EmbeddingLength,
    GgufKey::FeedForwardLength,
    GgufKey::HeadCount,
    GgufKey::HeadCountKv,
    GgufKey::RopeScaling,
    GgufKey::RopeFreqBase,
    GgufKey::RopeFreqBaseSwa,
    GgufKey::RmsEpsilon,
    GgufKey::KeyValueLength,
    GgufKey::FinalSoftcap,
    GgufKey::SlidingWindow,
    GgufKey::Streams,
    GgufKey::PerLayerLength,
    GgufKey::SharedKvLayers,
    GgufKey::Cutoffs,
    GgufKey::SlidingWindowLayers,
];

/// Gemma 3n.
pub static GEMMA3N: Architecture = Architecture {
    name: "gemma3n",
    hf_architectures: &["Gemma3nForCausalLM"],
    hf_model_types: &["gemma3n_text"],
    hf_multimodal: &[("Gemma3nForConditionalGeneration", "gemma3n_text")],
    normalized_values: true,
    scaled_embeddings: true,
    sliding: Sliding::ButEvery(5),
    activations: &[Activation::GeluTanh],
    tied_by_default: true,
    hf_keys: &KEYS,
    hf_limits: LIMITS,
    gguf_keys: GGUF_KEYS,
    tensors: TENSORS,
    ..USUAL
};

#[rustfmt::skip]
const TENSORS: &[TensorTemplate] = &[
    tensor(Role::TokenEmbedding, "model.embed_tokens.weight", "token_embd.weight", &[Vocab, Hidden], Always, Same),
    tensor(Role::PerLayerEmbedding, "model.embed_tokens_per_layer.weight", "per_layer_token_embd.weight", &[PerLayerVocab, PerLayerAll], Always, Same),
    tensor(Role::PerLayerContext, "model.per_layer_model_projection.weight", "per_layer_model_proj.weight", &[PerLayerAll, Hidden], Always, Same),
    tensor(Role::PerLayerContextNorm, "model.per_layer_projection_norm.weight", "per_layer_proj_norm.weight", &[PerLayer], Always, Same),
    tensor(Role::StreamsIn, "model.altup_projections.{expert}.weight", "altup_proj.weight", &[OtherStreams, Hidden, Hidden], Always, EachExpert),
    tensor(Role::StreamsOut, "model.altup_unembed_projections.{expert}.weight", "altup_unembd_proj.weight", &[OtherStreams, Hidden, Hidden], Always, EachExpert),
    tensor(Role::OutputNorm, "model.norm.weight", "output_norm.weight", &[Hidden], Always, Same),
    tensor(Role::Output, "lm_head.weight", "output.weight", &[Vocab, Hidden], UnlessTied, Same),
    tensor(Role::StreamRouterNorm, "model.layers.{layer}.altup.router_norm.weight", "blk.{layer}.altup_router_norm.weight", &[Hidden], Always, Same),
    tensor(Role::StreamRouter, "model.layers.{layer}.altup.modality_router.weight", "blk.{layer}.altup_router.weight", &[Streams, Hidden], Always, Same),
    tensor(Role::StreamPredict, "model.layers.{layer}.altup.prediction_coefs.weight", "blk.{layer}.altup_predict_coef.weight", &[StreamPairs, Streams], Always, Same),
    tensor(Role::StreamCorrect, "model.layers.{layer}.altup.correction_coefs.weight", "blk.{layer}.altup_correct_coef.weight", &[Streams, Streams], Always, Same),
    tensor(Role::StreamCorrectScale, "model.layers.{layer}.altup.correct_output_scale", "blk.{layer}.altup_correct_scale.weight", &[Hidden], Always, Same),
    tensor(Role::LaurelIn, "model.layers.{layer}.laurel.linear_left.weight", "blk.{layer}.laurel_l.weight", &[Laurel, Hidden], Always, Same),
    tensor(Role::LaurelOut, "model.layers.{layer}.laurel.linear_right.weight", "blk.{layer}.laurel_r.weight", &[Hidden, Laurel], Always, Same),
    tensor(Role::LaurelNorm, "model.layers.{layer}.laurel.post_laurel_norm.weight", "blk.{layer}.laurel_post_norm.weight", &[Hidden], Always, Same),
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
    tensor(Role::FfnPostNorm, "model.layers.{layer}.post_feedforward_layernorm.weight", "blk.{layer}.post_ffw_norm.weight", &[Hidden], Always, Same),
    tensor(Role::PerLayerGate, "model.layers.{layer}.per_layer_input_gate.weight", "blk.{layer}.inp_gate.weight", &[PerLayer, Hidden], Always, Same),
    tensor(Role::PerLayerOutput, "model.layers.{layer}.per_layer_projection.weight", "blk.{layer}.proj.weight", &[Hidden, PerLayer], Always, Same),
    tensor(Role::PerLayerNorm, "model.layers.{layer}.post_per_layer_input_norm.weight", "blk.{layer}.post_norm.weight", &[Hidden], Always, Same),
];
