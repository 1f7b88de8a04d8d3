//! gpt-oss of OpenAI: sinks in the softmax of attention, a window on every other layer, and a mixture of experts with biases
//! and a clamped SwiGLU. Published with the experts in MXFP4, which are layers of one expert each once they are read.

use super::table::*;
use crate::architecture::{
    Accepted, Activation, Alias, Architecture, Field, GgufKey, HfKey, HfLimit, Silence, Sliding,
    TensorTemplate,
};

/// With the defaults of transformers' `GptOssConfig`. `hidden_act` is a key that the family never reads.
static KEYS: [HfKey; 17] = with_llama_keys([
    number(Field::Vocab, &["vocab_size"], 201_088.0),
    number(Field::Hidden, &["hidden_size"], 2880.0),
    number(Field::Layers, &["num_hidden_layers"], 36.0),
    number(Field::Heads, &["num_attention_heads"], 64.0),
    kv_heads(8.0),
    key(Field::HeadDim, &["head_dim"], Silence::Number(64.0)).null(Silence::Nothing),
    number(Field::Ffn, &["intermediate_size"], 2880.0),
    number(Field::Context, &["max_position_embeddings"], 131_072.0),
    number(Field::NormEpsilon, &["rms_norm_eps"], 1e-5),
    key(Field::Activation, &[], Silence::Word("clamped_swiglu")),
    number(Field::RopeTheta, &["rope_theta"], 150_000.0),
    window(128.0),
    key(Field::QkvBias, &["attention_bias"], Silence::Flag(true)),
    key(Field::OutputBias, &["attention_bias"], Silence::Flag(true)),
    number(Field::Experts, &["num_local_experts", "num_experts"], 128.0),
    number(Field::ExpertsUsed, &["num_experts_per_tok"], 4.0),
    // A softmax over the chosen experts' scores is their share of one over all.
    always(Field::NormTopk, true),
]);

static LIMITS: [HfLimit; 2] = [
    HfLimit { key: "swiglu_alpha", accepted: Accepted::Number(1.702) },
    HfLimit { key: "swiglu_limit", accepted: Accepted::Number(7.0) },
];

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
    GgufKey::KeyValueLengthIfGiven,
    GgufKey::SlidingWindow,
    GgufKey::ExpertFeedForwardLength,
];

/// gpt-oss.
pub static GPT_OSS: Architecture = Architecture {
    name: "gpt-oss",
    has_experts: true,
    hf_architectures: &["GptOssForCausalLM"],
    hf_model_types: &["gpt_oss"],
    sliding: Sliding::ButEvery(2),
    activations: &[Activation::ClampedSwiglu],
    hf_keys: &KEYS,
    hf_limits: &LIMITS,
    gguf_keys: GGUF_KEYS,
    tensors: TENSORS,
    hf_aliases: &ALIASES,
    hf_woven: true,
    ..USUAL
};

const GATE_UP: &str = "model.layers.{layer}.mlp.experts.gate_up_proj";
const GATE_UP_BIAS: &str = "model.layers.{layer}.mlp.experts.gate_up_proj_bias";

/// The tensors of unquantized files.
static ALIASES: [Alias; 6] = [
    woven(Role::ExpertsGate, GATE_UP, 2, 0),
    woven(Role::ExpertsUp, GATE_UP, 2, 1),
    woven(Role::ExpertsDown, "model.layers.{layer}.mlp.experts.down_proj", 1, 0),
    woven(Role::ExpertsGateBias, GATE_UP_BIAS, 2, 0),
    woven(Role::ExpertsUpBias, GATE_UP_BIAS, 2, 1),
    woven(Role::ExpertsDownBias, "model.layers.{layer}.mlp.experts.down_proj_bias", 1, 0),
];

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
    tensor(Role::AttentionSinks, "model.layers.{layer}.self_attn.sinks", "blk.{layer}.attn_sinks.weight", &[Heads], Always, Same),
    tensor(Role::FfnNorm, "model.layers.{layer}.post_attention_layernorm.weight", "blk.{layer}.post_attention_norm.weight", &[Hidden], Always, Same),
    tensor(Role::Router, "model.layers.{layer}.mlp.router.weight", "blk.{layer}.ffn_gate_inp.weight", &[Experts, Hidden], Always, Same),
    tensor(Role::RouterBias, "model.layers.{layer}.mlp.router.bias", "blk.{layer}.ffn_gate_inp.bias", &[Experts], Always, Same),
    tensor(Role::ExpertsGate, "model.layers.{layer}.mlp.experts.{expert}.gate_proj.weight", "blk.{layer}.ffn_gate_exps.weight", &[Experts, ExpertFfn, Hidden], Always, EachExpert),
    tensor(Role::ExpertsUp, "model.layers.{layer}.mlp.experts.{expert}.up_proj.weight", "blk.{layer}.ffn_up_exps.weight", &[Experts, ExpertFfn, Hidden], Always, EachExpert),
    tensor(Role::ExpertsDown, "model.layers.{layer}.mlp.experts.{expert}.down_proj.weight", "blk.{layer}.ffn_down_exps.weight", &[Experts, Hidden, ExpertFfn], Always, EachExpert),
    tensor(Role::ExpertsGateBias, "model.layers.{layer}.mlp.experts.{expert}.gate_proj.bias", "blk.{layer}.ffn_gate_exps.bias", &[Experts, ExpertFfn], Always, EachExpert),
    tensor(Role::ExpertsUpBias, "model.layers.{layer}.mlp.experts.{expert}.up_proj.bias", "blk.{layer}.ffn_up_exps.bias", &[Experts, ExpertFfn], Always, EachExpert),
    tensor(Role::ExpertsDownBias, "model.layers.{layer}.mlp.experts.{expert}.down_proj.bias", "blk.{layer}.ffn_down_exps.bias", &[Experts, Hidden], Always, EachExpert),
];
