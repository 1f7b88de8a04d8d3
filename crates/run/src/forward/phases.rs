//! The phases of one block: each ends where the input of the next group of linear layers is computed.

use quern_compute::{AttentionShape, attention, ops};
use quern_model::architecture::Block as BlockKind;

use crate::cache::Cache;
use crate::parallel::{part_of, share};
use crate::weights::{Block, Experts, Ffn, NormWeights, Qkv, Widen};
use crate::{Model, Observer, Result};

use super::linear::{LinearScratch, linear};
use super::rows::{add_and_norm, each_part, norm, norm_heads, norm_in_place};
use super::{activation, experts};

/// One block and what its phases need.
pub(crate) struct Phases<'p, 'o> {
    pub(crate) model: &'p Model,
    pub(crate) block: &'p Block,
    pub(crate) observer: Option<&'o mut dyn Observer>,
}

/// Where the keys and values of a batch are stored.
pub(crate) struct KvTarget<'p> {
    pub(crate) cache: &'p mut Cache,
    /// The cache's layer.
    pub(crate) slot: usize,
    /// The model's.
    pub(crate) layer: usize,
    /// Position of the batch's first token.
    pub(crate) first: usize,
    /// Cosines and sines of the batch's positions.
    pub(crate) angles: (&'p [f32], &'p [f32]),
}

/// Memory of [`Phases::attend`]: `normed` is exactly the batch's, the others at least.
pub(crate) struct AttentionBuffers<'p> {
    pub(crate) normed: &'p mut [f32],
    pub(crate) q: &'p mut [f32],
    pub(crate) k: &'p mut [f32],
    pub(crate) v: &'p mut [f32],
    /// All three together, for a model that computes them so.
    pub(crate) qkv: &'p mut [f32],
}

impl Phases<'_, '_> {
    fn kind(&self) -> BlockKind {
        self.model.config.block
    }

    /// The input of Q, K and V: `normed = norm(x)`, or `x` itself where norms stand behind.
    pub(crate) fn attention_input(&self, x: &[f32], normed: &mut [f32]) {
        let weights = self.block.attention_norm_2.as_ref().unwrap_or(&self.block.attention_norm);
        match self.kind() {
            BlockKind::PostNorm => normed.copy_from_slice(x),
            BlockKind::Sequential | BlockKind::Parallel => norm(self.model, x, weights, normed),
        }
    }

    /// The norm in front of the feed-forward network.
    fn ffn_norm(&self) -> &NormWeights {
        self.block.ffn_norm.as_ref().unwrap_or(&self.block.attention_norm)
    }

    /// From the residual stream to what attention gathered for the rows from `keep` on, the input of the
    /// output projection. Keys and values of all rows go to the cache.
    pub(crate) fn attend(
        &mut self,
        linears: &mut LinearScratch,
        x: &[f32],
        keep: usize,
        target: KvTarget<'_>,
        buffers: AttentionBuffers<'_>,
        attended: &mut [f32],
    ) -> Result<()> {
        let (model, block) = (self.model, self.block);
        let config = &model.config;
        let n = x.len() / config.hidden_size;
        let (query, key) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        let AttentionBuffers { normed, q, k, v, qkv } = buffers;
        let (q, k, v) = (&mut q[..n * query], &mut k[..n * key], &mut v[..n * key]);
        self.attention_input(x, normed);
        match &block.qkv {
            Qkv::Separate { q: wq, k: wk, v: wv } => {
                let outputs = [&mut *q, &mut *k, &mut *v];
                linear(model, linears, &mut self.observer, [wq, wk, wv], normed, outputs)?;
            }
            Qkv::Fused { qkv: weights, by_group } => {
                let qkv = &mut qkv[..n * (query + 2 * key)];
                linear(model, linears, &mut self.observer, [weights], normed, [&mut *qkv])?;
                split(model, qkv, *by_group, q, k, v);
            }
        }
        if let Some(norms) = &block.head_norms {
            norm_heads(model, q, config.heads, &norms.q);
            norm_heads(model, k, config.kv_heads, &norms.k);
        }
        let KvTarget { cache, slot, layer, first, angles } = target;
        cache.store(model, slot, first, (q, k, v), angles);
        if keep == n {
            return Ok(());
        }
        let shape = AttentionShape {
            heads: config.heads,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
            scale: config.attention_scale(layer),
            window: config.window(layer),
            softcap: config.attention_softcap,
        };
        let (keys, values) = cache.layer(slot);
        Ok(attention(&model.pool, &shape, &q[keep * query..], first + keep, keys, values, attended)?)
    }

    /// `x += output(attended)`, and the input of the feed-forward network.
    pub(crate) fn project(
        &mut self,
        linears: &mut LinearScratch,
        attended: &[f32],
        projected: &mut [f32],
        x: &mut [f32],
        normed: &mut [f32],
    ) -> Result<()> {
        let (model, block) = (self.model, self.block);
        if self.kind() == BlockKind::Parallel {
            // Both halves see the same x.
            norm(model, x, self.ffn_norm(), normed);
        }
        let output = [&mut *projected];
        linear(model, linears, &mut self.observer, [&block.attention_output], attended, output)?;
        if let Some(weights) = &block.attention_post_norm {
            norm_in_place(model, projected, weights);
        }
        match self.kind() {
            BlockKind::Parallel => add_and_norm(model, x, projected, None),
            BlockKind::PostNorm => {
                add_and_norm(model, x, projected, Some((&block.attention_norm, normed)));
                x.copy_from_slice(normed);
            }
            BlockKind::Sequential => add_and_norm(model, x, projected, Some((self.ffn_norm(), normed))),
        }
        Ok(())
    }

    /// `wide = act(gate(normed)) * up(normed)`, the input of the down projection. `up` has room for both.
    pub(crate) fn widen(
        &mut self,
        linears: &mut LinearScratch,
        normed: &[f32],
        up: &mut [f32],
        wide: &mut [f32],
    ) -> Result<()> {
        let model = self.model;
        let Ffn::Dense { widen, .. } = &self.block.ffn else { return Ok(()) };
        let act = activation(&model.config);
        let width = model.config.ffn_size;
        match widen {
            Widen::Gated { gate, up: weights } => {
                let up = &mut up[..wide.len()];
                let outputs = [&mut *wide, &mut *up];
                linear(model, linears, &mut self.observer, [gate, weights], normed, outputs)?;
                activate_mul(model, act, width, wide, up);
            }
            Widen::Fused(weights) => {
                let both = &mut up[..2 * wide.len()];
                linear(model, linears, &mut self.observer, [weights], normed, [&mut *both])?;
                let part = part_of(&model.pool, wide.len(), width);
                let parts = wide.chunks_mut(part).zip(both.chunks(2 * part));
                share(&model.pool, parts, |(wide, both)| {
                    for (wide, both) in wide.chunks_exact_mut(width).zip(both.chunks_exact(2 * width)) {
                        wide.copy_from_slice(&both[..width]);
                        ops::activate_mul(model.pool.level(), act, wide, &both[width..]);
                    }
                });
            }
            Widen::Plain(weights) => {
                linear(model, linears, &mut self.observer, [weights], normed, [&mut *wide])?;
                each_part(model, wide, width, |part| ops::activate(model.pool.level(), act, part));
            }
        }
        Ok(())
    }

    /// `x += down(wide)`.
    pub(crate) fn narrow(
        &mut self,
        linears: &mut LinearScratch,
        wide: &[f32],
        projected: &mut [f32],
        x: &mut [f32],
    ) -> Result<()> {
        let Ffn::Dense { down, .. } = &self.block.ffn else { return Ok(()) };
        linear(self.model, linears, &mut self.observer, [down], wide, [&mut *projected])?;
        self.finish(projected, x);
        Ok(())
    }

    /// `x +=` what the chosen experts make of `normed`.
    pub(crate) fn experts(
        &mut self,
        linears: &mut LinearScratch,
        experts: &Experts,
        normed: &[f32],
        projected: &mut [f32],
        x: &mut [f32],
    ) -> Result<()> {
        experts::run(self.model, linears, &mut self.observer, experts, normed, projected)?;
        self.finish(projected, x);
        Ok(())
    }

    /// Adds what the network made to the residual stream: the block's end.
    pub(crate) fn finish(&self, projected: &mut [f32], x: &mut [f32]) {
        if let Some(weights) = &self.block.ffn_post_norm {
            norm_in_place(self.model, projected, weights);
        }
        add_and_norm(self.model, x, projected, None);
        if self.kind() == BlockKind::PostNorm {
            norm_in_place(self.model, x, self.ffn_norm());
        }
    }
}

/// `gate = act(gate) * up`.
pub(super) fn activate_mul(model: &Model, act: ops::Activation, width: usize, gate: &mut [f32], up: &[f32]) {
    let part = part_of(&model.pool, gate.len(), width);
    let parts = gate.chunks_mut(part).zip(up.chunks(part));
    share(&model.pool, parts, |(gate, up)| ops::activate_mul(model.pool.level(), act, gate, up));
}

/// Takes queries, keys and values of each row apart.
fn split(model: &Model, qkv: &[f32], by_group: bool, q: &mut [f32], k: &mut [f32], v: &mut [f32]) {
    let (heads, kv_heads, dim) = (model.config.heads, model.config.kv_heads, model.config.head_dim);
    let (query, key) = (heads * dim, kv_heads * dim);
    let own = heads / kv_heads * dim;
    let rows = q.chunks_exact_mut(query).zip(k.chunks_exact_mut(key)).zip(v.chunks_exact_mut(key));
    for (row, ((q, k), v)) in qkv.chunks_exact(query + 2 * key).zip(rows) {
        if !by_group {
            q.copy_from_slice(&row[..query]);
            k.copy_from_slice(&row[query..query + key]);
            v.copy_from_slice(&row[query + key..]);
            continue;
        }
        let groups = q.chunks_exact_mut(own).zip(k.chunks_exact_mut(dim)).zip(v.chunks_exact_mut(dim));
        for (group, ((q, k), v)) in row.chunks_exact(own + 2 * dim).zip(groups) {
            q.copy_from_slice(&group[..own]);
            k.copy_from_slice(&group[own..own + dim]);
            v.copy_from_slice(&group[own + dim..]);
        }
    }
}
