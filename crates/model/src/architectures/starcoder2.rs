//! StarCoder2: Llama's attention with biases everywhere, layer norms, a network without gate.

use super::table::*;
use crate::architecture::{
    Accepted, Activation, Architecture, Field, HfKey, HfLimit, Norm, Silence, TensorTemplate,
};

static KEYS: [HfKey; 15] = [
    number(Field::Vocab, &["vocab_size"], 49152.0),
    number(Field::Hidden, &["hidden_size"], 3072.0),
    number(Field::Layers, &["num_hidden_layers"], 30.0),
    number(Field::Heads, &["num_attention_heads"], 24.0),
    number(Field::KvHeads, &["num_key_value_heads"], 2.0),
    key(Field::HeadDim, &["head_dim"], Silence::Nothing),
    number(Field::Ffn, &["intermediate_size"], 12288.0),
    number(Field::Context, &["max_position_embeddings"], 4096.0),
    number(Field::NormEpsilon, &["norm_epsilon"], 1e-5),
    key(Field::Activation, &["hidden_act"], Silence::Word("gelu_pytorch_tanh")),
    number(Field::RopeTheta, &["rope_theta"], 10_000.0),
    key(Field::SlidingWindow, &["sliding_window"], Silence::Nothing),
    key(Field::QkvBias, &["use_bias"], Silence::Flag(true)),
    key(Field::OutputBias, &["use_bias"], Silence::Flag(true)),
    key(Field::MlpBias, &["use_bias"], Silence::Flag(true)),
];

/// StarCoder2.
pub static STARCODER2: Architecture = Architecture {
    name: "starcoder2",
    hf_architectures: &["Starcoder2ForCausalLM"],
    hf_model_types: &["starcoder2"],
    norm: Norm::Layer,
    activations: &[Activation::GeluTanh, Activation::Gelu, Activation::Relu, Activation::Silu],
    gated: false,
    tied_by_default: true,
    hf_keys: &KEYS,
    hf_limits: &[
        HfLimit { key: "norm_type", accepted: Accepted::Words(&["layer_norm"]) },
        HfLimit { key: "mlp_type", accepted: Accepted::Words(&["default"]) },
    ],
    tensors: TENSORS,
    ..USUAL
};

#[rustfmt::skip]
const TENSORS: &[TensorTemplate] = &[
    tensor(Role::TokenEmbedding, "model.embed_tokens.weight", "token_embd.weight", &[Vocab, Hidden], Always, Same),
    tensor(Role::OutputNorm, "model.norm.weight", "output_norm.weight", &[Hidden], Always, Same),
    tensor(Role::OutputNormBias, "model.norm.bias", "output_norm.bias", &[Hidden], Always, Same),
    tensor(Role::Output, "lm_head.weight", "output.weight", &[Vocab, Hidden], UnlessTied, Same),
    tensor(Role::AttentionNorm, "model.layers.{layer}.input_layernorm.weight", "blk.{layer}.attn_norm.weight", &[Hidden], Always, Same),
    tensor(Role::AttentionNormBias, "model.layers.{layer}.input_layernorm.bias", "blk.{layer}.attn_norm.bias", &[Hidden], Always, Same),
    tensor(Role::AttentionQ, "model.layers.{layer}.self_attn.q_proj.weight", "blk.{layer}.attn_q.weight", &[Query, Hidden], Always, Same),
    tensor(Role::AttentionK, "model.layers.{layer}.self_attn.k_proj.weight", "blk.{layer}.attn_k.weight", &[KeyValue, Hidden], Always, Same),
    tensor(Role::AttentionV, "model.layers.{layer}.self_attn.v_proj.weight", "blk.{layer}.attn_v.weight", &[KeyValue, Hidden], Always, Same),
    tensor(Role::AttentionOutput, "model.layers.{layer}.self_attn.o_proj.weight", "blk.{layer}.attn_output.weight", &[Hidden, Query], Always, Same),
    tensor(Role::AttentionQBias, "model.layers.{layer}.self_attn.q_proj.bias", "blk.{layer}.attn_q.bias", &[Query], QkvBias, Same),
    tensor(Role::AttentionKBias, "model.layers.{layer}.self_attn.k_proj.bias", "blk.{layer}.attn_k.bias", &[KeyValue], QkvBias, Same),
    tensor(Role::AttentionVBias, "model.layers.{layer}.self_attn.v_proj.bias", "blk.{layer}.attn_v.bias", &[KeyValue], QkvBias, Same),
    tensor(Role::AttentionOutputBias, "model.layers.{layer}.self_attn.o_proj.bias", "blk.{layer}.attn_output.bias", &[Hidden], OutputBias, Same),
    tensor(Role::FfnNorm, "model.layers.{layer}.post_attention_layernorm.weight", "blk.{layer}.ffn_norm.weight", &[Hidden], Always, Same),
    tensor(Role::FfnNormBias, "model.layers.{layer}.post_attention_layernorm.bias", "blk.{layer}.ffn_norm.bias", &[Hidden], Always, Same),
    tensor(Role::FfnUp, "model.layers.{layer}.mlp.c_fc.weight", "blk.{layer}.ffn_up.weight", &[Ffn, Hidden], Always, Same),
    tensor(Role::FfnUpBias, "model.layers.{layer}.mlp.c_fc.bias", "blk.{layer}.ffn_up.bias", &[Ffn], FfnBias, Same),
    tensor(Role::FfnDown, "model.layers.{layer}.mlp.c_proj.weight", "blk.{layer}.ffn_down.weight", &[Hidden, Ffn], Always, Same),
    tensor(Role::FfnDownBias, "model.layers.{layer}.mlp.c_proj.bias", "blk.{layer}.ffn_down.bias", &[Hidden], FfnBias, Same),
];
