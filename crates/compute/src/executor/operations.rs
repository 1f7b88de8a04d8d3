//! Arguments of the operations.

use super::{Norm, Values, ValuesMut};
use crate::AttentionShape;
use crate::ops::{Activation, RopeStyle};

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
    /// Rotation, if any.
    pub rotate: Option<Rotate<'a>>,
    /// Queries, keys and values of the tokens.
    pub heads: Heads<'a>,
    /// `[tokens - skip][heads][head_dim]`.
    pub out: ValuesMut<'a>,
}

/// How a router's outputs choose experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Routing {
    /// Experts there are.
    pub count: usize,
    /// Experts of a token.
    pub used: usize,
    /// Whether the shares of a token's experts are made to sum to one.
    pub normalized: bool,
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
