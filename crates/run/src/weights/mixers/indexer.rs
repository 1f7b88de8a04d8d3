//! The tensors of an indexer, which chooses the positions that latent attention reads (DeepSeek V3.2).

use quern_compute::{Norm, NormKind};
use quern_model::{Config, TensorRole};

use super::super::Linear;
use super::super::lookup::Lookup;
use crate::Result;

/// ε of its keys' norm, whatever that of the blocks is.
const EPSILON: f32 = 1e-6;

/// A few small heads beside attention.
#[derive(Clone, Debug)]
pub(crate) struct Indexer {
    /// From attention's queries of few numbers to those of its heads.
    pub(crate) queries: Linear,
    /// From the block's normed input to its key.
    pub(crate) keys: Linear,
    /// Of the key.
    pub(crate) norm: Norm,
    /// From the block's normed input to what its heads' scores are weighted with.
    pub(crate) weights: Linear,
}

impl Indexer {
    /// Takes the tensors of a layer.
    pub(super) fn resolve(lookup: &Lookup<'_, '_>, layer: usize) -> Result<Self> {
        use TensorRole as R;
        let at = Some(layer);
        let norm = lookup.norm(R::IndexerKNorm, Some(R::IndexerKNormBias), at)?;
        Ok(Self {
            queries: lookup.linear(R::IndexerQ, None, at)?,
            keys: lookup.linear(R::IndexerK, None, at)?,
            norm: Norm { kind: NormKind::Layer, epsilon: EPSILON, ..norm },
            weights: lookup.linear(R::IndexerWeights, None, at)?,
        })
    }

    /// Its linear layers.
    pub(super) fn linears(&self) -> [&Linear; 3] {
        [&self.keys, &self.weights, &self.queries]
    }

    /// Numbers in its norm.
    pub(super) fn vector_values(&self) -> usize {
        self.norm.weight.len() + self.norm.bias.as_ref().map_or(0, |bias| bias.len())
    }
}

/// Numbers for each token that an indexer computes in: queries, a key, weights.
pub(crate) fn index_scratch(config: &Config) -> usize {
    config.indexer.as_ref().map_or(0, |own| own.heads * own.head_dim + own.head_dim + own.heads)
}
