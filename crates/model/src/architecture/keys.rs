//! Where the two worlds write down a model's numbers.

/// A number, flag or word of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum Field {
    Vocab,
    Hidden,
    /// Width of the embedding, where it may differ from the residual stream's.
    Embedding,
    Layers,
    Heads,
    KvHeads,
    HeadDim,
    Ffn,
    Context,
    NormEpsilon,
    Activation,
    RopeTheta,
    /// Base of the layers under a sliding window (Gemma 3).
    LocalRopeTheta,
    /// The part of each head that rope turns, 1 for all of it.
    PartialRotary,
    SlidingWindow,
    Tied,
    QkvBias,
    OutputBias,
    MlpBias,
    /// [`crate::architecture::Block::Parallel`] if true.
    ParallelBlock,
    /// [`crate::architecture::Block::PostNorm`] if false.
    NormBefore,
    QkNorm,
    /// No norm in front of the head, if true (OPT-350m).
    NoFinalNorm,
    AttentionSoftcap,
    FinalSoftcap,
    /// Attention is divided by the square root of this instead of the head's size.
    QueryScalar,
    Experts,
    ExpertsUsed,
    ExpertFfn,
    /// The chosen experts' weights are made to sum to one.
    NormTopk,
}

/// What a configuration means that does not say.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Silence {
    /// It must say.
    Required,
    /// There is no such thing.
    Nothing,
    /// This number.
    Number(f64),
    /// This.
    Flag(bool),
    /// This word.
    Word(&'static str),
    /// So many times another size, which must stand above in the list.
    Times(usize, Field),
}

/// One entry of `config.json`.
#[derive(Clone, Copy, Debug)]
pub struct HfKey {
    /// What it says.
    pub field: Field,
    /// Its key; the first is written, all are read. None if models of this family never differ.
    pub names: &'static [&'static str],
    /// What its absence means.
    pub silence: Silence,
}

/// One entry, or a group of entries, of GGUF metadata under the architecture's prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum GgufKey {
    BlockCount,
    ContextLength,
    EmbeddingLength,
    FeedForwardLength,
    HeadCount,
    HeadCountKv,
    RopeFreqBase,
    /// The same, only where it is not 10 000: llama.cpp's converter does not write it for this family, its loader
    /// reads it.
    RopeFreqBaseUnlessUsual,
    /// Type, factor and what else a stretched rope needs; nothing otherwise.
    RopeScaling,
    RopeDimensionCount,
    /// `rope.scaling.original_context_length`.
    OriginalContextLength,
    /// `rope.scaling.attn_factor` of a rope with long and short factors.
    RopeAttentionFactor,
    RmsEpsilon,
    LayerNormEpsilon,
    ExpertCount,
    ExpertUsedCount,
    ExpertFeedForwardLength,
    /// `expert_weights_norm`, only where it is off: llama.cpp takes it for on.
    ExpertWeightsNormOff,
    /// `attention.key_length` and `attention.value_length`.
    KeyValueLength,
    /// The same, only where `config.json` gives `head_dim`.
    KeyValueLengthIfGiven,
    VocabSize,
    UseParallelResidual,
    AttentionSoftcap,
    FinalSoftcap,
    SlidingWindow,
    /// `attention.scale`, only where it is not what llama.cpp takes by itself (Gemma 2 and 3).
    AttentionScale,
    /// The sliding window, 0 where there is none (Phi-3).
    SlidingWindowOrZero,
    RopeFreqBaseSwa,
    /// `tensor_data_layout`, which says how Falcon's queries, keys and values lie.
    TensorDataLayout,
}
