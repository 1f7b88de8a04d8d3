//! The forward pass: one program for every architecture, reading its description.
//!
//! One batch of `n` tokens at positions `first..first + n`, widths in brackets:
//!
//! ```text
//! tokens -> embedding row -> x [hidden]
//! each block:   norm(x) -> q k v -> rope(q, k) -> cache -> attention -> output projection -> x +=
//!               norm(x) -> gate up -> act(gate) * up -> down projection                   -> x +=
//! norm(x) -> head -> logits [vocab]                  (only for the rows wanted)
//! ```
//!
//! A block is four phases with a linear layer's input at each joint: [`Phases::attend`], [`Phases::project`],
//! [`Phases::widen`], [`Phases::narrow`]. Ordinary passes run them one after the other; calibration stops at
//! the joints ([`crate::Layerwise`]).
//!
//! In the last block only the rows whose logits are wanted go beyond keys and values: nothing later reads
//! the others. (An observer sees all of them all the same.) Between the linear layers everything works
//! row by row, so the threads share rows and the result does not depend on their number.

use quern_compute::{AttentionShape, attention, get_row, matmul, ops};
use quern_model::Config;
use quern_model::architecture::{Activation, Block as BlockKind, Norm, Position};

use crate::cache::Cache;
use crate::parallel::{part_of, share};
use crate::weights::{Block, Linear};
use crate::{LinearInput, Model, Observer, Result};

/// Refuses descriptions this program does not follow yet; the text says what it was.
pub(crate) fn check(config: &Config) -> Result<(), String> {
    let a = config.architecture;
    let unsupported = |what: &dyn std::fmt::Debug| {
        Err(format!(
            "the {} architecture's {what:?} cannot be run yet; it can be inspected and quantized",
            a.name
        ))
    };
    match (a.norm, a.position, a.block, config.activation) {
        (Norm::Rms, Position::Rotary, BlockKind::Sequential, Activation::Silu) if a.gated => Ok(()),
        (Norm::Rms, Position::Rotary, BlockKind::Sequential, Activation::Silu) => {
            unsupported(&"ungated network")
        }
        (Norm::Rms, Position::Rotary, BlockKind::Sequential, activation) => unsupported(&activation),
        (Norm::Rms, Position::Rotary, block, _) => unsupported(&block),
        (Norm::Rms, position, ..) => unsupported(&position),
        (norm, ..) => unsupported(&norm),
    }
}

/// Memory for one batch, kept from pass to pass. Each buffer is `[tokens][width]`.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    linears: LinearScratch,
    x: Vec<f32>,
    normed: Vec<f32>,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    attended: Vec<f32>,
    projected: Vec<f32>,
    gate: Vec<f32>,
    up: Vec<f32>,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Scratch {
    /// Room for `n` tokens. Grows only; a shorter batch uses the front.
    fn reserve(&mut self, config: &Config, n: usize) {
        let grow = |buffer: &mut Vec<f32>, width: usize| {
            if buffer.len() < n * width {
                buffer.resize(n * width, 0.0);
            }
        };
        let (query, key) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        for buffer in [&mut self.x, &mut self.normed, &mut self.projected] {
            grow(buffer, config.hidden_size);
        }
        for buffer in [&mut self.q, &mut self.attended] {
            grow(buffer, query);
        }
        for buffer in [&mut self.k, &mut self.v] {
            grow(buffer, key);
        }
        for buffer in [&mut self.gate, &mut self.up] {
            grow(buffer, config.ffn_size);
        }
    }
}

/// Memory that linear layers need.
#[derive(Debug, Default)]
pub(crate) struct LinearScratch {
    matmul: quern_compute::Scratch,
    /// An input in the order of a weight's columns.
    permuted: Vec<f32>,
}

/// One batch on its way through a model.
pub(crate) struct Pass<'p> {
    pub(crate) model: &'p Model,
    pub(crate) cache: &'p mut Cache,
    pub(crate) scratch: &'p mut Scratch,
    pub(crate) observer: Option<&'p mut dyn Observer>,
}

impl Pass<'_> {
    /// Runs `tokens` at positions from `first` on and writes the logits of those from index `keep` on to
    /// `logits` (`[tokens - keep][vocab]`, empty if there are none).
    pub(crate) fn run(
        &mut self,
        tokens: &[u32],
        first: usize,
        keep: usize,
        logits: &mut [f32],
    ) -> Result<()> {
        let model = self.model;
        let Config { hidden_size: hidden, norm_epsilon, .. } = model.config;
        let n = tokens.len();
        self.scratch.reserve(&model.config, n);
        let Scratch { x, cos, sin, .. } = &mut *self.scratch;
        model.angles.fill(first, n, cos, sin);
        embed(model, tokens, &mut x[..n * hidden])?;
        let blocks = &model.weights.blocks;
        for (layer, block) in blocks.iter().enumerate() {
            // The head's rows are all that is needed behind the last block's keys and values.
            let unseen = self.observer.is_none() && layer + 1 == blocks.len();
            self.block(layer, block, n, first, if unseen { keep } else { 0 })?;
        }
        if keep == n {
            return Ok(());
        }
        let Scratch { linears, x, normed, .. } = &mut *self.scratch;
        let x = &x[keep * hidden..n * hidden];
        let normed = &mut normed[..x.len()];
        norm(model, x, &model.weights.output_norm, norm_epsilon, normed);
        linear(model, linears, &mut self.observer, [&model.weights.output], normed, [logits])
    }

    /// One block. Rows of `x` before `keep` are left as they are once their keys and values are stored.
    fn block(&mut self, layer: usize, block: &Block, n: usize, first: usize, keep: usize) -> Result<()> {
        let config = &self.model.config;
        let (hidden, ffn) = (config.hidden_size, config.ffn_size);
        let query = config.heads * config.head_dim;
        let mut phases = Phases { model: self.model, block, observer: self.observer.take() };
        let Scratch { linears, x, normed, q, k, v, attended, projected, gate, up, cos, sin } =
            &mut *self.scratch;
        let rows = n - keep;
        let place = Place { cache: self.cache, layer, first, angles: (&cos[..], &sin[..]) };
        let (x_all, normed_all) = (&mut x[..n * hidden], &mut normed[..n * hidden]);
        let buffers = AttentionBuffers { normed: normed_all, q, k, v };
        let attended = &mut attended[..rows * query];
        let mut done = phases.attend(linears, x_all, keep, place, buffers, attended);
        if keep < n {
            let x = &mut x[keep * hidden..n * hidden];
            let (projected, normed) = (&mut projected[..rows * hidden], &mut normed[..rows * hidden]);
            let (gate, up) = (&mut gate[..rows * ffn], &mut up[..rows * ffn]);
            done = done
                .and_then(|()| phases.project(linears, attended, projected, x, normed))
                .and_then(|()| phases.widen(linears, normed, up, gate))
                .and_then(|()| phases.narrow(linears, gate, projected, x));
        }
        self.observer = phases.observer;
        done
    }
}

/// The embedding of every token: `out` is `[tokens][hidden]`.
pub(crate) fn embed(model: &Model, tokens: &[u32], out: &mut [f32]) -> Result<()> {
    let embedding = model.weights.embedding.matrix(&model.checkpoint)?;
    for (&token, x) in tokens.iter().zip(out.chunks_exact_mut(model.config.hidden_size)) {
        get_row(&embedding, token as usize, x)?;
    }
    Ok(())
}

/// The parts of one block, between which stand the inputs of its linear layers.
pub(crate) struct Phases<'p, 'o> {
    pub(crate) model: &'p Model,
    pub(crate) block: &'p Block,
    pub(crate) observer: Option<&'o mut dyn Observer>,
}

/// Where keys and values of a batch belong.
pub(crate) struct Place<'p> {
    pub(crate) cache: &'p mut Cache,
    /// The cache's layer.
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
}

impl Phases<'_, '_> {
    /// The input of Q, K and V: `normed = norm(x)`.
    pub(crate) fn attention_input(&self, x: &[f32], normed: &mut [f32]) {
        norm(self.model, x, &self.block.attention_norm, self.model.config.norm_epsilon, normed);
    }

    /// From the residual stream to what attention gathered for the rows from `keep` on, the input of the
    /// output projection. Keys and values of all rows go to the cache.
    pub(crate) fn attend(
        &mut self,
        linears: &mut LinearScratch,
        x: &[f32],
        keep: usize,
        place: Place<'_>,
        buffers: AttentionBuffers<'_>,
        attended: &mut [f32],
    ) -> Result<()> {
        let (model, block) = (self.model, self.block);
        let config = &model.config;
        let n = x.len() / config.hidden_size;
        let (query, key) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        let AttentionBuffers { normed, q, k, v } = buffers;
        let (q, k, v) = (&mut q[..n * query], &mut k[..n * key], &mut v[..n * key]);
        self.attention_input(x, normed);
        let outputs = [&mut *q, &mut *k, &mut *v];
        linear(model, linears, &mut self.observer, [&block.q, &block.k, &block.v], normed, outputs)?;
        let Place { cache, layer, first, angles } = place;
        cache.store(model, layer, first, (q, k, v), angles);
        if keep == n {
            return Ok(());
        }
        let shape = AttentionShape {
            heads: config.heads,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
            scale: 1.0 / (config.head_dim as f32).sqrt(),
            window: config.sliding_window,
        };
        let (keys, values) = cache.layer(layer);
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
        let output = [&mut *projected];
        linear(model, linears, &mut self.observer, [&block.attention_output], attended, output)?;
        let eps = model.config.norm_epsilon;
        add_and_norm(model, x, projected, Some((&block.ffn_norm, eps, normed)));
        Ok(())
    }

    /// The input of the feed-forward network again, from the residual stream.
    pub(crate) fn ffn_input(&self, x: &[f32], normed: &mut [f32]) {
        norm(self.model, x, &self.block.ffn_norm, self.model.config.norm_epsilon, normed);
    }

    /// `wide = silu(gate(normed)) * up(normed)`, the input of the down projection.
    pub(crate) fn widen(
        &mut self,
        linears: &mut LinearScratch,
        normed: &[f32],
        up: &mut [f32],
        wide: &mut [f32],
    ) -> Result<()> {
        let (model, block) = (self.model, self.block);
        let outputs = [&mut *wide, &mut *up];
        linear(model, linears, &mut self.observer, [&block.gate, &block.up], normed, outputs)?;
        silu_mul(model, wide, up);
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
        let (model, block) = (self.model, self.block);
        linear(model, linears, &mut self.observer, [&block.down], wide, [&mut *projected])?;
        add_and_norm(model, x, projected, None);
        Ok(())
    }
}

/// `outputs[i] = linears[i](input)` for layers that share their input: one parallel region for all that take
/// it in the same order.
fn linear<const N: usize>(
    model: &Model,
    scratch: &mut LinearScratch,
    observer: &mut Option<&mut dyn Observer>,
    linears: [&Linear; N],
    input: &[f32],
    mut outputs: [&mut [f32]; N],
) -> Result<()> {
    let columns = linears[0].weight.columns;
    let rows = input.len() / columns;
    if let Some(observer) = observer {
        for l in linears {
            let Linear { name, role, layer, .. } = l;
            observer.linear_input(&LinearInput {
                name,
                role: *role,
                layer: *layer,
                rows,
                columns,
                values: input,
            });
        }
    }
    let mut matrices = [linears[0].weight.matrix(&model.checkpoint)?; N];
    for (matrix, l) in matrices.iter_mut().zip(linears).skip(1) {
        *matrix = l.weight.matrix(&model.checkpoint)?;
    }
    let mut start = 0;
    while start < N {
        let order = linears[start].permutation.as_deref();
        let same = linears[start..].iter().take_while(|l| l.permutation.as_deref() == order).count();
        let group = start..start + same;
        let input = match order {
            None => input,
            Some(order) => {
                let permuted = &mut scratch.permuted;
                permuted.resize(input.len().max(permuted.len()), 0.0);
                permute(model, input, order, &mut permuted[..input.len()]);
                &scratch.permuted[..input.len()]
            }
        };
        matmul(&model.pool, &mut scratch.matmul, &matrices[group.clone()], input, rows, &mut outputs[group])?;
        start += same;
    }
    for (output, l) in outputs.into_iter().zip(linears) {
        if let Some(bias) = &l.bias {
            ops::add_bias(output, bias);
        }
    }
    Ok(())
}

/// `out[row][j] = x[row][order[j]]`.
fn permute(model: &Model, x: &[f32], order: &[u32], out: &mut [f32]) {
    let part = part_of(&model.pool, x.len(), order.len());
    share(&model.pool, x.chunks(part).zip(out.chunks_mut(part)), |(x, out)| {
        for (x, out) in x.chunks_exact(order.len()).zip(out.chunks_exact_mut(order.len())) {
            order.iter().zip(out).for_each(|(&from, out)| *out = x[from as usize]);
        }
    });
}

/// `out = norm(x)`, row by row.
fn norm(model: &Model, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let part = part_of(&model.pool, x.len(), weight.len());
    let parts = x.chunks(part).zip(out.chunks_mut(part));
    share(&model.pool, parts, |(x, out)| ops::rms_norm(x, weight, eps, out));
}

/// `x += y`, then `out = norm(x)` where there is one: both while the row is in the cache.
fn add_and_norm(model: &Model, x: &mut [f32], y: &[f32], then: Option<(&[f32], f32, &mut [f32])>) {
    let part = part_of(&model.pool, x.len(), model.config.hidden_size);
    let parts = x.chunks_mut(part).zip(y.chunks(part));
    match then {
        None => share(&model.pool, parts, |(x, y)| ops::add(x, y)),
        Some((weight, eps, out)) => share(&model.pool, parts.zip(out.chunks_mut(part)), |((x, y), out)| {
            ops::add(x, y);
            ops::rms_norm(x, weight, eps, out);
        }),
    }
}

/// `gate = silu(gate) * up`.
fn silu_mul(model: &Model, gate: &mut [f32], up: &[f32]) {
    let part = part_of(&model.pool, gate.len(), model.config.ffn_size);
    let parts = gate.chunks_mut(part).zip(up.chunks(part));
    share(&model.pool, parts, |(gate, up)| ops::silu_mul(gate, up));
}
