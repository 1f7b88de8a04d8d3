//! Short spellings for the tables of the architectures, and the rows that many share.

use crate::architecture::{
    Alias, AliasLayout, Architecture, Block, Dim, Field, GgufKey, HfKey, Layout, Norm, Position, Presence,
    RopeStyle, Silence, Sliding, TensorRole, TensorTemplate,
};

pub(super) use crate::architecture::Dim::{
    Embedding, ExpertFfn, Experts, Ffn, GateUp, HeadDim, Heads, Hidden, KeyValue, KvHeads, Positions, Qkv,
    Query, RopeHalf, Vocab,
};
pub(super) use crate::architecture::Layout::Experts as EachExpert;
pub(super) use crate::architecture::Layout::{
    HeadNorms, KeyHeads, PlusOne, QkvByHead, QueryHeads, Same, Transposed,
};
pub(super) use crate::architecture::Presence::{
    Always, EmbeddingProjection, FfnBias, FinalNorm, OutputBias, QkNorm, QkvBias, SecondNorm, UnlessTied,
};
pub(super) use crate::architecture::TensorRole as Role;

/// A tensor that both worlds have.
pub(super) const fn tensor(
    role: TensorRole,
    hf: &'static str,
    gguf: &'static str,
    shape: &'static [Dim],
    presence: Presence,
    layout: Layout,
) -> TensorTemplate {
    TensorTemplate { role, hf: Some(hf), gguf, shape, presence, layout }
}

/// A tensor of GGUF files, which Hugging Face computes from the configuration.
pub(super) const fn computed(role: TensorRole, gguf: &'static str, presence: Presence) -> TensorTemplate {
    TensorTemplate { role, hf: None, gguf, shape: &[RopeHalf], presence, layout: Same }
}

/// A key of `config.json`.
pub(super) const fn key(field: Field, names: &'static [&'static str], silence: Silence) -> HfKey {
    HfKey { field, names, silence }
}

/// What no model of the family can choose.
pub(super) const fn always(field: Field, flag: bool) -> HfKey {
    HfKey { field, names: &[], silence: Silence::Flag(flag) }
}

/// The keys that Llama and its many followers share.
pub(super) const LLAMA_KEYS: [HfKey; 12] = [
    key(Field::Vocab, &["vocab_size"], Silence::Required),
    key(Field::Hidden, &["hidden_size"], Silence::Required),
    key(Field::Layers, &["num_hidden_layers"], Silence::Required),
    key(Field::Heads, &["num_attention_heads"], Silence::Required),
    key(Field::KvHeads, &["num_key_value_heads"], Silence::Times(1, Field::Heads)),
    key(Field::HeadDim, &["head_dim"], Silence::Nothing),
    key(Field::Ffn, &["intermediate_size"], Silence::Required),
    key(Field::Context, &["max_position_embeddings"], Silence::Required),
    key(Field::NormEpsilon, &["rms_norm_eps"], Silence::Required),
    key(Field::Activation, &["hidden_act"], Silence::Word("silu")),
    key(Field::RopeTheta, &["rope_theta"], Silence::Number(10_000.0)),
    key(Field::SlidingWindow, &["sliding_window"], Silence::Nothing),
];

/// [`LLAMA_KEYS`] and more, in one list.
pub(super) const fn with_llama_keys<const N: usize, const M: usize>(more: [HfKey; M]) -> [HfKey; N] {
    assert!(N == LLAMA_KEYS.len() + M);
    let mut all = [LLAMA_KEYS[0]; N];
    let mut i = 0;
    while i < N {
        all[i] = if i < LLAMA_KEYS.len() { LLAMA_KEYS[i] } else { more[i - LLAMA_KEYS.len()] };
        i += 1;
    }
    all
}

/// What llama.cpp's converter writes for any model of today's usual shape.
pub(super) const USUAL_GGUF_KEYS: &[GgufKey] = &[
    GgufKey::BlockCount,
    GgufKey::ContextLength,
    GgufKey::EmbeddingLength,
    GgufKey::FeedForwardLength,
    GgufKey::HeadCount,
    GgufKey::HeadCountKv,
    GgufKey::RopeScaling,
    GgufKey::RopeFreqBase,
    GgufKey::RmsEpsilon,
    GgufKey::LayerNormEpsilon,
    GgufKey::ExpertCount,
    GgufKey::ExpertUsedCount,
    GgufKey::KeyValueLengthIfGiven,
    GgufKey::SlidingWindow,
];

/// A family that differs from the usual in nothing, to be completed.
pub(super) const USUAL: Architecture = Architecture {
    name: "",
    has_experts: false,
    no_gguf: None,
    hf_architectures: &[],
    hf_model_types: &[],
    hf_prefix: "model.",
    norm: Norm::Rms,
    norm_plus_one: false,
    position: Position::Rotary,
    gguf_rope_style: RopeStyle::HalfSplit,
    block: Block::Sequential,
    scaled_embeddings: false,
    sliding: Sliding::All,
    activations: &[crate::architecture::Activation::Silu],
    gated: true,
    tied_by_default: false,
    hf_keys: &[],
    hf_refused: &[],
    gguf_keys: USUAL_GGUF_KEYS,
    tensors: &[],
    hf_aliases: &[],
};

/// A role of which transformers 5 keeps all experts in one tensor.
pub(super) const fn stacked(role: TensorRole, name: &'static str, of: usize, which: usize) -> Alias {
    Alias { role, name, layout: AliasLayout::Stack { of, which } }
}

/// The tensors of experts as transformers 5 has them in memory, and saves them with `save_original_format=False`.
pub(super) const FUSED_EXPERTS: [Alias; 3] = [
    stacked(Role::ExpertsGate, "model.layers.{layer}.mlp.experts.gate_up_proj", 2, 0),
    stacked(Role::ExpertsUp, "model.layers.{layer}.mlp.experts.gate_up_proj", 2, 1),
    stacked(Role::ExpertsDown, "model.layers.{layer}.mlp.experts.down_proj", 1, 0),
];
