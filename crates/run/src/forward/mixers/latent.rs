//! Multi-head latent attention: queries, latent vectors, and attention over the cache of these.

use quern_compute::{AttendLatent, Input, LatentShape, Output, Rotate, Values, ValuesMut};
use quern_model::{Config, Latent};

use crate::observer::observe;
use crate::rope::grow_queries;
use crate::weights::{LatentAttention, Linear, Queries, Shown, Up};
use crate::{Error, Result};

use super::super::phases::{Phases, mixer_input};
use super::indexer::Indexed;
use super::{AttentionBuffers, IndexRoom, KvTarget, rope_style};

/// Numbers for each token that it computes in: queries; latent vectors, with the rotated part of keys behind them; the
/// narrow form of queries, latent vectors by themselves, or a head's queries.
pub(super) fn latent_widths(config: &Config, latent: &Latent) -> [usize; 3] {
    let narrow = latent.query_rank.unwrap_or(0).max(latent.rank).max(latent.nope_dim);
    [config.heads * latent.head_dim(), latent.cached(), narrow]
}

impl Phases<'_, '_> {
    /// From the residual stream to what attention gathered for the rows from `keep` on. Latent vectors of all rows go to
    /// the cache.
    pub(super) fn attend_latent(
        &mut self,
        attention: &LatentAttention,
        (x, keep): (Values<'_>, usize),
        target: KvTarget<'_>,
        buffers: AttentionBuffers<'_>,
        (scratch, mut index): (ValuesMut<'_>, Option<IndexRoom<'_>>),
        attended: ValuesMut<'_>,
    ) -> Result<()> {
        let config = &self.model.config;
        let Some(latent) = &config.latent else { return Ok(()) };
        let n = x.len() / config.hidden_size;
        let [query, cached, _] = latent_widths(config, latent);
        let AttentionBuffers { q, k, v: mut narrow, .. } = buffers;
        let (mut q, mut cache_rows) = (q.slice(0..n * query), k.slice(0..n * cached));
        self.project_latent(attention, x, q.reborrow(), cache_rows.reborrow(), narrow.reborrow())?;

        let KvTarget { cache, slot, layer, first, angles: (cos, sin), .. } = target;
        let rotate = Rotate { style: rope_style(config), pairs: self.model.rotation.pairs(), cos, sin };
        let rotate = config.rotates(layer).then_some(rotate);
        if let (Some(indexer), Queries::Low { norm, .. }) = (&attention.indexer, &attention.queries) {
            let low = narrow.as_values().slice(0..n * latent.query_rank.unwrap_or(0));
            let batch = Indexed { x, low: Input::Norm(norm, low), first, rotate };
            self.index(indexer, batch, scratch, index.as_mut())?;
        }
        if let Some(growth) = config.query_growth.filter(|growth| growth.reaches(first + n)) {
            let rows = q.reborrow().host().map_err(|_| Error::QueryGrowth { context: growth.context })?;
            grow_queries(config, first, query, query, rows);
        }
        self.observe_up(attention, latent, q.as_values(), cache_rows.as_values(), narrow)?;
        let shape = LatentShape {
            heads: config.heads,
            rank: latent.rank,
            rope: latent.rope_dim,
            nope: latent.nope_dim,
            value: latent.value_dim,
            scale: config.attention_scale(layer),
        };
        let up = attention.matrices();
        let sparse = config.indexer.as_ref().is_some_and(|own| first + n > own.top_k);
        let chosen = index.as_ref().filter(|_| sparse).map(|room| &*room.chosen);
        let (skip, latent, out) = (keep, cache_rows, attended);
        let attend = AttendLatent { shape, up, slot, first, skip, rotate, chosen, q, latent, out };
        Ok(self.executor.attend_latent(cache, attend)?)
    }

    /// Queries, and latent vectors normed, with the rotated part of keys behind them; neither rotated yet.
    fn project_latent(
        &mut self,
        attention: &LatentAttention,
        x: Values<'_>,
        q: ValuesMut<'_>,
        mut cache_rows: ValuesMut<'_>,
        mut narrow: ValuesMut<'_>,
    ) -> Result<()> {
        let config = &self.model.config;
        let Some(latent) = &config.latent else { return Ok(()) };
        let n = x.len() / config.hidden_size;
        let input = mixer_input(self.model, self.block, x);
        match &attention.queries {
            Queries::Direct(queries) => {
                self.linear([queries, &attention.kv_down], input, Output::Store([q, cache_rows.reborrow()]))?;
            }
            Queries::Low { down, norm, up } => {
                let mut low = narrow.reborrow().slice(0..n * latent.query_rank.unwrap_or(0));
                let outputs = Output::Store([low.reborrow(), cache_rows.reborrow()]);
                self.linear([down, &attention.kv_down], input, outputs)?;
                self.linear([up], Input::Norm(norm, low.as_values()), Output::Store([q]))?;
            }
        }
        Ok(self.executor.norm_fronts(&attention.kv_norm, cache_rows, latent.cached())?)
    }

    /// Shows an observer the inputs of the matrices that make keys and values: latent vectors, and each head's queries,
    /// which the keys' matrices are multiplied with where they are absorbed.
    fn observe_up(
        &mut self,
        attention: &LatentAttention,
        latent: &Latent,
        q: Values<'_>,
        cache_rows: Values<'_>,
        narrow: ValuesMut<'_>,
    ) -> Result<()> {
        let Self { observer: Some(watch), executor, .. } = self else { return Ok(()) };
        let n = cache_rows.len() / latent.cached();
        let mut vectors = narrow.slice(0..n * latent.rank.max(latent.nope_dim));
        let mut show = |linears: &[&Linear], from: Values<'_>, stride: usize, width: usize| -> Result<()> {
            let mut own = vectors.reborrow().slice(0..n * width);
            executor.copy_fronts(from, stride, own.reborrow(), width)?;
            observe(watch.observer, executor, linears, own.as_values())
        };
        let keys = match &attention.up {
            Up::Joined { both, absorbed } => {
                show(&[both], cache_rows, latent.cached(), latent.rank)?;
                absorbed
            }
            Up::Split { keys, values } => {
                let values: Vec<&Linear> = values.iter().collect();
                show(&values, cache_rows, latent.cached(), latent.rank)?;
                keys
            }
        };
        let head_dim = latent.head_dim();
        for (head, linear) in keys.iter().enumerate() {
            let own = q.slice(head * head_dim..q.len());
            show(&[linear], own, keys.len() * head_dim, latent.nope_dim)?;
        }
        Ok(())
    }

    /// The inputs of a layer within: [`LatentAttention::shown`]. `memory` has room for all that is computed in.
    pub(crate) fn latent_inputs(
        &mut self,
        attention: &LatentAttention,
        which: Shown,
        x: Values<'_>,
        memory: AttentionBuffers<'_>,
        out: ValuesMut<'_>,
    ) -> Result<()> {
        let config = &self.model.config;
        let Some(latent) = &config.latent else { return Ok(()) };
        let n = x.len() / config.hidden_size;
        let [query, cached, _] = latent_widths(config, latent);
        let AttentionBuffers { q, k, v: mut narrow, .. } = memory;
        let mut cache_rows = k.slice(0..n * cached);
        match (which, &attention.queries) {
            (Shown::QueryUp | Shown::IndexerQueries, Queries::Low { down, norm, .. }) => {
                let input = mixer_input(self.model, self.block, x);
                let mut low = narrow.slice(0..n * latent.query_rank.unwrap_or(0));
                let outputs = Output::Store([low.reborrow(), cache_rows.reborrow()]);
                self.linear([down, &attention.kv_down], input, outputs)?;
                Ok(self.executor.norm(norm, low.as_values(), out)?)
            }
            (Shown::QueryUp | Shown::IndexerQueries | Shown::Up | Shown::StateOut, _) => {
                let q = q.slice(0..n * query);
                self.project_latent(attention, x, q, cache_rows.reborrow(), narrow.reborrow())?;
                Ok(self.executor.copy_fronts(cache_rows.as_values(), cached, out, latent.rank)?)
            }
        }
    }
}
