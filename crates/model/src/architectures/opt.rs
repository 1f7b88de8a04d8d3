//! OPT: learned positions (offset by two), layer norms before or, in OPT-350m, behind attention and network,
//! and there an embedding narrower than the residual stream. llama.cpp has no such model; the names of its
//! tensors in GGUF are quern's own, for recipes and importance matrices.

use super::table::*;
use crate::architecture::{
    Activation, Architecture, Field, GgufKey, HfKey, Norm, Position, Silence, TensorTemplate,
};

static KEYS: [HfKey; 16] = [
    number(Field::Vocab, &["vocab_size"], 50272.0),
    number(Field::Hidden, &["hidden_size"], 768.0),
    key(Field::Embedding, &["word_embed_proj_dim"], Silence::Times(1, Field::Hidden)),
    number(Field::Layers, &["num_hidden_layers"], 12.0),
    number(Field::Heads, &["num_attention_heads"], 12.0),
    key(Field::KvHeads, &[], Silence::Times(1, Field::Heads)),
    key(Field::HeadDim, &[], Silence::Nothing),
    number(Field::Ffn, &["ffn_dim"], 3072.0),
    number(Field::Context, &["max_position_embeddings"], 2048.0),
    key(Field::NormEpsilon, &[], Silence::Number(1e-5)),
    key(Field::Activation, &["activation_function"], Silence::Word("relu")),
    key(Field::QkvBias, &["enable_bias"], Silence::Flag(true)),
    key(Field::OutputBias, &["enable_bias"], Silence::Flag(true)),
    key(Field::MlpBias, &["enable_bias"], Silence::Flag(true)),
    key(Field::NormBefore, &["do_layer_norm_before"], Silence::Flag(true)),
    key(Field::NoFinalNorm, &["_remove_final_layer_norm"], Silence::Flag(false)),
];

/// OPT, in both shapes.
pub static OPT: Architecture = Architecture {
    name: "opt",
    no_gguf: Some(
        "llama.cpp has no OPT architecture, so no program could load the file; convert to safetensors, or \
         quantize to gptq, nf4, fp4 or int8",
    ),
    hf_architectures: &["OPTForCausalLM"],
    hf_model_types: &["opt"],
    norm: Norm::Layer,
    position: Position::Learned { offset: 2 },
    activations: &[Activation::Relu, Activation::Gelu, Activation::GeluTanh, Activation::Silu],
    gated: false,
    tied_by_default: true,
    hf_keys: &KEYS,
    hf_limits: &[only("layer_norm_elementwise_affine", true)],
    gguf_keys: &[
        GgufKey::BlockCount,
        GgufKey::ContextLength,
        GgufKey::EmbeddingLength,
        GgufKey::FeedForwardLength,
        GgufKey::HeadCount,
        GgufKey::LayerNormEpsilon,
    ],
    tensors: TENSORS,
    ..USUAL
};

#[rustfmt::skip]
const TENSORS: &[TensorTemplate] = &[
    tensor(Role::TokenEmbedding, "model.decoder.embed_tokens.weight", "token_embd.weight", &[Vocab, Embedding], Always, Same),
    tensor(Role::PositionEmbedding, "model.decoder.embed_positions.weight", "position_embd.weight", &[Positions, Hidden], Always, Same),
    tensor(Role::EmbeddingIn, "model.decoder.project_in.weight", "embd_in.weight", &[Hidden, Embedding], EmbeddingProjection, Same),
    tensor(Role::EmbeddingOut, "model.decoder.project_out.weight", "embd_out.weight", &[Embedding, Hidden], EmbeddingProjection, Same),
    tensor(Role::OutputNorm, "model.decoder.final_layer_norm.weight", "output_norm.weight", &[Hidden], FinalNorm, Same),
    tensor(Role::OutputNormBias, "model.decoder.final_layer_norm.bias", "output_norm.bias", &[Hidden], FinalNorm, Same),
    tensor(Role::Output, "lm_head.weight", "output.weight", &[Vocab, Embedding], UnlessTied, Same),
    tensor(Role::AttentionNorm, "model.decoder.layers.{layer}.self_attn_layer_norm.weight", "blk.{layer}.attn_norm.weight", &[Hidden], Always, Same),
    tensor(Role::AttentionNormBias, "model.decoder.layers.{layer}.self_attn_layer_norm.bias", "blk.{layer}.attn_norm.bias", &[Hidden], Always, Same),
    tensor(Role::AttentionQ, "model.decoder.layers.{layer}.self_attn.q_proj.weight", "blk.{layer}.attn_q.weight", &[Query, Hidden], Always, Same),
    tensor(Role::AttentionK, "model.decoder.layers.{layer}.self_attn.k_proj.weight", "blk.{layer}.attn_k.weight", &[KeyValue, Hidden], Always, Same),
    tensor(Role::AttentionV, "model.decoder.layers.{layer}.self_attn.v_proj.weight", "blk.{layer}.attn_v.weight", &[KeyValue, Hidden], Always, Same),
    tensor(Role::AttentionOutput, "model.decoder.layers.{layer}.self_attn.out_proj.weight", "blk.{layer}.attn_output.weight", &[Hidden, Query], Always, Same),
    tensor(Role::AttentionQBias, "model.decoder.layers.{layer}.self_attn.q_proj.bias", "blk.{layer}.attn_q.bias", &[Query], QkvBias, Same),
    tensor(Role::AttentionKBias, "model.decoder.layers.{layer}.self_attn.k_proj.bias", "blk.{layer}.attn_k.bias", &[KeyValue], QkvBias, Same),
    tensor(Role::AttentionVBias, "model.decoder.layers.{layer}.self_attn.v_proj.bias", "blk.{layer}.attn_v.bias", &[KeyValue], QkvBias, Same),
    tensor(Role::AttentionOutputBias, "model.decoder.layers.{layer}.self_attn.out_proj.bias", "blk.{layer}.attn_output.bias", &[Hidden], OutputBias, Same),
    tensor(Role::FfnNorm, "model.decoder.layers.{layer}.final_layer_norm.weight", "blk.{layer}.ffn_norm.weight", &[Hidden], Always, Same),
    tensor(Role::FfnNormBias, "model.decoder.layers.{layer}.final_layer_norm.bias", "blk.{layer}.ffn_norm.bias", &[Hidden], Always, Same),
    tensor(Role::FfnUp, "model.decoder.layers.{layer}.fc1.weight", "blk.{layer}.ffn_up.weight", &[Ffn, Hidden], Always, Same),
    tensor(Role::FfnUpBias, "model.decoder.layers.{layer}.fc1.bias", "blk.{layer}.ffn_up.bias", &[Ffn], FfnBias, Same),
    tensor(Role::FfnDown, "model.decoder.layers.{layer}.fc2.weight", "blk.{layer}.ffn_down.weight", &[Hidden, Ffn], Always, Same),
    tensor(Role::FfnDownBias, "model.decoder.layers.{layer}.fc2.bias", "blk.{layer}.ffn_down.bias", &[Hidden], FfnBias, Same),
];
