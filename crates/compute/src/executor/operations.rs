//! Arguments of the operations.

use super::{Linear, Norm, Values, ValuesMut, Vector};
use crate::attention::{Chosen, IndexShape, LatentShape};
use crate::error::same;
use crate::ops::{Activation, RopeStyle};
use crate::{AttentionShape, Error, Result};

/// What linear layers multiply.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// These vectors.
    Values(Values<'a>),
    /// These vectors, normalized.
    Norm(&'a Norm, Values<'a>),
}

impl<'a> Input<'a> {
    /// The vectors, before any norm.
    pub fn values(self) -> Values<'a> {
        match self {
            Self::Values(values) | Self::Norm(_, values) => values,
        }
    }

    /// The norm, if there is one.
    pub fn norm(self) -> Option<&'a Norm> {
        match self {
            Self::Values(_) => None,
            Self::Norm(norm, _) => Some(norm),
        }
    }
}

/// What is done with what linear layers compute, biases added.
#[derive(Debug)]
pub enum Output<'a, const N: usize> {
    /// One result each.
    Store([ValuesMut<'a>; N]),
    /// All results, those of a token side by side: `[tokens][rows of all layers]`.
    Join(ValuesMut<'a>),
    /// The results are added to this.
    Add(ValuesMut<'a>),
    /// `act(y)`.
    Activate(Activation, ValuesMut<'a>),
    /// `act(gate) * up`, of two layers, or of one whose rows are first all of the gate's, then all of up's.
    Gate(Activation, ValuesMut<'a>),
}

/// Rotation of queries and keys: cosines and sines, `[tokens][pairs]`.
#[derive(Clone, Copy, Debug)]
pub struct Rotate<'a> {
    /// Which values form a pair.
    pub style: RopeStyle,
    /// Pairs of a head that are rotated.
    pub pairs: usize,
    /// Cosines.
    pub cos: Values<'a>,
    /// Sines.
    pub sin: Values<'a>,
}

/// Queries (`[tokens][heads][head_dim]`), keys and values (`[tokens][kv_heads][head_dim]`); overwritten.
#[derive(Debug)]
pub enum Heads<'a> {
    /// In a memory of their own each.
    Separate {
        /// Queries.
        q: ValuesMut<'a>,
        /// Keys.
        k: ValuesMut<'a>,
        /// Values.
        v: ValuesMut<'a>,
    },
    /// Queries alone: keys and values are in the cache already.
    Queries {
        /// Queries.
        q: ValuesMut<'a>,
    },
    /// Those of a token side by side: all queries, all keys, all values.
    Joined {
        /// `[tokens][heads + 2 kv_heads][head_dim]`.
        qkv: ValuesMut<'a>,
        /// Those of each key head together: its queries, its key, its value.
        by_group: bool,
    },
}

/// Arguments of attention.
#[derive(Debug)]
pub struct Attend<'a> {
    /// Heads, scale, window.
    pub shape: AttentionShape,
    /// The cache's layer.
    pub slot: usize,
    /// Position of the first token.
    pub first: usize,
    /// Tokens from the first on whose queries are not needed: only their keys and values are stored.
    pub skip: usize,
    /// Norms of each query head and each key head: one weight for all heads, or one for each.
    pub norms: Option<(&'a Norm, &'a Norm)>,
    /// The norms are computed behind the rotation (the CPU alone).
    pub norms_last: bool,
    /// Rotation, if any.
    pub rotate: Option<Rotate<'a>>,
    /// A score for each query head that joins the sum of its softmax and has no value.
    pub sinks: Option<&'a Vector>,
    /// Queries, keys and values of the tokens.
    pub heads: Heads<'a>,
    /// `[tokens - skip][heads][head_dim]`.
    pub out: ValuesMut<'a>,
}

/// The matrices of latent attention that make keys and values: [`LatentUp`](crate::attention::LatentUp) as layers.
#[derive(Clone, Debug)]
pub enum LatentMatrices<'a> {
    /// One for both.
    Joined {
        /// Keys, then values of each head.
        both: &'a Linear,
        /// Each head's keys, transposed; none if they were not made.
        absorbed: Vec<&'a Linear>,
    },
    /// One for each head.
    Split {
        /// Keys, transposed.
        keys: Vec<&'a Linear>,
        /// Values.
        values: Vec<&'a Linear>,
    },
    /// One for each head, in plain numbers and after each other in memory ([`Uploader::stack`](super::Uploader::stack)):
    /// what a GPU takes.
    Card {
        /// Keys, transposed.
        keys: &'a [Linear],
        /// Values.
        values: &'a [Linear],
    },
}

/// Arguments of latent attention.
#[derive(Debug)]
pub struct AttendLatent<'a> {
    /// Heads, sizes, scale.
    pub shape: LatentShape,
    /// The matrices that make keys and values.
    pub up: LatentMatrices<'a>,
    /// The cache's layer.
    pub slot: usize,
    /// Position of the first token.
    pub first: usize,
    /// Tokens from the first on whose queries are not needed.
    pub skip: usize,
    /// Rotation of the last numbers of each query and of what is cached, if any.
    pub rotate: Option<Rotate<'a>>,
    /// The positions that queries see, if not all. The CPU alone takes it.
    pub chosen: Option<&'a Chosen>,
    /// `[tokens][heads][nope + rope]`; overwritten.
    pub q: ValuesMut<'a>,
    /// Latent vectors with the rotated part of keys behind them, `[tokens][rank + rope]`; overwritten.
    pub latent: ValuesMut<'a>,
    /// `[tokens - skip][heads][value]`.
    pub out: ValuesMut<'a>,
}

/// Arguments of an indexer. The CPU alone has one.
#[derive(Debug)]
pub struct ChoosePositions<'a> {
    /// Its sizes.
    pub shape: IndexShape,
    /// The layer of its cache of keys.
    pub slot: usize,
    /// Position of the first token.
    pub first: usize,
    /// Rotation of the first numbers of each query and key, if any.
    pub rotate: Option<Rotate<'a>>,
    /// `[tokens][heads][dim]`; overwritten.
    pub q: ValuesMut<'a>,
    /// `[tokens][dim]`; overwritten.
    pub keys: ValuesMut<'a>,
    /// What the heads' scores are weighted with, `[tokens][heads]`.
    pub weights: Values<'a>,
    /// What is chosen, where there are more positions than queries may see; keys are stored in any case.
    pub chosen: Option<&'a mut Chosen>,
}

/// Which token chose an expert, and its share in that token's sum.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C)]
pub struct Choice {
    /// The token's row.
    pub token: u32,
    /// What the expert's result is multiplied with.
    pub share: f32,
}

impl Choice {
    /// Refuses choices whose rows, of `width` values, are not `rows` values; tokens beyond `values`; and, if they are to
    /// be `distinct`, tokens that are there twice.
    pub(crate) fn check(
        choices: &[Self],
        width: usize,
        rows: usize,
        values: usize,
        distinct: bool,
    ) -> Result<()> {
        same("experts: a row for each choice", choices.len() * width, rows)?;
        let most = choices.iter().map(|choice| choice.token as usize + 1).max().unwrap_or(0);
        if most.checked_mul(width).is_none_or(|needed| needed > values) {
            let what = "experts: rows of the tokens that were chosen for";
            return Err(Error::Lengths { what, expected: most.saturating_mul(width), found: values });
        }
        // In order, as routers give them: nothing is sorted.
        if distinct && !choices.is_sorted_by(|a, b| a.token < b.token) {
            let mut tokens: Vec<u32> = choices.iter().map(|choice| choice.token).collect();
            tokens.sort_unstable();
            tokens.dedup();
            same("experts: different tokens of one expert", choices.len(), tokens.len())?;
        }
        Ok(())
    }
}

/// What a row of logits says of a token.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RowLikelihood {
    /// Logarithm of the sum of exponentials of the row; NaN if the row holds one.
    pub log_sum_exp: f64,
    /// The token's logit.
    pub target_logit: f32,
    /// The token with the largest logit, the first among equals.
    pub largest: u32,
}

impl RowLikelihood {
    /// Negative logarithm of the token's probability, in nats.
    pub fn negative_log(&self) -> f64 {
        self.log_sum_exp - f64::from(self.target_logit)
    }

    /// Refuses logits that are not one row for each target, and targets outside a row.
    pub(crate) fn check(logits: usize, vocabulary: usize, targets: &[u32]) -> Result<()> {
        same("likelihood: a row of logits for each target", targets.len() * vocabulary, logits)?;
        match targets.iter().find(|&&target| target as usize >= vocabulary) {
            Some(&target) => Err(Error::Lengths {
                what: "likelihood: logits of a row",
                expected: target as usize + 1,
                found: vocabulary,
            }),
            None => Ok(()),
        }
    }
}
