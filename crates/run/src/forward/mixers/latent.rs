//! Multi-head latent attention: queries, latent vectors, and attention over the cache of these.

use quern_compute::{AttendLatent, Input, LatentShape, Output, Rotate, Values, ValuesMut};
use quern_model::{Config, Latent};

use crate::observer::observe;
use crate::rope::grow_queries;
use crate::weights::{LatentAttention, Linear, Queries, Shown, Up};
use crate::{Error, Result};

use super::super::phases::{Phases, mixer_input};
use super::{AttentionBuffers, KvTarget, rope_style};

/// Numbers for each token that it computes in: queries; latent vectors, with the rotated part of keys behind them; the
/// narrow form of queries, or latent vectors by themselves.
pub(super) fn latent_widths(config: &Config, latent: &Latent) -> [usize; 3] {
    let narrow = latent.query_rank.unwrap_or(0).max(latent.rank);
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
        let rotate = Rotate { style: rope_style(config), pairs: self.model.rotation.pairs(), cos, sin };
        let rotate = config.rotates(layer).then_some(rotate);
        let up = attention.up.matrices();
        let attend =
            AttendLatent { shape, up, slot, first, skip: keep, rotate, q, latent: cache_rows, out: attended };
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
        let rows = cache_rows.host()?;
        let vectors = &mut narrow.host()?[..n * latent.rank];
        copy_fronts(rows, latent.cached(), vectors, latent.rank);
        self.executor.norm_in_place(&attention.kv_norm, ValuesMut::Host(vectors))?;
        let rows = rows.chunks_exact_mut(latent.cached()).zip(vectors.chunks_exact(latent.rank));
        rows.for_each(|(row, vector)| row[..latent.rank].copy_from_slice(vector));
        Ok(())
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
        let Some(watch) = &mut self.observer else { return Ok(()) };
        let (q, rows, narrow) = (q.host()?, cache_rows.host()?, narrow.host()?);
        let n = rows.len() / latent.cached();
        let vectors = &mut narrow[..n * latent.rank];
        copy_fronts(rows, latent.cached(), vectors, latent.rank);
        let mut show = |linears: &[&Linear], values: &[f32]| {
            observe(watch.observer, self.executor, linears, Values::Host(values))
        };
        let keys = match &attention.up {
            Up::Joined { both, absorbed } => {
                show(&[both], vectors)?;
                absorbed
            }
            Up::Split { keys, values } => {
                let values: Vec<&Linear> = values.iter().collect();
                show(&values, vectors)?;
                keys
            }
        };
        let (head_dim, nope) = (latent.head_dim(), latent.nope_dim);
        let mut own = vec![0f32; n * nope];
        for (head, linear) in keys.iter().enumerate() {
            copy_fronts(&q[head * head_dim..], keys.len() * head_dim, &mut own, nope);
            show(&[linear], &own)?;
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
            (Shown::QueryUp, Queries::Low { down, norm, .. }) => {
                let input = mixer_input(self.model, self.block, x);
                let mut low = narrow.slice(0..n * latent.query_rank.unwrap_or(0));
                let outputs = Output::Store([low.reborrow(), cache_rows.reborrow()]);
                self.linear([down, &attention.kv_down], input, outputs)?;
                Ok(self.executor.norm(norm, low.as_values(), out)?)
            }
            (Shown::QueryUp | Shown::Up | Shown::StateOut, _) => {
                let q = q.slice(0..n * query);
                self.project_latent(attention, x, q, cache_rows.reborrow(), narrow.reborrow())?;
                copy_fronts(cache_rows.host()?, cached, out.host()?, latent.rank);
                Ok(())
            }
        }
    }
}

/// The first `width` numbers of each row, `stride` apart.
fn copy_fronts(rows: &[f32], stride: usize, out: &mut [f32], width: usize) {
    let rows = rows.chunks(stride).zip(out.chunks_exact_mut(width));
    rows.for_each(|(row, out)| out.copy_from_slice(&row[..width]));
}
