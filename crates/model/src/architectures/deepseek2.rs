//! DeepSeek V2 and its followers: multi-head latent attention. Youtu-LLM, whose layers all have one feed-forward network.

use super::table::*;
use crate::architecture::{
    Architecture, Field, GgufKey, HfKey, HfLimit, Presence, RopeStyle, Silence, TensorTemplate,
};

/// With the defaults of transformers' `YoutuConfig`.
static YOUTU_KEYS: [HfKey; 15] = [
    number(Field::Vocab, &["vocab_size"], 128_256.0),
    number(Field::Hidden, &["hidden_size"], 2048.0),
    number(Field::Layers, &["num_hidden_layers"], 32.0),
    number(Field::Heads, &["num_attention_heads"], 16.0),
    number(Field::KvHeads, &["num_key_value_heads"], 16.0),
    number(Field::Ffn, &["intermediate_size"], 6144.0),
    number(Field::Context, &["max_position_embeddings"], 131_072.0),
    number(Field::NormEpsilon, &["rms_norm_eps"], 1e-6),
    key(Field::Activation, &["hidden_act"], Silence::Word("silu")),
    number(Field::RopeTheta, &["rope_theta"], 10_000.0),
    key(Field::QueryRank, &["q_lora_rank"], Silence::Number(1536.0)).null(Silence::Nothing),
    number(Field::LatentRank, &["kv_lora_rank"], 512.0),
    number(Field::LatentNopeDim, &["qk_nope_head_dim"], 128.0),
    number(Field::LatentRopeDim, &["qk_rope_head_dim"], 64.0),
    number(Field::LatentValueDim, &["v_head_dim"], 128.0),
];

/// What llama.cpp's loader of deepseek2 has no tensors for, and rotates in one way only.
const YOUTU_LIMITS: &[HfLimit] = &[only("attention_bias", false), only("rope_interleave", true)];

const YOUTU_GGUF_KEYS: &[GgufKey] = &[
    GgufKey::BlockCount,
    GgufKey::ContextLength,
    GgufKey::EmbeddingLength,
    GgufKey::FeedForwardLength,
    GgufKey::HeadCount,
    GgufKey::HeadCountKvOne,
    GgufKey::RopeScaling,
    GgufKey::RopeFreqBase,
    GgufKey::RmsEpsilon,
    GgufKey::DenseLayersAlone,
    GgufKey::VocabSize,
    GgufKey::LatentRanks,
    GgufKey::LatentLengths,
    GgufKey::RopeDimensionCount,
    GgufKey::YarnScoreMultiplier,
];

/// Youtu-LLM.
pub static YOUTU: Architecture = Architecture {
    name: "deepseek2",
    hf_architectures: &["YoutuForCausalLM"],
    hf_model_types: &["youtu", "youtu_llm"],
    gguf_rope_style: RopeStyle::Interleaved,
    hf_rope_style: RopeStyle::Interleaved,
    tied_by_default: true,
    hf_keys: &YOUTU_KEYS,
    hf_limits: YOUTU_LIMITS,
    gguf_keys: YOUTU_GGUF_KEYS,
    tensors: YOUTU_TENSORS,
    ..USUAL
};

#[rustfmt::skip]
const YOUTU_TENSORS: &[TensorTemplate] = &[
    tensor(Role::TokenEmbedding, "model.embed_tokens.weight", "token_embd.weight", &[Vocab, Hidden], Always, Same),
    tensor(Role::OutputNorm, "model.norm.weight", "output_norm.weight", &[Hidden], Always, Same),
    tensor(Role::Output, "lm_head.weight", "output.weight", &[Vocab, Hidden], UnlessTied, Same),
    tensor(Role::AttentionNorm, "model.layers.{layer}.input_layernorm.weight", "blk.{layer}.attn_norm.weight", &[Hidden], Always, Same),
    tensor(Role::AttentionQ, "model.layers.{layer}.self_attn.q_proj.weight", "blk.{layer}.attn_q.weight", &[Query, Hidden], Presence::NoQueryRank, Same),
    tensor(Role::AttentionQDown, "model.layers.{layer}.self_attn.q_a_proj.weight", "blk.{layer}.attn_q_a.weight", &[QueryRank, Hidden], Presence::QueryRank, Same),
    tensor(Role::AttentionQDownNorm, "model.layers.{layer}.self_attn.q_a_layernorm.weight", "blk.{layer}.attn_q_a_norm.weight", &[QueryRank], Presence::QueryRank, Same),
    tensor(Role::AttentionQUp, "model.layers.{layer}.self_attn.q_b_proj.weight", "blk.{layer}.attn_q_b.weight", &[Query, QueryRank], Presence::QueryRank, Same),
    tensor(Role::AttentionKvDown, "model.layers.{layer}.self_attn.kv_a_proj_with_mqa.weight", "blk.{layer}.attn_kv_a_mqa.weight", &[LatentCached, Hidden], Always, Same),
    tensor(Role::AttentionKvDownNorm, "model.layers.{layer}.self_attn.kv_a_layernorm.weight", "blk.{layer}.attn_kv_a_norm.weight", &[LatentRank], Always, Same),
    tensor(Role::AttentionKvUp, "model.layers.{layer}.self_attn.kv_b_proj.weight", "blk.{layer}.attn_kv_b.weight", &[LatentUp, LatentRank], Presence::JoinedUp, Same),
    derived(Role::AttentionKUp, "blk.{layer}.attn_k_b.weight", &[Heads, LatentRank, LatentNope], Presence::SplitUp, KeyUp),
    derived(Role::AttentionVUp, "blk.{layer}.attn_v_b.weight", &[Heads, LatentValue, LatentRank], Presence::SplitUp, ValueUp),
    tensor(Role::AttentionOutput, "model.layers.{layer}.self_attn.o_proj.weight", "blk.{layer}.attn_output.weight", &[Hidden, LatentValues], Always, Same),
    tensor(Role::FfnNorm, "model.layers.{layer}.post_attention_layernorm.weight", "blk.{layer}.ffn_norm.weight", &[Hidden], Always, Same),
    tensor(Role::FfnGate, "model.layers.{layer}.mlp.gate_proj.weight", "blk.{layer}.ffn_gate.weight", &[Ffn, Hidden], Always, Same),
    tensor(Role::FfnUp, "model.layers.{layer}.mlp.up_proj.weight", "blk.{layer}.ffn_up.weight", &[Ffn, Hidden], Always, Same),
    tensor(Role::FfnDown, "model.layers.{layer}.mlp.down_proj.weight", "blk.{layer}.ffn_down.weight", &[Hidden, Ffn], Always, Same),
];
