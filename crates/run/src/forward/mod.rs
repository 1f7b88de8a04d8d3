//! The forward pass: one program for every architecture, reading its description.
//!
//! One batch of `n` tokens at positions `first..first + n`, widths in brackets:
//!
//! ```text
//! tokens -> embedding row (+ position's row) -> x [hidden]
//! each block:   norm(x) -> q k v -> rope(q, k) -> cache -> attention -> output projection -> x +=
//!               norm(x) -> gate up -> act(gate) * up -> down projection                   -> x +=
//! norm(x) -> head -> logits [vocab]                  (only for the rows wanted)
//! ```
//!
//! A block is four phases, each of which ends with the input of a group of linear layers: [`Phases::mix`],
//! [`Phases::project`], [`Phases::widen`], [`Phases::narrow`]. Ordinary passes run them one after the other;
//! calibration runs each over all sequences before the next ([`crate::Layerwise`]). A parallel block takes both
//! norms of the same `x`; one with norms after its parts (OPT-350m) takes them of the sums; a mixture of experts
//! does the last two phases expert by expert.
//!
//! In the last block only the rows whose logits are wanted go beyond keys and values: nothing later reads
//! the others. (An observer sees all of them all the same.)
//!
//! The operations are those of [`quern_compute::Executor`], the same on every device. Layers that follow each other on
//! one device are a [`Segment`](crate::placement::Segment); between two of them the residual stream moves.

mod embed;
mod experts;
mod head;
mod mixers;
mod per_layer;
mod phases;
mod stream;
pub(crate) mod streams;
mod widen;
mod workspace;

use std::time::Instant;

use quern_compute::{Mode, PassKey};

use crate::placement::Segment;
use crate::rope::RotaryAngles;
use crate::weights::{Block, Ffn};
use crate::{Error, Model, Observer, Result};

use stream::{STREAMED_FROM, Streamer};

pub(crate) use embed::{embed, embed_from};
pub(crate) use experts::{BeforeGroup, GPU_ROWS, Inputs as ExpertInputs, run as run_experts};
pub(crate) use head::LogitsTo;
use head::head;
use mixers::Remote;
pub(crate) use mixers::{
    AttentionBuffers, IndexRoom, KvTarget, MixerRoom, StateRoom, States, attention_shape, rope_style, widths,
};
pub(crate) use per_layer::own as per_layer_own;
pub(crate) use phases::Phases;
use phases::Watch;
pub(crate) use widen::activation;
pub(crate) use workspace::{Angles, Workspace, cache_shape, index_shape, joins_heads, wide};

/// What a text needs beside the devices' own memory.
#[derive(Debug, Default)]
pub(crate) struct Staging {
    /// The residual stream in RAM, on its way to a device or between two.
    x: Vec<f32>,
    angles: RotaryAngles,
    /// Moves layers from RAM to a GPU, once that was needed.
    streamer: Option<Streamer>,
}

/// One batch on its way through a model.
pub(crate) struct Pass<'p> {
    pub(crate) model: &'p Model,
    /// One for each device that has layers, in the order of [`Segment::workspace`].
    pub(crate) workspaces: &'p mut [Workspace],
    pub(crate) staging: &'p mut Staging,
    pub(crate) observer: Option<&'p mut dyn Observer>,
}

/// The tokens of a batch.
#[derive(Clone, Copy)]
struct Batch<'t> {
    tokens: &'t [u32],
    /// Their number.
    n: usize,
    /// Position of the first.
    first: usize,
    /// Index of the first whose logits are wanted.
    keep: usize,
}

impl Pass<'_> {
    /// Runs `tokens` at positions from `first` on; the logits of those from index `keep` on go to `logits`.
    pub(crate) fn run(
        &mut self,
        tokens: &[u32],
        first: usize,
        keep: usize,
        mut logits: LogitsTo<'_>,
    ) -> Result<()> {
        let model = self.model;
        let batch = Batch { tokens, n: tokens.len(), first, keep };
        let values = batch.n * model.config.hidden_size;
        let on_gpu = || self.workspaces.iter().any(|work| work.executor.pool().is_none());
        if let Some(growth) = model.config.query_growth.filter(|g| g.reaches(first + batch.n))
            && on_gpu()
        {
            return Err(Error::QueryGrowth { context: growth.context });
        }
        model.rotation.fill(&model.pool, first, batch.n, &mut self.staging.angles);
        let segments = model.placement.segments();
        for (index, segment) in segments.iter().enumerate() {
            // Large batches of layers in RAM are computed on the GPU that has their keys and values.
            let streamed = segment.remote.filter(|_| batch.n >= STREAMED_FROM);
            let at = streamed.unwrap_or(segment.workspace);
            let results = if segment.head { batch.n - keep } else { batch.n };
            let Staging { x, angles, .. } = &mut *self.staging;
            let work = &mut self.workspaces[at];
            work.reserve(model, batch.n)?;
            let end = logits.start() + results * model.config.vocab_size;
            work.reserve_logits(if segment.head && streamed.is_none() { end } else { 0 })?;
            // A recorded pass would copy logits to RAM, or not, as it was recorded.
            let in_ram = matches!(logits, LogitsTo::Ram(_));
            let stays = || model.weights.blocks[segment.layers.clone()].iter().all(Block::recordable);
            // The first token clears the states, which no other does.
            let begins = first == 0 && model.weights.has_states();
            let recordable = batch.n == 1 && self.observer.is_none() && in_ram && stays() && !begins;
            let key = PassKey { segment: index, tokens: batch.n, first, keep, recordable };
            let mode = work.executor.begin(key)?;
            work.set_angles(angles)?;
            let input = work.x.front_mut(values);
            match index {
                0 => work.executor.fill(input, |x| embed(model, tokens, first, x))?,
                _ => work.executor.upload(x, input)?,
            }
            if index == 0 && model.config.per_layer.is_some() {
                work.executor.copy(work.x.front(values), work.embeds.front_mut(values))?;
            }
            if index == 0 && model.config.streams > 1 {
                let all = work.x.front_mut(batch.n * model.config.stream_width());
                streams::spread(model, &mut work.executor, all.host()?)?;
            }
            model.placement.embedded();
            if mode == Mode::Run {
                match streamed {
                    Some(_) => self.streamed(segment, at, batch)?,
                    None => self.segment(segment, (key, tokens), &mut logits)?,
                }
            }
            let Workspace { executor, x: held, logits: made, .. } = &mut self.workspaces[at];
            // A head in RAM stays there: the segment is left in front of it.
            let result = match segment.head && streamed.is_none() {
                // On the CPU they were written where they are wanted.
                true if executor.pool().is_some() || results == 0 => None,
                true => match &mut logits {
                    LogitsTo::Ram(to) => Some((made.front(to.len()), &mut **to)),
                    LogitsTo::Gpu(_) => None,
                },
                false if index + 1 == segments.len() && streamed.is_none() => None,
                false => {
                    self.staging.x.resize(values, 0.0);
                    Some((held.front(values), &mut self.staging.x[..]))
                }
            };
            executor.end(result)?;
            if segment.head && streamed.is_some() && keep < batch.n {
                let work = &mut self.workspaces[segment.workspace];
                work.reserve(model, batch.n)?;
                work.executor.upload(&self.staging.x, work.x.front_mut(values))?;
                self.head(segment.workspace, batch, &mut logits)?;
            }
        }
        Ok(())
    }

    /// The layers of one segment where their weights are, and the head if it ends the model.
    fn segment(
        &mut self,
        segment: &Segment,
        (key, tokens): (PassKey, &[u32]),
        logits: &mut LogitsTo<'_>,
    ) -> Result<()> {
        let model = self.model;
        let batch = Batch { tokens, n: key.tokens, first: key.first, keep: key.keep };
        let Batch { n, keep, .. } = batch;
        let (placement, blocks) = (&model.placement, &model.weights.blocks);
        let (work, mut remote) = two(self.workspaces, segment.workspace, segment.remote);
        if let Some(remote) = &mut remote {
            remote.reserve(model, n)?;
            remote.executor.begin(PassKey { recordable: false, ..key })?;
            remote.set_angles(&self.staging.angles)?;
        }
        for layer in segment.layers.clone() {
            placement.enter(layer, n);
            let batch = batch.of_layer(model, layer, self.observer.is_some());
            block(model, work, remote.as_deref_mut(), &mut self.observer, (layer, &blocks[layer]), batch)?;
            placement.leave(layer);
        }
        if let Some(remote) = remote {
            remote.executor.end(None)?;
        }
        if keep == n || !segment.head {
            return Ok(());
        }
        self.head(segment.workspace, batch, logits)
    }

    /// The layers of a segment in RAM, on a GPU.
    fn streamed(&mut self, segment: &Segment, at: usize, batch: Batch<'_>) -> Result<()> {
        let model = self.model;
        if model.weights.has_states() {
            let (there, here) = two(self.workspaces, at, Some(segment.workspace));
            let Some(here) = here else { return Ok(()) };
            there.states.take(
                &mut there.executor,
                (&here.states, &mut here.executor),
                segment.layers.clone(),
            )?;
        }
        let work = &mut self.workspaces[at];
        let streamer = match &mut self.staging.streamer {
            Some(streamer) => streamer,
            none => none.insert(Streamer::new(model, &work.executor)?),
        };
        let (started, moved_before) = (Instant::now(), streamer.moved());
        let mut next = None;
        for layer in segment.layers.clone() {
            model.placement.enter(layer, batch.n);
            let moved = match next.take() {
                Some(moved) => moved,
                None => streamer.bring(model, layer)?,
            };
            streamer.arrived(&work.executor)?;
            let batch = batch.of_layer(model, layer, self.observer.is_some());
            block(model, work, None, &mut self.observer, (layer, &moved), batch)?;
            streamer.used(&work.executor)?;
            // Only queued: meanwhile the next one is moved.
            if layer + 1 < segment.layers.end {
                next = Some(streamer.bring(model, layer + 1)?);
            }
            model.placement.leave(layer);
        }
        model.placement.moved(streamer.moved() - moved_before, started.elapsed(), batch.n);
        if model.weights.has_states() {
            let (here, there) = two(self.workspaces, segment.workspace, Some(at));
            let Some(there) = there else { return Ok(()) };
            here.states.take(
                &mut here.executor,
                (&there.states, &mut there.executor),
                segment.layers.clone(),
            )?;
        }
        Ok(())
    }

    /// From the residual stream on a device to logits.
    fn head(&mut self, at: usize, batch: Batch<'_>, logits: &mut LogitsTo<'_>) -> Result<()> {
        let model = self.model;
        let layers = model.weights.blocks.len();
        model.placement.enter(layers, batch.n - batch.keep);
        let observer = self.observer.as_mut().map(|o| &mut **o as &mut dyn Observer);
        head(model, &mut self.workspaces[at], observer, batch, logits)?;
        model.placement.leave(layers);
        Ok(())
    }
}

impl Batch<'_> {
    /// The same for one layer: the head's rows are all that is needed behind the last block's keys and values.
    fn of_layer(self, model: &Model, layer: usize, observed: bool) -> Self {
        // Of several streams all rows are mixed.
        let last = layer + 1 == model.weights.blocks.len() && model.config.streams == 1;
        let unseen = !observed && last;
        Self { keep: if unseen { self.keep } else { 0 }, ..self }
    }
}

/// Two of some workspaces.
fn two(all: &mut [Workspace], one: usize, other: Option<usize>) -> (&mut Workspace, Option<&mut Workspace>) {
    match other {
        None => (&mut all[one], None),
        Some(other) if one < other => {
            let (low, high) = all.split_at_mut(other);
            (&mut low[one], Some(&mut high[0]))
        }
        Some(other) => {
            let (low, high) = all.split_at_mut(one);
            (&mut high[0], Some(&mut low[other]))
        }
    }
}

/// One block. Rows of `x` before `keep` are left as they are once their keys and values are stored.
fn block(
    model: &Model,
    work: &mut Workspace,
    remote: Option<&mut Workspace>,
    observer: &mut Option<&mut dyn Observer>,
    (layer, block): (usize, &Block),
    batch: Batch<'_>,
) -> Result<()> {
    let config = &model.config;
    let Batch { tokens, n, first, keep } = batch;
    let shape = attention_shape(config, layer);
    let (query, key) = (shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim);
    let (hidden, wide) = (config.hidden_size, block.ffn_width());
    let (rows, mixed_width) = (n - keep, block.mixer.width());
    let windowed = config.window(layer).is_some();
    let pairs = n * model.rotation.pairs_of(windowed);
    let Workspace {
        executor,
        cache,
        x,
        normed,
        q,
        k,
        v,
        qkv: all,
        attended,
        projected,
        wide: w,
        gates,
        embeds,
        own,
        gated,
        input: before,
        angles,
        seen,
        joined,
        states,
        scratch,
        index,
        chosen,
        ..
    } = work;
    let slot = model.placement.slot(config.kv_source(layer).unwrap_or(layer));
    let mut elsewhere = None;
    let (cache, angles) = match remote {
        None => (cache, angles.of(windowed, pairs)),
        Some(Workspace { executor, cache, qkv, attended, angles, .. }) => {
            let width = query + 2 * key;
            let (qkv, attended) = (qkv.front_mut(n * width), attended.front_mut(rows * query));
            elsewhere = Some(Remote { executor, qkv, attended });
            (cache, angles.of(windowed, pairs))
        }
    };
    let target = KvTarget { cache, slot, layer, first, angles, remote: elsewhere };
    let apart = if *joined && !config.qk_norm_whole() { 0 } else { n };
    let together = if *joined { n } else { 0 };
    let [of_queries, of_keys, of_values] = widths(config);
    let buffers = AttentionBuffers {
        q: q.front_mut(apart * of_queries),
        k: k.front_mut(apart * of_keys),
        v: v.front_mut(apart * of_values),
        qkv: all.front_mut(together * (query + 2 * key)),
    };
    let observer = observer.as_mut().map(|o| Watch { observer: &mut **o, seen });
    let width = n * config.stream_width();
    if let Some(own) = &block.streams {
        streams::predict(executor, own, x.front_mut(width).host()?)?;
        executor.copy(x.front(n * hidden), before.front_mut(n * hidden))?;
    }
    let mut phases = Phases { model, block, executor, observer };
    let scratch = scratch.front_mut(n * block.mixer.scratch());
    let slot = config.indexer.as_ref().map_or(0, |own| own.slot(layer));
    let index = index.as_mut().map(|cache| IndexRoom { cache, slot, chosen });
    let room = MixerRoom { target, buffers, states: StateRoom { state: states.of(layer), scratch }, index };
    phases.mix(x.front(n * hidden), keep, room, attended.front_mut(rows * mixed_width))?;
    if rows == 0 {
        return Ok(());
    }
    let tail = keep * hidden..n * hidden;
    macro_rules! x {
        () => {
            x.front(n * hidden).slice(tail.clone())
        };
        (mut) => {
            x.front_mut(n * hidden).slice(tail.clone())
        };
    }
    phases.before_project(x!(), normed.front_mut(rows * hidden))?;
    phases.project(attended.front(rows * mixed_width), projected.front_mut(rows * hidden), x!(mut))?;
    if block.streams.is_some() {
        streams::laurel(phases.executor, block, before.front(n * hidden).host()?, x!(mut).host()?)?;
    }
    match &block.ffn {
        Ffn::Dense { .. } => {
            let input = phases::network_input(model, block, x!(), normed.front(rows * hidden));
            phases.widen(input, w.front_mut(rows * wide))?;
            phases.narrow(w.front(rows * wide), projected.front_mut(rows * hidden), x!(mut))?;
            if let Some(weights) = &block.per_layer {
                let values = rows * weights.gate.op.weight.rows();
                let embeds = embeds.front(n * hidden).slice(tail.clone());
                let (tokens, to) = (&tokens[keep..], own.front_mut(values));
                per_layer::own(model, phases.executor, (layer, weights), tokens, embeds, to)?;
                match &block.streams {
                    None => {
                        phases.gate_own(x!(), own.front(values), gated.front_mut(values))?;
                        let projected = projected.front_mut(rows * hidden);
                        phases.add_own(gated.front(values), projected, x!(mut))?;
                    }
                    Some(streams) => {
                        let before = before.front(n * hidden).host()?;
                        streams::correct(phases.executor, streams, before, x.front_mut(width).host()?)?;
                        streams::scaled(streams, x!().host()?, normed.front_mut(rows * hidden).host()?);
                        let normed = normed.front(rows * hidden);
                        phases.gate_own(normed, own.front(values), gated.front_mut(values))?;
                        let mut projected = projected.front_mut(rows * hidden);
                        phases.make_own(gated.front(values), projected.reborrow())?;
                        streams::add_to_others(projected.host()?, x.front_mut(width).host()?);
                    }
                }
            }
            phases.scale(x!(mut))
        }
        Ffn::None => Ok(()),
        Ffn::Experts(experts) if phases.on_gpu() => {
            let (normed, out) = (normed.front(rows * hidden), projected.front_mut(rows * hidden));
            phases.experts_on_gpu(experts, (x, tail), (normed, w, gates), out)
        }
        Ffn::Experts(experts) => {
            phases.normed_input(x!(), normed.front_mut(rows * hidden))?;
            let normed = normed.front(rows * hidden);
            phases.experts(experts, normed, projected.front_mut(rows * hidden), x!(mut))
        }
    }
}
