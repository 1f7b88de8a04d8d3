//! MiniMax M2: norms over all queries and all keys of a token, a part of each head rotates, and every layer is a mixture
//! whose scores are sigmoids.

use super::table::*;
use crate::architecture::{
    Alias, AliasLayout, Architecture, Field, GgufKey, HfKey, MixtureRules, Scores, Silence, TensorTemplate,
};

/// With the defaults of transformers' `MiniMaxM2Config`.
static KEYS: [HfKey; 18] = with_llama_keys([
    number(Field::Vocab, &["vocab_size"], 200_064.0),
    number(Field::Hidden, &["hidden_size"], 3072.0),
    number(Field::Ffn, &["intermediate_size"], 1536.0),
    number(Field::Layers, &["num_hidden_layers"], 62.0),
    number(Field::Heads, &["num_attention_heads"], 48.0),
    number(Field::KvHeads, &["num_key_value_heads"], 8.0),
    number(Field::HeadDim, &["head_dim"], 128.0),
    number(Field::Context, &["max_position_embeddings"], 196_608.0),
    number(Field::RopeTheta, &["rope_theta"], 5_000_000.0),
    number(Field::PartialRotary, &["partial_rotary_factor"], 1.0),
    key(Field::RotaryDimensions, &["rotary_dim"], Silence::Nothing),
    always(Field::QkvBias, false),
    always(Field::OutputBias, false),
    always(Field::QkNorm, true),
    number(Field::Experts, &["num_local_experts"], 256.0),
    number(Field::ExpertsUsed, &["num_experts_per_tok"], 8.0),
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
    GgufKey::ExpertCount,
    GgufKey::ExpertUsedCount,
    GgufKey::ExpertGatingFunc,
    GgufKey::KeyValueLength,
    GgufKey::ExpertFeedForwardLength,
    GgufKey::RopeDimensionCount,
];

/// In transformers 5's layout: what chooses moved with the experts.
static ALIASES: [Alias; 5] = [
    Alias { role: Role::Router, name: "model.layers.{layer}.mlp.gate.weight", layout: AliasLayout::Same },
    Alias {
        role: Role::ChoiceBias,
        name: "model.layers.{layer}.mlp.e_score_correction_bias",
        layout: AliasLayout::Same,
    },
    FUSED_EXPERTS[0],
    FUSED_EXPERTS[1],
    FUSED_EXPERTS[2],
];

/// MiniMax M2.
pub static MINIMAX_M2: Architecture = Architecture {
    name: "minimax-m2",
    has_experts: true,
    hf_architectures: &["MiniMaxM2ForCausalLM"],
    hf_model_types: &["minimax_m2"],
    mixture: MixtureRules { scores: Scores::Sigmoid, choice_bias: true, ..MixtureRules::USUAL },
    hf_keys: &KEYS,
    gguf_keys: GGUF_KEYS,
    tensors: TENSORS,
    hf_aliases: &ALIASES,
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
    tensor(Role::AttentionQNorm, "model.layers.{layer}.self_attn.q_norm.weight", "blk.{layer}.attn_q_norm.weight", &[Query], QkNorm, Same),
    tensor(Role::AttentionKNorm, "model.layers.{layer}.self_attn.k_norm.weight", "blk.{layer}.attn_k_norm.weight", &[KeyValue], QkNorm, Same),
    tensor(Role::FfnNorm, "model.layers.{layer}.post_attention_layernorm.weight", "blk.{layer}.ffn_norm.weight", &[Hidden], Always, Same),
    tensor(Role::Router, "model.layers.{layer}.block_sparse_moe.gate.weight", "blk.{layer}.ffn_gate_inp.weight", &[Experts, Hidden], SparseLayers, Same),
    tensor(Role::ChoiceBias, "model.layers.{layer}.block_sparse_moe.e_score_correction_bias", "blk.{layer}.exp_probs_b.bias", &[Experts], ChoiceBias, Same),
    tensor(Role::ExpertsGate, "model.layers.{layer}.block_sparse_moe.experts.{expert}.w1.weight", "blk.{layer}.ffn_gate_exps.weight", &[Experts, ExpertFfn, Hidden], SparseLayers, EachExpert),
    tensor(Role::ExpertsUp, "model.layers.{layer}.block_sparse_moe.experts.{expert}.w3.weight", "blk.{layer}.ffn_up_exps.weight", &[Experts, ExpertFfn, Hidden], SparseLayers, EachExpert),
    tensor(Role::ExpertsDown, "model.layers.{layer}.block_sparse_moe.experts.{expert}.w2.weight", "blk.{layer}.ffn_down_exps.weight", &[Experts, Hidden, ExpertFfn], SparseLayers, EachExpert),
];
