//! What a tensor is for.

use serde::Serialize;

/// What a tensor is for, whatever its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum TensorRole {
    TokenEmbedding,
    PositionEmbedding,
    /// From the embedding's width to the residual stream's (OPT-350m).
    EmbeddingIn,
    /// From the residual stream's width to the embedding's (OPT-350m).
    EmbeddingOut,
    OutputNorm,
    OutputNormBias,
    Output,
    OutputBias,
    RopeFactors,
    RopeFactorsLong,
    RopeFactorsShort,
    AttentionNorm,
    AttentionNormBias,
    /// A parallel block's norm of its own for attention (Falcon 40B), where `AttentionNorm` is the network's.
    AttentionNorm2,
    AttentionNorm2Bias,
    AttentionQ,
    AttentionK,
    AttentionV,
    /// All three in one matrix.
    AttentionQkv,
    AttentionOutput,
    /// From the block's input to the gates of what attention gathers (AFMoE).
    AttentionGate,
    AttentionQBias,
    AttentionKBias,
    AttentionVBias,
    AttentionQkvBias,
    AttentionOutputBias,
    /// A score for each query head that joins the sum of its softmax and has no value (gpt-oss).
    AttentionSinks,
    /// Of each query head.
    AttentionQNorm,
    /// Of each key head.
    AttentionKNorm,
    /// Of what attention adds (Gemma 2).
    AttentionPostNorm,
    /// From the block's input to all that a mixer with a state computes with.
    StateIn,
    /// Queries, keys and values of a delta net in one matrix.
    DeltaQkv,
    /// The gate of a delta net's results.
    DeltaGate,
    /// How much of each token a delta net's heads learn.
    DeltaBeta,
    /// How much of a delta net's heads stays from token to token.
    DeltaAlpha,
    /// Both of them in one matrix, those of the value heads of one key head together.
    DeltaBetaAlpha,
    /// The convolution of a mixer with a state, one filter for each channel.
    StateConv,
    StateConvBias,
    /// Added to what a state's decay is computed from.
    StateTimeBias,
    /// How fast a state decays, one number for each head.
    StateDecay,
    /// What a state's input is multiplied with beside it, one number for each head.
    StateSkip,
    /// Of each head that a state returns.
    StateNorm,
    /// From what a state returns to the residual stream.
    StateOut,
    /// From the residual stream to the rank of queries (latent attention).
    AttentionQDown,
    AttentionQDownNorm,
    /// From there to the queries.
    AttentionQUp,
    /// From the rank of queries to those of an indexer (sparse attention).
    IndexerQ,
    /// From the residual stream to the key of an indexer.
    IndexerK,
    IndexerKNorm,
    IndexerKNormBias,
    /// From the residual stream to what the scores of an indexer's heads are weighted with.
    IndexerWeights,
    /// From the residual stream to the vector that keys and values are made of, and the rotated part of keys behind it.
    AttentionKvDown,
    AttentionKvDownNorm,
    /// From that vector to keys and values, those of each head together.
    AttentionKvUp,
    /// The keys' part of it, transposed: `[heads, rank, nope]`.
    AttentionKUp,
    /// The values' part: `[heads, value, rank]`.
    AttentionVUp,
    FfnNorm,
    FfnNormBias,
    FfnGate,
    FfnUp,
    /// Gate and up projection in one matrix (Phi-3), gate first.
    FfnGateUp,
    FfnDown,
    FfnGateBias,
    FfnUpBias,
    FfnDownBias,
    /// Of what the feed-forward network adds (Gemma 2).
    FfnPostNorm,
    /// What each token adds in each layer, for all layers side by side (Gemma 4).
    PerLayerEmbedding,
    /// From a token's embedding to what it adds in each layer, all layers below each other.
    PerLayerContext,
    /// Of what [`TensorRole::PerLayerContext`] gives, for each layer.
    PerLayerContextNorm,
    /// From the residual stream to the gate of what a token adds.
    PerLayerGate,
    /// From what a token adds to the residual stream.
    PerLayerOutput,
    /// Of what is added.
    PerLayerNorm,
    /// Parameters of xIELU (Apertus).
    XieluAlphaP,
    XieluAlphaN,
    XieluBeta,
    XieluEps,
    /// From the embedding to the other residual streams (Gemma 3n).
    StreamsIn,
    /// From the other residual streams to what the head receives.
    StreamsOut,
    /// In front of [`TensorRole::StreamRouter`].
    StreamRouterNorm,
    /// From the first stream to how the streams are mixed.
    StreamRouter,
    /// From there to what each stream receives of each, in front of a block.
    StreamPredict,
    /// From there to what each stream receives of what the block changed.
    StreamCorrect,
    /// What the first stream is multiplied with for what tokens add.
    StreamCorrectScale,
    /// A second, narrow way beside attention: in, out and the norm of what it gives.
    LaurelIn,
    LaurelOut,
    LaurelNorm,
    /// What the residual stream is multiplied with behind a block.
    LayerScale,
    /// Of what a dense network makes beside experts (Gemma 4).
    DensePostNorm,
    /// In front of experts that stand beside a dense network.
    ExpertsNorm,
    /// Of what they make.
    ExpertsPostNorm,
    /// Chooses the experts.
    Router,
    /// What the router's input is multiplied with, where it is normalized: `[hidden]`.
    RouterScale,
    RouterBias,
    /// The gate projections of all experts, `[experts, ffn, hidden]`.
    ExpertsGate,
    /// The up projections of all experts, `[experts, ffn, hidden]`.
    ExpertsUp,
    /// From the residual stream to what experts read, where that is narrower (Nemotron 3 Super).
    ExpertsIn,
    /// From what they make to the residual stream.
    ExpertsOut,
    /// Gate and up projections in one matrix, gate first: `[experts, 2 * ffn, hidden]`.
    ExpertsGateUp,
    /// The down projections of all experts, `[experts, hidden, ffn]`.
    ExpertsDown,
    /// What each expert's share is multiplied with: `[experts]`.
    ExpertsScale,
    /// `[experts, ffn]`.
    ExpertsGateBias,
    /// `[experts, ffn]`.
    ExpertsUpBias,
    /// `[experts, hidden]`.
    ExpertsDownBias,
    /// Added to the router's scores for the choice of experts, not to their shares.
    ChoiceBias,
    /// The gate projection of the expert that all tokens use.
    SharedGate,
    /// Its up projection.
    SharedUp,
    /// Gate and up projection in one matrix, gate first.
    SharedGateUp,
    /// Its down projection.
    SharedDown,
    /// One row: the sigmoid of its product is what the shared expert's result is multiplied with.
    SharedRouter,
}
