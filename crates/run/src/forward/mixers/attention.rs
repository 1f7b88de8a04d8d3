//! Attention over cached keys and values.

use quern_compute::mixers::SplitGates;
use quern_compute::ops::RopeStyle;
use quern_compute::{Attend, AttentionShape, Executor, Heads, KvCache, Output, Rotate, Values, ValuesMut};
use quern_model::Config;

use crate::rope::grow_queries;
use crate::weights::{Attention, HeadNorms, Qkv};
use crate::{Error, Result};

use super::super::phases::{Phases, mixer_input};

/// Where the keys and values of a batch are stored.
pub(crate) struct KvTarget<'p> {
    pub(crate) cache: &'p mut KvCache,
    /// The cache's layer.
    pub(crate) slot: usize,
    /// The model's.
    pub(crate) layer: usize,
    /// Position of the batch's first token.
    pub(crate) first: usize,
    /// Cosines and sines of the batch's positions, where attention is computed.
    pub(crate) angles: (Values<'p>, Values<'p>),
    /// The device that computes attention, if it is another.
    pub(crate) remote: Option<Remote<'p>>,
}

/// A device that computes attention for layers whose weights are in RAM, and its memory.
pub(crate) struct Remote<'p> {
    pub(crate) executor: &'p mut Executor,
    pub(crate) qkv: ValuesMut<'p>,
    pub(crate) attended: ValuesMut<'p>,
}

/// Memory of attention, at least as long as the batch demands.
pub(crate) struct AttentionBuffers<'p> {
    pub(crate) q: ValuesMut<'p>,
    pub(crate) k: ValuesMut<'p>,
    pub(crate) v: ValuesMut<'p>,
    /// All three together, where they are computed so.
    pub(crate) qkv: ValuesMut<'p>,
}

impl Phases<'_, '_> {
    /// From the residual stream to what attention gathered for the rows from `keep` on. Keys and values of all rows go
    /// to the cache.
    pub(super) fn attend(
        &mut self,
        attention: &Attention,
        (x, keep): (Values<'_>, usize),
        target: KvTarget<'_>,
        buffers: AttentionBuffers<'_>,
        scratch: ValuesMut<'_>,
        mut attended: ValuesMut<'_>,
    ) -> Result<()> {
        let (model, block) = (self.model, self.block);
        let config = &model.config;
        let n = x.len() / config.hidden_size;
        let shape = attention_shape(config, target.layer);
        let (query, key) = (shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim);
        let AttentionBuffers { q, k, v, qkv } = buffers;
        let input = mixer_input(model, block, x);
        let width = query + 2 * key;
        let (mut gates, scratch) = match &attention.gate {
            Some(gate) => {
                let (mut own, rest) = scratch.split_at(n * query);
                self.linear([gate], input, Output::Store([own.reborrow()]))?;
                (Some(own), rest)
            }
            None => (None, scratch),
        };
        let mut heads = match &attention.qkv {
            Qkv::Separate { q: wq, k: wk, v: wv } if attention.gated => {
                let together = target.remote.is_some() || self.executor.joins_heads();
                let rest = if together { 2 * key } else { 0 };
                let (mut both, own) = scratch.split_at(n * (2 * query + rest));
                let mut own = own.slice(0..n * query);
                let mut heads = match together {
                    true => {
                        self.linear([wq, wk, wv], input, Output::Join(both.reborrow()))?;
                        Heads::Joined { qkv: qkv.slice(0..n * width), by_group: false }
                    }
                    false => {
                        let (mut k, mut v) = (k.slice(0..n * key), v.slice(0..n * key));
                        let outputs = Output::Store([both.reborrow(), k.reborrow(), v.reborrow()]);
                        self.linear([wq, wk, wv], input, outputs)?;
                        Heads::Separate { q: q.slice(0..n * query), k, v }
                    }
                };
                let (Heads::Joined { qkv: out, .. }
                | Heads::Separate { q: out, .. }
                | Heads::Queries { q: out, .. }) = &mut heads;
                self.executor.split_gates(SplitGates {
                    both: both.as_values(),
                    head_dim: config.head_dim,
                    heads: config.heads,
                    rest,
                    out: out.reborrow(),
                    gates: own.reborrow(),
                })?;
                gates = Some(own);
                heads
            }
            Qkv::Separate { q: wq, k: wk, v: wv }
                if target.remote.is_some() || (self.executor.joins_heads() && !config.qk_norm_whole()) =>
            {
                let mut qkv = qkv.slice(0..n * width);
                self.linear([wq, wk, wv], input, Output::Join(qkv.reborrow()))?;
                if let Some(HeadNorms { q, k, whole: true, .. }) = &attention.head_norms {
                    for row in 0..n {
                        let at = row * width;
                        let (queries, keys) = (at..at + query, at + query..at + query + key);
                        self.executor.norm_in_place(q, qkv.reborrow().slice(queries))?;
                        self.executor.norm_in_place(k, qkv.reborrow().slice(keys))?;
                    }
                }
                Heads::Joined { qkv, by_group: false }
            }
            Qkv::Separate { q: wq, k: wk, v: wv } => {
                let (mut q, mut k, mut v) = (q.slice(0..n * query), k.slice(0..n * key), v.slice(0..n * key));
                let outputs = Output::Store([q.reborrow(), k.reborrow(), v.reborrow()]);
                self.linear([wq, wk, wv], input, outputs)?;
                if let Some(HeadNorms { q: of_queries, k: of_keys, whole: true, .. }) = &attention.head_norms
                {
                    self.executor.norm_in_place(of_queries, q.reborrow())?;
                    self.executor.norm_in_place(of_keys, k.reborrow())?;
                }
                Heads::Separate { q, k, v }
            }
            Qkv::KeysAsValues { q: wq, k: wk } => {
                let (mut q, mut k, mut v) = (q.slice(0..n * query), k.slice(0..n * key), v.slice(0..n * key));
                self.linear([wq, wk], input, Output::Store([q.reborrow(), k.reborrow()]))?;
                self.executor.copy(k.reborrow().as_values(), v.reborrow())?;
                Heads::Separate { q, k, v }
            }
            Qkv::Queries { q: wq } => {
                let mut q = q.slice(0..n * query);
                self.linear([wq], input, Output::Store([q.reborrow()]))?;
                Heads::Queries { q }
            }
            Qkv::Fused { qkv: weights, by_group } => {
                let mut qkv = qkv.slice(0..n * width);
                self.linear([weights], input, Output::Store([qkv.reborrow()]))?;
                Heads::Joined { qkv, by_group: *by_group }
            }
        };
        if let Some(limit) = config.qkv_limit {
            cut_off(limit, &mut heads)?;
        }
        let of_values = attention.head_norms.as_ref().and_then(|norms| norms.v.as_ref());
        if let (Some(norm), Heads::Separate { v, .. }) = (of_values, &mut heads) {
            self.executor.norm_in_place(norm, v.reborrow())?;
        }
        let KvTarget { cache, slot, layer, first, angles: (cos, sin), remote } = target;
        grow((config, layer), first, n, &mut heads)?;
        let (style, windowed) = (rope_style(config), config.window(layer).is_some());
        let rotate = Rotate { style, pairs: model.rotation.pairs_of(windowed), cos, sin };
        let rotate = config.rotates(layer).then_some(rotate);
        let norms = attention.head_norms.as_ref().and_then(HeadNorms::of_heads);
        let norms_last = config.architecture.norms_after_rotation;
        let sinks = attention.sinks.as_ref();
        let attend = |heads, out| Attend {
            shape,
            slot,
            first,
            skip: keep,
            norms,
            norms_last,
            rotate,
            sinks,
            heads,
            out,
        };
        let Some(Remote { executor, mut qkv, attended: mut out }) = remote else {
            self.executor.attend(cache, attend(heads, attended.reborrow()))?;
            return self.gate(gates.as_ref(), keep * query, attended);
        };
        let Heads::Joined { qkv: made, by_group } = heads else {
            return Err(quern_compute::Error::Device.into());
        };
        executor.upload(made.as_values().host()?, qkv.reborrow())?;
        executor.attend(cache, attend(Heads::Joined { qkv, by_group }, out.reborrow()))?;
        if out.is_empty() {
            return Ok(());
        }
        executor.download(out.as_values(), attended.reborrow().host()?)?;
        self.gate(gates.as_ref(), keep * query, attended)
    }

    /// Multiplies what attention gathered with its gates, those from `start` on, where it has gates.
    fn gate(&mut self, gates: Option<&ValuesMut<'_>>, start: usize, attended: ValuesMut<'_>) -> Result<()> {
        let Some(gates) = gates else { return Ok(()) };
        let gates = gates.as_values();
        Ok(self.executor.sigmoid_gate(attended, gates.slice(start..gates.len()))?)
    }
}

/// Cuts off queries, keys and values beyond this and its negative. On the CPU alone:
/// [`Model::beyond_gpus`](crate::Model::beyond_gpus).
fn cut_off(limit: f32, heads: &mut Heads<'_>) -> Result<()> {
    let rows = match heads {
        Heads::Separate { q, k, v } => vec![q, k, v],
        Heads::Queries { q } => vec![q],
        Heads::Joined { qkv, .. } => vec![qkv],
    };
    for values in rows {
        values.reborrow().host()?.iter_mut().for_each(|value| *value = value.clamp(-limit, limit));
    }
    Ok(())
}

/// A layer's attention, as the kernels take it.
pub(crate) fn attention_shape(config: &Config, layer: usize) -> AttentionShape {
    let (kv_heads, head_dim) = config.key_heads(layer);
    AttentionShape {
        heads: config.heads,
        kv_heads,
        head_dim,
        scale: config.attention_scale(layer),
        window: config.window(layer),
        chunk: config.chunk(layer),
        softcap: config.attention_softcap,
    }
}

/// Which numbers of a head are rotated together, as the kernels name it.
pub(crate) fn rope_style(config: &Config) -> RopeStyle {
    styled(config.rope_style)
}

/// What the kernels call a way of pairing.
pub(crate) fn styled(style: quern_model::RopeStyle) -> RopeStyle {
    match style {
        quern_model::RopeStyle::HalfSplit => RopeStyle::HalfSplit,
        quern_model::RopeStyle::Interleaved => RopeStyle::Interleaved,
    }
}

/// Multiplies the queries of `n` positions from `first` on with what they grow to, where they do. It commutes with the
/// rotation, so it comes before: only processors have these rows at hand.
fn grow((config, layer): (&Config, usize), first: usize, n: usize, heads: &mut Heads<'_>) -> Result<()> {
    let Some(growth) = config.growth(layer).filter(|growth| growth.reaches(first + n)) else {
        return Ok(());
    };
    let (query, key) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
    let (rows, stride) = match heads {
        Heads::Separate { q, .. } => (q.reborrow(), query),
        Heads::Queries { q } => (q.reborrow(), query),
        Heads::Joined { qkv, .. } => (qkv.reborrow(), query + 2 * key),
    };
    match rows.host() {
        Ok(rows) => {
            grow_queries(config, first, stride, query, rows);
            Ok(())
        }
        Err(_) => Err(Error::QueryGrowth { context: growth.context }),
    }
}
