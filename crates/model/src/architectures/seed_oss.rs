//! Seed-OSS of ByteDance: Llama with biases on queries, keys and values, a head size of its own, and wider attention
//! than the hidden size. GGUF calls the norm in front of the feed-forward network `post_attention_norm`.

use super::table::*;
use crate::architecture::{Architecture, Field, HfKey, Silence, TensorTemplate};

/// The defaults are those of transformers' `SeedOssConfig`. It also has `attention_dropout` and `residual_dropout`,
/// which act in training only, and `pretraining_tp`, which nothing reads.
static KEYS: [HfKey; 14] = [
    key(Field::Vocab, &["vocab_size"], Silence::Number(155_136.0)),
    key(Field::Hidden, &["hidden_size"], Silence::Number(4096.0)),
    key(Field::Layers, &["num_hidden_layers"], Silence::Number(64.0)),
    key(Field::Heads, &["num_attention_heads"], Silence::Number(80.0)),
    key(Field::KvHeads, &["num_key_value_heads"], Silence::Number(8.0)),
    key(Field::HeadDim, &["head_dim"], Silence::Number(128.0)),
    key(Field::Ffn, &["intermediate_size"], Silence::Number(27648.0)),
    key(Field::Context, &["max_position_embeddings"], Silence::Number(524_288.0)),
    key(Field::NormEpsilon, &["rms_norm_eps"], Silence::Number(1e-6)),
    key(Field::Activation, &["hidden_act"], Silence::Word("silu")),
    key(Field::RopeTheta, &["rope_theta"], Silence::Number(10_000.0)),
    key(Field::QkvBias, &["attention_bias"], Silence::Flag(true)),
    key(Field::OutputBias, &["attention_out_bias"], Silence::Flag(false)),
    key(Field::MlpBias, &["mlp_bias"], Silence::Flag(false)),
];

/// Seed-OSS.
pub static SEED_OSS: Architecture = Architecture {
    name: "seed_oss",
    hf_architectures: &["SeedOssForCausalLM"],
    hf_model_types: &["seed_oss"],
    hf_keys: &KEYS,
    tensors: TENSORS,
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
    tensor(Role::AttentionOutputBias, "model.layers.{layer}.self_attn.o_proj.bias", "blk.{layer}.attn_output.bias", &[Hidden], OutputBias, Same),
    tensor(Role::FfnNorm, "model.layers.{layer}.post_attention_layernorm.weight", "blk.{layer}.post_attention_norm.weight", &[Hidden], Always, Same),
    tensor(Role::FfnGate, "model.layers.{layer}.mlp.gate_proj.weight", "blk.{layer}.ffn_gate.weight", &[Ffn, Hidden], Always, Same),
    tensor(Role::FfnUp, "model.layers.{layer}.mlp.up_proj.weight", "blk.{layer}.ffn_up.weight", &[Ffn, Hidden], Always, Same),
    tensor(Role::FfnDown, "model.layers.{layer}.mlp.down_proj.weight", "blk.{layer}.ffn_down.weight", &[Hidden, Ffn], Always, Same),
    tensor(Role::FfnGateBias, "model.layers.{layer}.mlp.gate_proj.bias", "blk.{layer}.ffn_gate.bias", &[Ffn], FfnBias, Same),
    tensor(Role::FfnUpBias, "model.layers.{layer}.mlp.up_proj.bias", "blk.{layer}.ffn_up.bias", &[Ffn], FfnBias, Same),
    tensor(Role::FfnDownBias, "model.layers.{layer}.mlp.down_proj.bias", "blk.{layer}.ffn_down.bias", &[Hidden], FfnBias, Same),
];
