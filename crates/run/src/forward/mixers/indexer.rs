//! The indexer in front of latent attention: which positions each token reads.
//!
//! ```text
//! q = W_q (what attention's queries are made of)   [heads][dim]     the first numbers of q and k are rotated
//! k = norm(W_k x)                                  [dim]            kept in a cache of its own
//! w = W_w x                                        [heads]
//! ```
//!
//! Where a text may have no more positions than attention reads, nothing of it is computed; and nothing is scored as long
//! as it has no more.

use quern_compute::{ChoosePositions, Chosen, IndexShape, Input, KvCache, Output, Rotate, Values, ValuesMut};

use crate::Result;
use crate::weights::{Indexer, index_scratch};

use super::super::phases::{Phases, mixer_input};
use super::attention::styled;

/// What sparse attention has beside the cache of latent vectors.
pub(crate) struct IndexRoom<'p> {
    /// The keys of the layers that have an indexer.
    pub(crate) cache: &'p mut KvCache,
    /// The layer in it.
    pub(crate) slot: usize,
    /// What the last layer with an indexer has chosen for the tokens of this batch.
    pub(crate) chosen: &'p mut Chosen,
}

/// A batch in front of a layer's indexer.
pub(super) struct Indexed<'a> {
    /// The residual stream.
    pub x: Values<'a>,
    /// Normed, what queries are made of.
    pub low: Input<'a>,
    /// Position of the first token.
    pub first: usize,
    /// Rotation of attention's queries and keys.
    pub rotate: Option<Rotate<'a>>,
}

impl Phases<'_, '_> {
    /// Chooses the positions that the tokens of a batch read, where there are more than attention reads; keeps its keys.
    pub(super) fn index(
        &mut self,
        indexer: &Indexer,
        batch: Indexed<'_>,
        scratch: ValuesMut<'_>,
        room: Option<&mut IndexRoom<'_>>,
    ) -> Result<()> {
        let config = &self.model.config;
        let Some(own) = &config.indexer else { return Ok(()) };
        if room.is_none() && self.observer.is_none() {
            return Ok(());
        }
        let Indexed { x, low, first, rotate } = batch;
        let n = x.len() / config.hidden_size;
        let scratch = scratch.slice(0..n * index_scratch(config));
        let (mut q, rest) = scratch.split_at(n * own.heads * own.head_dim);
        let (mut keys, mut weights) = rest.split_at(n * own.head_dim);
        let input = mixer_input(self.model, self.block, x);
        let outputs = Output::Store([keys.reborrow(), weights.reborrow()]);
        self.linear([&indexer.keys, &indexer.weights], input, outputs)?;
        self.linear([&indexer.queries], low, Output::Store([q.reborrow()]))?;
        let Some(IndexRoom { cache, slot, chosen }) = room else { return Ok(()) };
        self.executor.norm_in_place(&indexer.norm, keys.reborrow())?;
        let shape = IndexShape { heads: own.heads, dim: own.head_dim, top_k: own.top_k };
        let rotate = rotate.map(|rotate| Rotate { style: styled(own.rope_style), ..rotate });
        let chosen = (first + n > own.top_k).then_some(&mut **chosen);
        let weights = weights.as_values();
        let choose = ChoosePositions { shape, slot: *slot, first, rotate, q, keys, weights, chosen };
        Ok(self.executor.choose_positions(cache, choose)?)
    }
}
