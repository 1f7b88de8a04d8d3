//! The phases of one block: each ends where the input of the next group of linear layers is computed.

use quern_compute::ops::RopeStyle;
use quern_compute::{
    Attend, AttentionShape, Buffer, Device, Executor, Heads, Input, KvCache, Output, Rotate, Values,
    ValuesMut,
};
use quern_model::Config;
use quern_model::architecture::Block as BlockKind;

use crate::observer::observe;
use crate::rope::grow_queries;
use crate::weights::{Block, Experts, Ffn, HeadNorms, Linear, Qkv};
use crate::{Error, Model, Observer, Result};

use super::experts;

/// One block and what its phases need.
pub(crate) struct Phases<'p, 'o> {
    pub(crate) model: &'p Model,
    pub(crate) block: &'p Block,
    pub(crate) executor: &'p mut Executor,
    pub(crate) observer: Option<Watch<'o>>,
}

/// An observer, and memory that is needed only because it looks.
pub(crate) struct Watch<'o> {
    pub(crate) observer: &'o mut dyn Observer,
    pub(crate) seen: &'o mut Seen,
}

/// Inputs of layers that only an observer asks for, on one device. Grows when there is one.
#[derive(Debug)]
pub(crate) struct Seen {
    /// The input of a group behind its norm.
    pub(crate) normed: Buffer,
    pub(crate) experts: experts::Buffers,
}

impl Seen {
    pub(crate) fn new(device: &Device) -> Self {
        Self { normed: Buffer::new(device), experts: experts::Buffers::new(device) }
    }
}

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

/// Memory of [`Phases::attend`], at least as long as the batch demands.
pub(crate) struct AttentionBuffers<'p> {
    pub(crate) q: ValuesMut<'p>,
    pub(crate) k: ValuesMut<'p>,
    pub(crate) v: ValuesMut<'p>,
    /// All three together, where they are computed so.
    pub(crate) qkv: ValuesMut<'p>,
}

impl Phases<'_, '_> {
    pub(crate) fn kind(&self) -> BlockKind {
        self.model.config.block
    }

    /// Linear layers, seen by the observer.
    pub(super) fn linear<const N: usize>(
        &mut self,
        linears: [&Linear; N],
        input: Input<'_>,
        output: Output<'_, N>,
    ) -> Result<()> {
        linear(self.executor, &mut self.observer, linears, input, output)
    }

    /// The input of Q, K and V, written to `normed`.
    pub(crate) fn attention_input(&mut self, x: Values<'_>, normed: ValuesMut<'_>) -> Result<()> {
        match attention_input(self.model, self.block, x) {
            Input::Values(x) => Ok(self.executor.copy(x, normed)?),
            Input::Norm(norm, x) => Ok(self.executor.norm(norm, x, normed)?),
        }
    }

    /// From the residual stream to what attention gathered for the rows from `keep` on, the input of the
    /// output projection. Keys and values of all rows go to the cache.
    pub(crate) fn attend(
        &mut self,
        x: Values<'_>,
        keep: usize,
        target: KvTarget<'_>,
        buffers: AttentionBuffers<'_>,
        attended: ValuesMut<'_>,
    ) -> Result<()> {
        let (model, block) = (self.model, self.block);
        let config = &model.config;
        let n = x.len() / config.hidden_size;
        let shape = attention_shape(config, target.layer);
        let (query, key) = (shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim);
        let AttentionBuffers { q, k, v, qkv } = buffers;
        let input = attention_input(model, block, x);
        let width = query + 2 * key;
        let mut heads = match &block.qkv {
            Qkv::Separate { q: wq, k: wk, v: wv }
                if target.remote.is_some() || (self.executor.joins_heads() && !config.qk_norm_whole()) =>
            {
                let mut qkv = qkv.slice(0..n * width);
                self.linear([wq, wk, wv], input, Output::Join(qkv.reborrow()))?;
                if let Some(HeadNorms { q, k, whole: true, .. }) = &block.head_norms {
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
                if let Some(HeadNorms { q: of_queries, k: of_keys, whole: true, .. }) = &block.head_norms {
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
        let of_values = block.head_norms.as_ref().and_then(|norms| norms.v.as_ref());
        if let (Some(norm), Heads::Separate { v, .. }) = (of_values, &mut heads) {
            self.executor.norm_in_place(norm, v.reborrow())?;
        }
        let KvTarget { cache, slot, layer, first, angles: (cos, sin), remote } = target;
        grow(config, first, n, &mut heads)?;
        let (style, windowed) = (rope_style(config), config.window(layer).is_some());
        let rotate = Rotate { style, pairs: model.rotation.pairs_of(windowed), cos, sin };
        let rotate = config.rotates(layer).then_some(rotate);
        let norms = block.head_norms.as_ref().and_then(HeadNorms::of_heads);
        let norms_last = config.architecture.norms_after_rotation;
        let attend =
            |heads, out| Attend { shape, slot, first, skip: keep, norms, norms_last, rotate, heads, out };
        let Some(Remote { executor, mut qkv, attended: mut out }) = remote else {
            return Ok(self.executor.attend(cache, attend(heads, attended))?);
        };
        let Heads::Joined { qkv: made, by_group } = heads else {
            return Err(quern_compute::Error::Device.into());
        };
        executor.upload(made.as_values().host()?, qkv.reborrow())?;
        executor.attend(cache, attend(Heads::Joined { qkv, by_group }, out.reborrow()))?;
        match out.is_empty() {
            true => Ok(()),
            false => Ok(executor.download(out.as_values(), attended.host()?)?),
        }
    }

    /// The network's input where it is computed before attention's result is added: both halves of a parallel block
    /// see the same `x`.
    pub(crate) fn before_project(&mut self, x: Values<'_>, normed: ValuesMut<'_>) -> Result<()> {
        match self.kind() {
            BlockKind::Parallel => self.norm_or_copy(self.block.network_norm(), x, normed),
            BlockKind::PostNorm | BlockKind::OutputNorm | BlockKind::Sequential => Ok(()),
        }
    }

    /// `x += output(attended)`.
    pub(crate) fn project(
        &mut self,
        attended: Values<'_>,
        projected: ValuesMut<'_>,
        mut x: ValuesMut<'_>,
    ) -> Result<()> {
        let block = self.block;
        let post = block.attention_post_norm.as_ref();
        self.add(&block.attention_output, Input::Values(attended), post, projected, x.reborrow())?;
        match (self.kind(), &block.attention_norm) {
            (BlockKind::PostNorm, Some(norm)) => Ok(self.executor.norm_in_place(norm, x)?),
            _ => Ok(()),
        }
    }

    /// `x += linear(input)`, which is first normalized where a norm is given.
    pub(super) fn add(
        &mut self,
        linear: &Linear,
        input: Input<'_>,
        post: Option<&quern_compute::Norm>,
        mut projected: ValuesMut<'_>,
        x: ValuesMut<'_>,
    ) -> Result<()> {
        let Some(norm) = post else { return self.linear([linear], input, Output::Add(x)) };
        self.linear([linear], input, Output::Store([projected.reborrow()]))?;
        Ok(self.executor.add_normed(x, norm, projected)?)
    }

    /// The network's input, written to `normed` unless [`Phases::before_project`] did so.
    pub(crate) fn normed_input(&mut self, x: Values<'_>, normed: ValuesMut<'_>) -> Result<()> {
        match self.kind() {
            BlockKind::Parallel => Ok(()),
            BlockKind::PostNorm | BlockKind::OutputNorm => Ok(self.executor.copy(x, normed)?),
            BlockKind::Sequential => self.norm_or_copy(self.block.network_norm(), x, normed),
        }
    }

    /// `normed = norm(x)`, or `x` where there is no norm.
    fn norm_or_copy(
        &mut self,
        norm: Option<&quern_compute::Norm>,
        x: Values<'_>,
        normed: ValuesMut<'_>,
    ) -> Result<()> {
        match norm {
            Some(norm) => Ok(self.executor.norm(norm, x, normed)?),
            None => Ok(self.executor.copy(x, normed)?),
        }
    }

    /// `x += down(wide)`.
    pub(crate) fn narrow(
        &mut self,
        wide: Values<'_>,
        projected: ValuesMut<'_>,
        mut x: ValuesMut<'_>,
    ) -> Result<()> {
        let block = self.block;
        let Ffn::Dense { down, .. } = &block.ffn else { return Ok(()) };
        self.add(down, Input::Values(wide), block.ffn_post_norm.as_ref(), projected, x.reborrow())?;
        self.end(x)
    }

    /// `x +=` what the chosen experts make of `normed`.
    pub(crate) fn experts(
        &mut self,
        experts: &Experts,
        normed: Values<'_>,
        mut projected: ValuesMut<'_>,
        x: ValuesMut<'_>,
    ) -> Result<()> {
        let (model, executor, out) = (self.model, &mut *self.executor, projected.reborrow());
        match &mut self.observer {
            Some(Watch { observer, seen }) => {
                let hook = &mut Some(&mut **observer as &mut dyn Observer);
                experts::run_with(model, executor, hook, experts, normed, out, &mut seen.experts)?;
            }
            None => {
                let nobody = &mut None::<&mut dyn Observer>;
                experts::run(model, executor, nobody, experts, normed, out)?;
            }
        }
        self.finish(projected, x)
    }

    /// Adds what the experts made to the residual stream: the block's end.
    pub(crate) fn finish(&mut self, projected: ValuesMut<'_>, mut x: ValuesMut<'_>) -> Result<()> {
        match &self.block.ffn_post_norm {
            Some(norm) => self.executor.add_normed(x.reborrow(), norm, projected)?,
            None => self.executor.add(x.reborrow(), projected.as_values())?,
        }
        self.end(x)
    }

    /// The norm behind a block whose norms stand behind its parts.
    fn end(&mut self, x: ValuesMut<'_>) -> Result<()> {
        match self.kind() {
            BlockKind::PostNorm => match self.block.network_norm() {
                Some(norm) => Ok(self.executor.norm_in_place(norm, x)?),
                None => Ok(()),
            },
            BlockKind::Parallel | BlockKind::OutputNorm | BlockKind::Sequential => Ok(()),
        }
    }
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
        softcap: config.attention_softcap,
    }
}

/// Which numbers of a head are rotated together, as the kernels name it.
pub(crate) fn rope_style(config: &Config) -> RopeStyle {
    match config.rope_style {
        quern_model::RopeStyle::HalfSplit => RopeStyle::HalfSplit,
        quern_model::RopeStyle::Interleaved => RopeStyle::Interleaved,
    }
}

/// The input of Q, K and V: `norm(x)`, or `x` itself where norms are behind.
fn attention_input<'a>(model: &Model, block: &'a Block, x: Values<'a>) -> Input<'a> {
    match block.norm_of_attention(model.config.block) {
        Some(norm) => Input::Norm(norm, x),
        None => Input::Values(x),
    }
}

/// The input of the network, once attention's result is in `x`.
pub(super) fn network_input<'a>(
    model: &Model,
    block: &'a Block,
    x: Values<'a>,
    normed: Values<'a>,
) -> Input<'a> {
    match model.config.block {
        BlockKind::Parallel => Input::Values(normed),
        BlockKind::PostNorm | BlockKind::OutputNorm => Input::Values(x),
        BlockKind::Sequential => block.network_norm().map_or(Input::Values(x), |norm| Input::Norm(norm, x)),
    }
}

/// Linear layers that share their input, seen by an observer if there is one.
pub(super) fn linear<const N: usize>(
    executor: &mut Executor,
    watch: &mut Option<Watch<'_>>,
    linears: [&Linear; N],
    input: Input<'_>,
    output: Output<'_, N>,
) -> Result<()> {
    let ops = linears.map(|l| &l.op);
    let Some(Watch { observer, seen }) = watch else { return Ok(executor.linear(ops, input, output)?) };
    let values = match input {
        Input::Values(values) => values,
        Input::Norm(norm, x) => {
            seen.normed.reserve(x.len())?;
            executor.norm(norm, x, seen.normed.front_mut(x.len()))?;
            seen.normed.front(x.len())
        }
    };
    observe(*observer, executor, &linears, values)?;
    Ok(executor.linear(ops, Input::Values(values), output)?)
}

/// Multiplies the queries of `n` positions from `first` on with what they grow to, where they do. It commutes with the
/// rotation, so it comes before: only processors have these rows at hand.
fn grow(config: &Config, first: usize, n: usize, heads: &mut Heads<'_>) -> Result<()> {
    let Some(growth) = config.query_growth.filter(|growth| growth.reaches(first + n)) else {
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
