//! Seed-OSS of ByteDance: Llama with biases on queries, keys and values and a head size of its own. GGUF calls the norm
//! in front of the feed-forward network `post_attention_norm`.

use super::table::*;
use crate::architecture::{Architecture, Field, HfKey, Silence, TensorTemplate};

/// With the defaults of transformers' `SeedOssConfig`. Of its other keys `attention_dropout` and `residual_dropout` act
/// in training only, and nothing reads `pretraining_tp`.
static KEYS: [HfKey; 14] = with_llama_keys([
    number(Field::Vocab, &["vocab_size"], 155_136.0),
    number(Field::Layers, &["num_hidden_layers"], 64.0),
    number(Field::Heads, &["num_attention_heads"], 80.0),
    kv_heads(8.0),
    key(Field::HeadDim, &["head_dim"], Silence::Number(128.0)).null(Silence::Nothing),
    number(Field::Ffn, &["intermediate_size"], 27648.0),
    number(Field::Context, &["max_position_embeddings"], 524_288.0),
    key(Field::QkvBias, &["attention_bias"], Silence::Flag(true)),
    key(Field::OutputBias, &["attention_out_bias"], Silence::Flag(false)),
    key(Field::MlpBias, &["mlp_bias"], Silence::Flag(false)),
]);

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
