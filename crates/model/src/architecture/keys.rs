//! The keys of `config.json` and GGUF metadata that state a model's numbers, and the value of an absent key.

/// A number, flag or name of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    /// The part of each head that rope rotates, 1 for all of it.
    PartialRotary,
    /// Values of each head that rope rotates, which counts before the part of it (MiniMax M2).
    RotaryDimensions,
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
    /// Queries, keys and values are cut off beyond this and its negative (OLMo).
    QkvLimit,
    /// Attention is divided by the square root of this instead of the head's size.
    QueryScalar,
    /// Attention is divided by the square root of the head's size if true, not at all if false (GPT-2).
    ScaledAttention,
    /// Attention of layer `i` is also divided by `i + 1` (GPT-2 as Mistral's project trained it).
    ScaledByLayer,
    /// Attention scores are multiplied by this instead of what the head's size gives (Granite).
    AttentionMultiplier,
    /// Embeddings are multiplied by this (Granite).
    EmbeddingMultiplier,
    /// What attention and network add is multiplied by this (Granite).
    ResidualMultiplier,
    /// Logits are divided by this (Granite).
    LogitDivisor,
    /// Logits are multiplied by this (Cohere).
    LogitMultiplier,
    /// Every so many layers one does not rotate queries and keys, where `config.json` does not list them (SmolLM3).
    UnrotatedInterval,
    /// The window counts only if true (Qwen).
    UseSlidingWindow,
    Experts,
    ExpertsUsed,
    ExpertFfn,
    /// Width of what experts read and make, where it is not the residual stream's (Nemotron 3 Super).
    ExpertLatent,
    /// The chosen experts' weights are made to sum to one.
    NormTopk,
    /// Positions that the convolution of a mixer with a state reads.
    ConvTaps,
    DeltaKeyHeads,
    DeltaValueHeads,
    DeltaKeyDim,
    DeltaValueDim,
    MambaHeads,
    MambaHeadDim,
    MambaGroups,
    MambaState,
    /// The convolution of a mixer with a state has a bias.
    StateConvBias,
    /// Width between the two projections of queries; null for one projection (latent attention).
    QueryRank,
    /// Numbers of the vector that keys and values are made of.
    LatentRank,
    /// Numbers of a query and a key that are rotated.
    LatentRopeDim,
    /// Numbers in front of them.
    LatentNopeDim,
    /// Numbers of a value.
    LatentValueDim,
    /// Heads of an indexer's queries.
    IndexerHeads,
    /// Numbers of an indexer's queries and keys.
    IndexerHeadDim,
    /// Positions that attention reads, at most.
    IndexerTopK,
    /// How far apart outputs of a router may be that count together (Phi-MoE).
    RouterJitter,
    /// What the chosen experts' weights are multiplied by.
    ExpertScale,
    /// Width inside the expert that all tokens use; 0 for none.
    SharedFfn,
    /// The same as a number of experts, each of the usual width; 0 for none.
    SharedExperts,
    /// Groups of experts.
    ExpertGroups,
    /// Groups that a token chooses its experts from.
    ExpertGroupsUsed,
    /// Layers in front of the first mixture of experts.
    DenseLayers,
    /// Every so many layers the last is a mixture of experts.
    SparseStep,
}

/// The meaning of an absent key.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Silence {
    /// The key must be present.
    Required,
    /// There is no such thing.
    Nothing,
    /// This number.
    Number(f64),
    /// This.
    Flag(bool),
    /// This word.
    Word(&'static str),
    /// A multiple of another size, which must precede it in the list.
    Times(usize, Field),
}

/// One entry of `config.json`.
#[derive(Clone, Copy, Debug)]
pub struct HfKey {
    /// What it says.
    pub field: Field,
    /// Its spellings; of several that are present the first counts, as in transformers. None if models of this
    /// family never differ.
    pub names: &'static [&'static str],
    /// The spelling that is written, if any.
    pub written: Option<&'static str>,
    /// What its absence means: the default of transformers' configuration class.
    pub silence: Silence,
    /// What an explicit null means.
    pub null: Silence,
}

impl HfKey {
    /// The same key, written by another than its first spelling.
    pub(crate) const fn written(self, name: &'static str) -> Self {
        Self { written: Some(name), ..self }
    }

    /// The same key, read but never written: another key of the list writes the same thing.
    pub(crate) const fn unwritten(self) -> Self {
        Self { written: None, ..self }
    }

    /// The same key, for which null means something else than its absence.
    pub(crate) const fn null(self, null: Silence) -> Self {
        Self { null, ..self }
    }
}

/// A key of `config.json` that transformers reads and quern computes for some values only: any other is refused
/// by name.
#[derive(Clone, Copy, Debug)]
pub struct HfLimit {
    /// The key.
    pub key: &'static str,
    /// The values that mean what quern computes. Absence and null are always among them.
    pub accepted: Accepted,
}

/// Values of a key that mean what quern computes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Accepted {
    /// This flag alone.
    Flag(bool),
    /// These words.
    Words(&'static [&'static str]),
    /// This number.
    Number(f64),
    /// Nothing: an empty list or object.
    Empty,
    /// `hidden_size / num_attention_heads`: transformers' attention of this family computes the head's size so,
    /// whatever the key says.
    HiddenPerHead,
}

/// One entry, or a group of entries, of GGUF metadata under the architecture's prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    /// Type, factor and the other parameters of a scaled rope; nothing otherwise.
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
    /// `moe_latent_size`: the width of what experts read and make, where it is not the residual stream's.
    MoeLatentSize,
    /// `expert_weights_norm`, only where it is off: llama.cpp takes it for on.
    ExpertWeightsNormOff,
    /// `expert_weights_norm`.
    ExpertWeightsNorm,
    /// The same, only where it is on (DeepSeek V2).
    ExpertWeightsNormOn,
    /// `expert_weights_scale`: what the chosen experts' weights are multiplied by.
    ExpertWeightsScale,
    /// The same, only where it is not 1.
    ExpertWeightsScaleUnlessOne,
    /// `attention.clamp_kqv`: what queries, keys and values are cut off at, where they are.
    ClampKqv,
    /// `expert_gating_func`: 1 for a softmax, 2 for sigmoids.
    ExpertGatingFunc,
    /// `expert_shared_count`: the shared expert's width as a number of experts.
    ExpertSharedCount,
    /// The same, always 1: the width is that of all (Nemotron-H).
    ExpertSharedCountOne,
    /// `expert_shared_feed_forward_length`: the shared expert's width, where there is one.
    ExpertSharedFeedForwardLength,
    /// `expert_group_count` and `expert_group_used_count`, 1 each where there are no groups.
    ExpertGroups,
    /// `leading_dense_block_count`: layers in front of the first mixture.
    LeadingDenseBlockCount,
    /// `interleave_moe_layer_step`: every so many layers the last is a mixture.
    InterleaveMoeLayerStep,
    /// `attention.key_length` and `attention.value_length`.
    KeyValueLength,
    /// The same, only where the heads do not share out the hidden size: llama.cpp's converter does not write it for
    /// this family, its loader reads it.
    KeyValueLengthUnlessUsual,
    /// The same, only where `config.json` gives `head_dim`.
    KeyValueLengthIfGiven,
    VocabSize,
    UseParallelResidual,
    AttentionSoftcap,
    FinalSoftcap,
    SlidingWindow,
    /// `attention.scale`, only where it is not llama.cpp's default (Gemma 2 and 3).
    AttentionScale,
    /// `attention.sliding_window_pattern`, only where the windowed layers are not llama.cpp's default
    /// (Gemma 2 and 3).
    SlidingWindowPattern,
    /// The sliding window, 0 where there is none (Phi-3).
    SlidingWindowOrZero,
    RopeFreqBaseSwa,
    /// `attention.scale`, `embedding_scale`, `residual_scale` and `logit_scale` (Granite).
    Multipliers,
    /// `logit_scale`, what logits are multiplied by (Cohere).
    LogitScale,
    /// `rope.scaling.type`, always "none" (Cohere 2).
    RopeScalingNone,
    /// `nextn_predict_layers`, always 0: such layers are left out (K-EXAONE).
    NoSpeculativeLayers,
    /// `attention.layer_norm_rms_epsilon` beside the other, though there is no such norm (Nemotron).
    RmsEpsilonToo,
    /// `rope.scaling.type` "none", where rope is not scaled (Nemotron).
    RopeScalingNoneUnlessScaled,
    /// `embedding_scale`, `residual_scale` and `logit_scale`, as [`GgufKey::Multipliers`] without attention's
    /// (MiniCPM).
    MultipliersButAttention,
    /// What the converter writes beside the stretched base of a rope with an `alpha` (Hunyuan).
    StretchedRope,
    /// `xielu.alpha_p`, `alpha_n`, `beta` and `eps` without a prefix, one for each layer: written with the tensors that hold them.
    Xielu,
    /// `altup.active_idx` and `altup.num_inputs`: the streams of Gemma 3n.
    Streams,
    /// `activation_sparsity_scale`, one for each layer.
    Cutoffs,
    /// `attention.shared_kv_layers`: last layers that use keys and values of an earlier one.
    SharedKvLayers,
    /// `embedding_length_per_layer_input`, 0 where tokens add nothing to layers.
    PerLayerLength,
    /// `attention.key_length_swa`, `attention.value_length_swa` and `rope.dimension_count_swa`: heads of layers under a
    /// window.
    WindowedHeads,
    /// `attention.sliding_window_pattern` as a flag for each layer, where there is a window (OLMo 3).
    SlidingWindowLayers,
    /// `attention.rope_pattern`: a flag for each layer, where some do not rotate (GraniteSWA).
    RotatedLayers,
    /// `rope.dimension_sections`: pairs of a head that follow each of the three coordinates of an image.
    RopeSections,
    /// `n_deepstack_layers`: layers to whose outputs a tower adds its own.
    DeepstackLayers,
    /// `attention.temperature_scale`, only where queries grow with their position.
    QueryGrowth,
    /// Llama 4's chunks and growth of queries, where they are not those of the published models.
    Llama4,
    /// `rope.scaling.yarn_log_multiplier` in place of the attention factor that other families write.
    YarnLogMultiplier,
    /// `ssm.conv_kernel`, `ssm.state_size`, `ssm.group_count`, `ssm.time_step_rank` and `ssm.inner_size` of a delta net,
    /// `attention.recurrent_layers` and `full_attention_interval`.
    DeltaNet,
    /// `ssm.conv_kernel`, `ssm.state_size`, `ssm.group_count`, `ssm.inner_size` and `ssm.time_step_rank` of Mamba-2.
    Mamba2,
    /// `feed_forward_length` and `attention.head_count`, both 0 (Mamba-2).
    NoAttention,
    /// `expert_count` and `expert_used_count`, both 0, and the network's width as `expert_shared_feed_forward_length`
    /// (Granite 4 hybrid).
    NoExperts,
    /// `rope.scaling.finetuned`, always false: nothing is rotated (Granite 4 hybrid).
    RopeNotFinetuned,
    /// The same, always true (Granite 4 without Mamba-2).
    RopeFinetuned,
    /// `feed_forward_length`, 0 in layers that are no network.
    FeedForwardLengthLayers,
    /// `attention.layer_norm_epsilon`, `rope.dimension_count` and `rope.scaling.finetuned`, which mean nothing in a model
    /// that rotates nothing and has no layer norm, and are written all the same (Nemotron-H).
    NemotronH,
    /// `shortconv.l_cache`.
    ShortConv,
    /// `attention.head_count_kv`, 0 in layers whose mixer keeps a state.
    HeadCountKvLayers,
    /// `attention.head_count_kv`, always 1: the cache of latent attention has one head.
    HeadCountKvOne,
    /// `attention.q_lora_rank` and `attention.kv_lora_rank`.
    LatentRanks,
    /// `attention.key_length` and `value_length` of the cache of latent attention, `key_length_mla` and
    /// `value_length_mla` of its heads.
    LatentLengths,
    /// `leading_dense_block_count`, `expert_feed_forward_length` and `expert_shared_count` of a model without experts in
    /// a family that may have them (Youtu).
    DenseLayersAlone,
    /// `attention.key_length` alone (MiniCPM3).
    KeyLength,
    /// `rope.scaling.yarn_log_multiplier`, a tenth of `mscale_all_dim` (DeepSeek V2), in place of the attention factor.
    YarnScoreMultiplier,
    /// `attention.indexer.head_count`, `key_length` and `top_k`; `types` where layers share what an earlier one chose.
    Indexer,
    /// `tensor_data_layout`, the layout of Falcon's queries, keys and values.
    TensorDataLayout,
}
