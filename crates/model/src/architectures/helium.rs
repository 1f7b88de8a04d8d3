//! Helium 1 of Kyutai: Llama whose heads are rotated by pairs of neighbours in Hugging Face's checkpoints.

use super::table::*;
use crate::architecture::{Architecture, Field, HfKey, RopeStyle, Silence, TensorTemplate};

/// With the defaults of transformers' `HeliumConfig`. Its attention never has a bias on its output.
static KEYS: [HfKey; 13] = with_llama_keys([
    number(Field::Vocab, &["vocab_size"], 48000.0),
    number(Field::Hidden, &["hidden_size"], 2560.0),
    number(Field::Ffn, &["intermediate_size"], 7040.0),
    number(Field::Layers, &["num_hidden_layers"], 24.0),
    number(Field::Heads, &["num_attention_heads"], 20.0),
    kv_heads(20.0),
    key(Field::HeadDim, &["head_dim"], Silence::Number(128.0)).null(Silence::Nothing),
    number(Field::Context, &["max_position_embeddings"], 4096.0),
    number(Field::NormEpsilon, &["rms_norm_eps"], 1e-8),
    number(Field::RopeTheta, &["rope_theta"], 100_000.0),
    key(Field::QkvBias, &["attention_bias"], Silence::Flag(false)),
    key(Field::MlpBias, &["mlp_bias"], Silence::Flag(false)),
]);

/// Helium.
pub static HELIUM: Architecture = Architecture {
    name: "helium",
    no_gguf: Some(
        "llama.cpp has no Helium architecture, so no program could load the file; convert to safetensors, or \
         quantize to gptq, nf4, fp4 or int8",
    ),
    hf_architectures: &["HeliumForCausalLM"],
    hf_model_types: &["helium"],
    hf_rope_style: RopeStyle::Interleaved,
    gguf_rope_style: RopeStyle::Interleaved,
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
    tensor(Role::FfnNorm, "model.layers.{layer}.post_attention_layernorm.weight", "blk.{layer}.ffn_norm.weight", &[Hidden], Always, Same),
    tensor(Role::FfnGate, "model.layers.{layer}.mlp.gate_proj.weight", "blk.{layer}.ffn_gate.weight", &[Ffn, Hidden], Always, Same),
    tensor(Role::FfnUp, "model.layers.{layer}.mlp.up_proj.weight", "blk.{layer}.ffn_up.weight", &[Ffn, Hidden], Always, Same),
    tensor(Role::FfnDown, "model.layers.{layer}.mlp.down_proj.weight", "blk.{layer}.ffn_down.weight", &[Hidden, Ffn], Always, Same),
    tensor(Role::FfnGateBias, "model.layers.{layer}.mlp.gate_proj.bias", "blk.{layer}.ffn_gate.bias", &[Ffn], FfnBias, Same),
    tensor(Role::FfnUpBias, "model.layers.{layer}.mlp.up_proj.bias", "blk.{layer}.ffn_up.bias", &[Ffn], FfnBias, Same),
    tensor(Role::FfnDownBias, "model.layers.{layer}.mlp.down_proj.bias", "blk.{layer}.ffn_down.bias", &[Hidden], FfnBias, Same),
];
