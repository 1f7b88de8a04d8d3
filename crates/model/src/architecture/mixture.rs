//! Mixtures of experts: how a router's outputs choose experts, and what a family's rules are where no key of its
//! configuration says them.

/// How a router's outputs become scores.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scores {
    /// `softmax` over all experts.
    Softmax,
    /// `sigmoid` of each.
    Sigmoid,
    /// One expert after the other (Phi-MoE): the largest output is chosen, and its share is its part of a `softmax` over
    /// those outputs that are not more than `2 * jitter` below it, relative to the larger of both magnitudes; it is then
    /// left out. Shares are used as they are.
    SparseMixer {
        /// How far outputs may be apart, halved.
        jitter: f32,
    },
}

/// What the groups are ordered by, of which some are kept before experts are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupRank {
    /// The largest score of a group (DeepSeek V2).
    Largest,
    /// The sum of the two largest, with the bias of the choice (DeepSeek V3).
    TwoLargest,
}

/// Rules of a family's mixtures of experts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MixtureRules {
    /// How the router's outputs become scores, where no key says it.
    pub scores: Scores,
    /// Whether a bias is added to scores for the choice alone ([`super::TensorRole::ChoiceBias`]).
    pub choice_bias: bool,
    /// Whether the shared expert's result is multiplied with the sigmoid of [`super::TensorRole::SharedRouter`]'s.
    pub shared_gated: bool,
    /// Whether a share multiplies what an expert reads, not what it makes (Llama 4).
    pub scaled_inputs: bool,
    /// Whether a dense network computes beside the experts, each with norms of its own before and behind, and the router
    /// reads the normalized residual stream (Gemma 4).
    pub beside: bool,
    /// Whether shares sum to one: what readers of GGUF take where no key says it, and what `config.json` means in
    /// families without a key for it.
    pub normalized: bool,
}

impl MixtureRules {
    /// Mixtral's: a softmax, and nothing else.
    pub const USUAL: Self = Self {
        scores: Scores::Softmax,
        choice_bias: false,
        shared_gated: false,
        scaled_inputs: false,
        beside: false,
        normalized: true,
    };
}
