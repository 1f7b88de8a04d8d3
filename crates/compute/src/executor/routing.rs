//! How a router's outputs choose experts.

use crate::error::same;
use crate::{Error, Result};

/// How a router's outputs become scores.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scores {
    /// `softmax` over all experts.
    Softmax,
    /// `sigmoid` of each.
    Sigmoid,
    /// One expert after the other: the largest output is chosen, and its share is its part of a `softmax` over the
    /// outputs that are left and not more than `2 * jitter` below it, relative to the larger of both magnitudes. Shares
    /// are used as they are.
    SparseMixer {
        /// How far outputs may be apart, halved.
        jitter: f32,
    },
}

/// What groups of experts are ordered by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupRank {
    /// The largest score of a group.
    Largest,
    /// The sum of the two largest.
    TwoLargest,
}

/// Groups of equally many experts that follow each other, of which some are kept before experts are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Groups {
    /// Groups there are.
    pub count: usize,
    /// Groups that are kept.
    pub used: usize,
    /// What they are ordered by, the bias of the choice included.
    pub rank: GroupRank,
}

/// How a router's outputs choose experts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Routing {
    /// Experts there are.
    pub count: usize,
    /// Experts of a token.
    pub used: usize,
    /// How outputs become scores.
    pub scores: Scores,
    /// Whether the shares of a token's experts are made to sum to one.
    pub normalized: bool,
    /// What shares are then multiplied by.
    pub scale: f32,
    /// Groups, some of which are kept.
    pub groups: Option<Groups>,
}

impl Routing {
    /// The `used` largest of a softmax.
    pub fn softmax(count: usize, used: usize, normalized: bool) -> Self {
        Self { count, used, scores: Scores::Softmax, normalized, scale: 1.0, groups: None }
    }

    /// One expert, which all tokens use, each with the sigmoid of its output as its share.
    pub fn gate() -> Self {
        let (scores, normalized) = (Scores::Sigmoid, false);
        Self { count: 1, used: 1, scores, normalized, scale: 1.0, groups: None }
    }

    /// The tokens of a router's outputs. Refuses outputs that are not whole rows, more than `most` experts, tokens that
    /// use more than there are, and groups that do not have enough.
    pub(crate) fn check(self, outputs: usize, most: usize) -> Result<usize> {
        let tokens = outputs / self.count.max(1);
        same("experts: outputs of the router", tokens * self.count, outputs)?;
        if self.used > self.count || self.count > most {
            let what = "experts: those that a token uses, of those there are";
            return Err(Error::Lengths {
                what,
                expected: self.count.min(most),
                found: self.used.max(self.count),
            });
        }
        if let Some(Groups { count, used, .. }) = self.groups {
            let size = self.count / count.max(1);
            same("experts: those of all groups", size * count, self.count)?;
            if used > count || used * size < self.used {
                let what = "experts: those of the groups that are kept";
                return Err(Error::Lengths { what, expected: self.used, found: used * size });
            }
        }
        Ok(tokens)
    }
}
