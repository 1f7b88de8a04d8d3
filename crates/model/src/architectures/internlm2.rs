//! InternLM 2 and 2.5 of Shanghai AI Laboratory: Llama with queries, keys and values of each key head together in one matrix.

use super::table::*;
use crate::architecture::{
    Alias, AliasLayout, Architecture, Field, GgufKey, HfKey, HfLimit, RopeStyle, TensorTemplate,
};

/// With the defaults of the class that published files bring with them.
static KEYS: [HfKey; 11] = with_llama_keys([number(Field::Vocab, &["vocab_size"], 103_168.0)]);

/// No published model has biases.
const LIMITS: &[HfLimit] = &[only("bias", false)];

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
    GgufKey::KeyValueLengthIfGiven,
];

const QKV: &str = "model.layers.{layer}.attention.wqkv.weight";

static TOGETHER: [Alias; 3] = [
    Alias { role: Role::AttentionQ, name: QKV, layout: AliasLayout::Grouped { which: 0 } },
    Alias { role: Role::AttentionK, name: QKV, layout: AliasLayout::Grouped { which: 1 } },
    Alias { role: Role::AttentionV, name: QKV, layout: AliasLayout::Grouped { which: 2 } },
];

/// InternLM 2 and 2.5.
pub static INTERNLM2: Architecture = Architecture {
    name: "internlm2",
    hf_architectures: &["InternLM2ForCausalLM"],
    hf_model_types: &["internlm2"],
    gguf_rope_style: RopeStyle::Interleaved,
    hf_keys: &KEYS,
    hf_limits: LIMITS,
    gguf_keys: GGUF_KEYS,
    tensors: TENSORS,
    hf_aliases: &TOGETHER,
    hf_woven: true,
    ..USUAL
};

#[rustfmt::skip]
const TENSORS: &[TensorTemplate] = &[
    tensor(Role::TokenEmbedding, "model.tok_embeddings.weight", "token_embd.weight", &[Vocab, Hidden], Always, Same),
    tensor(Role::OutputNorm, "model.norm.weight", "output_norm.weight", &[Hidden], Always, Same),
    tensor(Role::Output, "output.weight", "output.weight", &[Vocab, Hidden], UnlessTied, Same),
    tensor(Role::AttentionNorm, "model.layers.{layer}.attention_norm.weight", "blk.{layer}.attn_norm.weight", &[Hidden], Always, Same),
    tensor(Role::AttentionQ, "model.layers.{layer}.attention.wq.weight", "blk.{layer}.attn_q.weight", &[Query, Hidden], Always, QueryHeads),
    tensor(Role::AttentionK, "model.layers.{layer}.attention.wk.weight", "blk.{layer}.attn_k.weight", &[KeyValue, Hidden], Always, KeyHeads),
    tensor(Role::AttentionV, "model.layers.{layer}.attention.wv.weight", "blk.{layer}.attn_v.weight", &[KeyValue, Hidden], Always, Same),
    tensor(Role::AttentionOutput, "model.layers.{layer}.attention.wo.weight", "blk.{layer}.attn_output.weight", &[Hidden, Query], Always, Same),
    tensor(Role::FfnNorm, "model.layers.{layer}.ffn_norm.weight", "blk.{layer}.ffn_norm.weight", &[Hidden], Always, Same),
    tensor(Role::FfnGate, "model.layers.{layer}.feed_forward.w1.weight", "blk.{layer}.ffn_gate.weight", &[Ffn, Hidden], Always, Same),
    tensor(Role::FfnUp, "model.layers.{layer}.feed_forward.w3.weight", "blk.{layer}.ffn_up.weight", &[Ffn, Hidden], Always, Same),
    tensor(Role::FfnDown, "model.layers.{layer}.feed_forward.w2.weight", "blk.{layer}.ffn_down.weight", &[Hidden, Ffn], Always, Same),
];
