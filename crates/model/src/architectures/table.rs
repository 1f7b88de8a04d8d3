//! Constructors for the tables of the architectures, and the rows that many share.

use crate::architecture::{
    Accepted, Alias, AliasLayout, Architecture, Block, Dim, Field, GgufKey, HfKey, HfLimit, Hybrid, Layout,
    MixtureRules, Norm, Position, Presence, RopeStyle, Silence, Sliding, TensorRole, TensorTemplate,
    Unrotated,
};

pub(super) use crate::architecture::Dim::{
    ConvTaps, DeltaHeadDim, DeltaHeads, DeltaIn, DeltaPairs, DeltaQkv, DeltaValues, Embedding, ExpertFfn,
    ExpertGateUp, ExpertHidden, Experts, Ffn, GateUp, HeadDim, Heads, Hidden, IndexerHead, IndexerHeads,
    IndexerQueries, KeyValue, KvHeads, LatentCached, LatentNope, LatentRank, LatentUp, LatentValue,
    LatentValues, Laurel, MambaConv, MambaGroup, MambaGroups, MambaHeads, MambaIn, MambaInner, One,
    OtherStreams, PerLayer, PerLayerAll, PerLayerVocab, Positions, Qkv, Query, QueryGate, QueryRank,
    RopeHalf, SharedFfn, StreamPairs, Streams, TripleHidden, Vocab,
};
pub(super) use crate::architecture::Layout::Experts as EachExpert;
pub(super) use crate::architecture::Layout::{
    Conv, Flat, FlatDecay, HeadNorms, KeyHeads, KeyUp, Multiplied, PlusOne, QkvByHead, QueryHeads, Same,
    Transposed, ValueUp,
};
pub(super) use crate::architecture::Presence::{
    Always, AttentionLayers, ChoiceBias, DenseLayers, EmbeddingProjection, ExpertLatent, FfnBias, FinalNorm,
    NetworkLayers, OutputBias, OwnKeys, OwnValues, QkNorm, QkvBias, SecondNorm, SharedExpert, SharedRouter,
    SparseLayers, StateConvBias, StateLayers, StateNorm, UnlessTied,
};
pub(super) use crate::architecture::TensorRole as Role;

/// A tensor that both formats have.
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

/// A tensor of GGUF files that is a part of one that Hugging Face has.
pub(super) const fn derived(
    role: TensorRole,
    gguf: &'static str,
    shape: &'static [Dim],
    presence: Presence,
    layout: Layout,
) -> TensorTemplate {
    TensorTemplate { role, hf: None, gguf, shape, presence, layout }
}

/// A tensor that Hugging Face has and GGUF in parts alone.
pub(super) const fn joined(
    role: TensorRole,
    hf: &'static str,
    shape: &'static [Dim],
    presence: Presence,
) -> TensorTemplate {
    TensorTemplate { role, hf: Some(hf), gguf: "", shape, presence, layout: Same }
}

/// A key of `config.json` whose null means the same as its absence.
pub(super) const fn key(field: Field, names: &'static [&'static str], silence: Silence) -> HfKey {
    let written = if names.is_empty() { None } else { Some(names[0]) };
    HfKey { field, names, written, silence, null: silence }
}

/// A number with a default, which must not be null.
pub(super) const fn number(field: Field, names: &'static [&'static str], otherwise: f64) -> HfKey {
    key(field, names, Silence::Number(otherwise)).null(Silence::Required)
}

/// What no model of the family can choose.
pub(super) const fn always(field: Field, flag: bool) -> HfKey {
    key(field, &[], Silence::Flag(flag))
}

/// As many key-value heads as query heads, unless given.
pub(super) const KV_HEADS: HfKey =
    key(Field::KvHeads, &["num_key_value_heads"], Silence::Times(1, Field::Heads));

/// Key-value heads of a class with a number of its own where the key is absent; null still means as many as
/// query heads.
pub(super) const fn kv_heads(otherwise: f64) -> HfKey {
    HfKey { silence: Silence::Number(otherwise), ..KV_HEADS }
}

/// A sliding window of a class whose default is a window; null means none.
pub(super) const fn window(otherwise: f64) -> HfKey {
    key(Field::SlidingWindow, &["sliding_window"], Silence::Number(otherwise)).null(Silence::Nothing)
}

/// A flag that must have this value.
pub(super) const fn only(key: &'static str, flag: bool) -> HfLimit {
    HfLimit { key, accepted: Accepted::Flag(flag) }
}

/// `head_dim` of a family whose attention does not read it.
pub(super) const NO_HEAD_DIM: HfLimit = HfLimit { key: "head_dim", accepted: Accepted::HiddenPerHead };

/// The keys that Llama and its many followers share, with the defaults of transformers' `LlamaConfig`.
pub(super) const LLAMA_KEYS: [HfKey; 11] = [
    number(Field::Vocab, &["vocab_size"], 32000.0),
    number(Field::Hidden, &["hidden_size"], 4096.0),
    number(Field::Layers, &["num_hidden_layers"], 32.0),
    number(Field::Heads, &["num_attention_heads"], 32.0),
    KV_HEADS,
    key(Field::HeadDim, &["head_dim"], Silence::Nothing),
    number(Field::Ffn, &["intermediate_size"], 11008.0),
    number(Field::Context, &["max_position_embeddings"], 2048.0),
    number(Field::NormEpsilon, &["rms_norm_eps"], 1e-6),
    key(Field::Activation, &["hidden_act"], Silence::Word("silu")),
    number(Field::RopeTheta, &["rope_theta"], 10_000.0),
];

/// [`LLAMA_KEYS`], with those of `more` in place of the ones for the same field, or behind them.
pub(super) const fn with_llama_keys<const N: usize, const M: usize>(more: [HfKey; M]) -> [HfKey; N] {
    let mut all = [LLAMA_KEYS[0]; N];
    let mut len = 0;
    while len < LLAMA_KEYS.len() {
        all[len] = LLAMA_KEYS[len];
        len += 1;
    }
    let mut i = 0;
    while i < M {
        let mut at = 0;
        while at < LLAMA_KEYS.len() && LLAMA_KEYS[at].field as u8 != more[i].field as u8 {
            at += 1;
        }
        if at == LLAMA_KEYS.len() {
            at = len;
            len += 1;
        }
        all[at] = more[i];
        i += 1;
    }
    assert!(len == N);
    all
}

/// Lists one behind the other: what near families share is written once. `N` is how many entries they have together.
pub(super) const fn chained<T: Copy, const N: usize>(lists: &[&[T]]) -> [T; N] {
    let mut all = [lists[0][0]; N];
    let (mut list, mut len) = (0, 0);
    while list < lists.len() {
        let mut i = 0;
        while i < lists[list].len() {
            all[len] = lists[list][i];
            len += 1;
            i += 1;
        }
        list += 1;
    }
    assert!(len == N);
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
    hf_multimodal: &[],
    hf_prefix: "model.",
    norm: Norm::Rms,
    norm_plus_one: false,
    position: Position::Rotary,
    gguf_rope_style: RopeStyle::HalfSplit,
    hf_rope_style: RopeStyle::HalfSplit,
    indexer_rope_style: RopeStyle::HalfSplit,
    block: Block::Sequential,
    gated_attention: false,
    normalized_values: false,
    norms_after_rotation: false,
    scaled_embeddings: false,
    unrotated: Unrotated::None,
    sliding: Sliding::All,
    hybrid: Hybrid::Either,
    chunked: false,
    activations: &[crate::architecture::Activation::Silu],
    gated: true,
    tied_by_default: false,
    mixture: MixtureRules::USUAL,
    hf_keys: &[],
    hf_limits: &[],
    gguf_keys: USUAL_GGUF_KEYS,
    tensors: &[],
    hf_aliases: &[],
    hf_woven: false,
};

/// A role whose experts transformers 5 stores in one tensor.
pub(super) const fn stacked(role: TensorRole, name: &'static str, of: usize, which: usize) -> Alias {
    Alias { role, name, layout: AliasLayout::Stack { of, which } }
}

/// A role whose experts, in turn with those of other roles, are in one tensor.
pub(super) const fn woven(role: TensorRole, name: &'static str, of: usize, which: usize) -> Alias {
    Alias { role, name, layout: AliasLayout::Woven { of, which } }
}

/// The tensors of experts as transformers 5 has them in memory, and saves them with `save_original_format=False`.
pub(super) const FUSED_EXPERTS: [Alias; 3] = [
    stacked(Role::ExpertsGate, "model.layers.{layer}.mlp.experts.gate_up_proj", 2, 0),
    stacked(Role::ExpertsUp, "model.layers.{layer}.mlp.experts.gate_up_proj", 2, 1),
    stacked(Role::ExpertsDown, "model.layers.{layer}.mlp.experts.down_proj", 1, 0),
];

/// A role whose experts releases hold in one tensor, transposed, beside those of others.
pub(super) const fn beside(role: TensorRole, name: &'static str, of: usize, which: usize) -> Alias {
    Alias { role, name, layout: AliasLayout::Beside { of, which } }
}
