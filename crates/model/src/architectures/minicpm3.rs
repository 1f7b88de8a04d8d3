//! MiniCPM3 of OpenBMB: latent attention, and constants that multiply embeddings and what attention and network add, and
//! divide the logits. GGUF files keep keys' and values' projections in one matrix, and have no keys for the constants.

use super::table::*;
use crate::architecture::{Architecture, Field, GgufKey, HfKey, HfLimit, Presence, Silence, TensorTemplate};

/// With the defaults of transformers' `MiniCPM3Config`; `quirks` has the constants.
static KEYS: [HfKey; 16] = [
    number(Field::Vocab, &["vocab_size"], 73448.0),
    number(Field::Hidden, &["hidden_size"], 2560.0),
    number(Field::Layers, &["num_hidden_layers"], 62.0),
    number(Field::Heads, &["num_attention_heads"], 40.0),
    kv_heads(40.0),
    number(Field::Ffn, &["intermediate_size"], 6400.0),
    number(Field::Context, &["max_position_embeddings"], 32768.0),
    number(Field::NormEpsilon, &["rms_norm_eps"], 1e-5),
    key(Field::Activation, &["hidden_act"], Silence::Word("silu")),
    number(Field::RopeTheta, &["rope_theta"], 10_000.0),
    key(Field::QueryRank, &["q_lora_rank"], Silence::Number(768.0)).null(Silence::Nothing),
    number(Field::LatentRank, &["kv_lora_rank"], 256.0),
    number(Field::LatentNopeDim, &["qk_nope_head_dim"], 64.0),
    number(Field::LatentRopeDim, &["qk_rope_head_dim"], 32.0),
    key(Field::LatentValueDim, &["v_head_dim"], Silence::Nothing),
    number(Field::EmbeddingMultiplier, &["scale_emb"], 12.0),
];

/// No published model has biases.
const LIMITS: &[HfLimit] = &[only("attention_bias", false), only("mlp_bias", false)];

const GGUF_KEYS: &[GgufKey] = &[
    GgufKey::ContextLength,
    GgufKey::EmbeddingLength,
    GgufKey::BlockCount,
    GgufKey::FeedForwardLength,
    GgufKey::HeadCount,
    GgufKey::HeadCountKv,
    GgufKey::RmsEpsilon,
    GgufKey::VocabSize,
    GgufKey::LatentRanks,
    GgufKey::KeyLength,
    GgufKey::RopeDimensionCount,
    GgufKey::RopeFreqBaseUnlessUsual,
];

/// MiniCPM3.
pub static MINICPM3: Architecture = Architecture {
    name: "minicpm3",
    hf_architectures: &["MiniCPM3ForCausalLM"],
    hf_model_types: &["minicpm3"],
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
    tensor(Role::OutputNorm, "model.norm.weight", "output_norm.weight", &[Hidden], Always, Same),
    tensor(Role::Output, "lm_head.weight", "output.weight", &[Vocab, Hidden], UnlessTied, Same),
    computed(Role::RopeFactorsLong, "rope_factors_long.weight", Presence::LongRope),
    computed(Role::RopeFactorsShort, "rope_factors_short.weight", Presence::LongRope),
    tensor(Role::AttentionNorm, "model.layers.{layer}.input_layernorm.weight", "blk.{layer}.attn_norm.weight", &[Hidden], Always, Same),
    tensor(Role::AttentionQ, "model.layers.{layer}.self_attn.q_proj.weight", "blk.{layer}.attn_q.weight", &[Query, Hidden], Presence::NoQueryRank, Same),
    tensor(Role::AttentionQDown, "model.layers.{layer}.self_attn.q_a_proj.weight", "blk.{layer}.attn_q_a.weight", &[QueryRank, Hidden], Presence::QueryRank, Same),
    tensor(Role::AttentionQDownNorm, "model.layers.{layer}.self_attn.q_a_layernorm.weight", "blk.{layer}.attn_q_a_norm.weight", &[QueryRank], Presence::QueryRank, Same),
    tensor(Role::AttentionQUp, "model.layers.{layer}.self_attn.q_b_proj.weight", "blk.{layer}.attn_q_b.weight", &[Query, QueryRank], Presence::QueryRank, Same),
    tensor(Role::AttentionKvDown, "model.layers.{layer}.self_attn.kv_a_proj_with_mqa.weight", "blk.{layer}.attn_kv_a_mqa.weight", &[LatentCached, Hidden], Always, Same),
    tensor(Role::AttentionKvDownNorm, "model.layers.{layer}.self_attn.kv_a_layernorm.weight", "blk.{layer}.attn_kv_a_norm.weight", &[LatentRank], Always, Same),
    tensor(Role::AttentionKvUp, "model.layers.{layer}.self_attn.kv_b_proj.weight", "blk.{layer}.attn_kv_b.weight", &[LatentUp, LatentRank], Always, Same),
    tensor(Role::AttentionOutput, "model.layers.{layer}.self_attn.o_proj.weight", "blk.{layer}.attn_output.weight", &[Hidden, LatentValues], Always, Same),
    tensor(Role::FfnNorm, "model.layers.{layer}.post_attention_layernorm.weight", "blk.{layer}.ffn_norm.weight", &[Hidden], Always, Same),
    tensor(Role::FfnGate, "model.layers.{layer}.mlp.gate_proj.weight", "blk.{layer}.ffn_gate.weight", &[Ffn, Hidden], Always, Same),
    tensor(Role::FfnUp, "model.layers.{layer}.mlp.up_proj.weight", "blk.{layer}.ffn_up.weight", &[Ffn, Hidden], Always, Same),
    tensor(Role::FfnDown, "model.layers.{layer}.mlp.down_proj.weight", "blk.{layer}.ffn_down.weight", &[Hidden, Ffn], Always, Same),
];
