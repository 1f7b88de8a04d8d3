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
//! A block is four phases, each of which ends with the input of a group of linear layers: [`Phases::attend`],
//! [`Phases::project`], [`Phases::widen`], [`Phases::narrow`]. Ordinary passes run them one after the other;
//! calibration runs each over all sequences before the next ([`crate::Layerwise`]). A parallel block takes both
//! norms of the same `x`; one with norms after its parts (OPT-350m) takes them of the sums; a mixture of experts
//! does the last two phases expert by expert.
//!
//! In the last block only the rows whose logits are wanted go beyond keys and values: nothing later reads
//! the others. (An observer sees all of them all the same.) Between the linear layers everything works
//! row by row, so the threads share rows and the result does not depend on their number.

mod experts;
mod linear;
mod phases;
mod rows;

use quern_compute::{get_row, ops};
use quern_model::Config;
use quern_model::architecture::{Activation, Position};

use crate::cache::Cache;
use crate::rope::RotaryAngles;
use crate::weights::{Block, Ffn};
use crate::{Model, Observer, Result};

pub(crate) use experts::{BeforeGroup, run as run_experts};
pub(crate) use linear::LinearScratch;
pub(crate) use phases::{AttentionBuffers, KvTarget, Phases};

use linear::linear;
use rows::norm;

/// Memory for one batch, kept from pass to pass. Each buffer is `[tokens][width]`.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    linears: LinearScratch,
    x: Vec<f32>,
    normed: Vec<f32>,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    qkv: Vec<f32>,
    attended: Vec<f32>,
    projected: Vec<f32>,
    gate: Vec<f32>,
    up: Vec<f32>,
    angles: RotaryAngles,
}

impl Scratch {
    /// Bytes that batches of `n` tokens take: these buffers, those of the kernels, and the experts'.
    pub(crate) fn bytes(model: &Model, n: usize) -> u64 {
        let config = &model.config;
        let (query, key) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        let qkv = if model.fused_qkv() { query + 2 * key } else { 0 };
        let own = 3 * config.hidden_size + 2 * query + 2 * key + qkv + 3 * wide(config);
        let experts = config.experts.map_or(0, |e| e.count + 2 * (e.ffn_size + config.hidden_size));
        let pairs = 4 * model.rotation.pairs();
        let floats = (own + experts + pairs) as u64 * n as u64;
        4 * floats + Self::kernels(model, n)
    }

    /// Bytes that kernels take for `n` tokens, at most: inputs in 8 bits, in two layouts and groupings, or
    /// permuted; attention's tiles in each thread.
    pub(crate) fn kernels(model: &Model, n: usize) -> u64 {
        let config = &model.config;
        let columns = wide(config).max(config.hidden_size).max(config.heads * config.head_dim);
        8 * columns as u64 * n as u64 + ((1 << 20) * model.threads() as u64)
    }

    /// Room for `n` tokens. Grows only; a shorter batch uses the front.
    pub(crate) fn reserve(&mut self, model: &Model, n: usize) {
        let config = &model.config;
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
        if model.fused_qkv() {
            grow(&mut self.qkv, query + 2 * key);
        }
        let wide = wide(config);
        grow(&mut self.gate, wide);
        // Gate and up projection come in one.
        grow(&mut self.up, 2 * wide);
    }
}

/// Width inside the feed-forward network, or inside one expert.
pub(crate) fn wide(config: &Config) -> usize {
    config.experts.map_or(config.ffn_size, |e| e.ffn_size)
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
        let hidden = model.config.hidden_size;
        let n = tokens.len();
        self.scratch.reserve(model, n);
        let Scratch { linears, x, angles, .. } = &mut *self.scratch;
        model.rotation.fill(first, n, angles);
        embed(model, linears, tokens, first, &mut x[..n * hidden])?;
        let placement = &model.placement;
        placement.embedded();
        let blocks = &model.weights.blocks;
        for (layer, block) in blocks.iter().enumerate() {
            // The head's rows are all that is needed behind the last block's keys and values.
            let unseen = self.observer.is_none() && layer + 1 == blocks.len();
            placement.enter(layer, n);
            self.block(layer, block, n, first, if unseen { keep } else { 0 })?;
            placement.leave(layer);
        }
        if keep == n {
            return Ok(());
        }
        placement.enter(blocks.len(), n - keep);
        let Scratch { linears, x, normed, projected, .. } = &mut *self.scratch;
        let x = &x[keep * hidden..n * hidden];
        let mut input = &mut normed[..x.len()];
        match &model.weights.output_norm {
            Some(weights) => norm(model, x, weights, input),
            None => input.copy_from_slice(x),
        }
        if let Some(out) = &model.weights.embedding_out {
            let narrow = &mut projected[..(n - keep) * model.config.embedding_size];
            linear(model, linears, &mut self.observer, [out], input, [&mut *narrow])?;
            input = narrow;
        }
        linear(model, linears, &mut self.observer, [&model.weights.output], input, [&mut *logits])?;
        if let Some(cap) = model.config.final_softcap {
            rows::each(model, logits, model.config.vocab_size, |row| {
                ops::softcap(model.pool.level(), row, cap)
            });
        }
        placement.leave(blocks.len());
        Ok(())
    }

    /// One block. Rows of `x` before `keep` are left as they are once their keys and values are stored.
    fn block(&mut self, layer: usize, block: &Block, n: usize, first: usize, keep: usize) -> Result<()> {
        let config = &self.model.config;
        let (hidden, wide) = (config.hidden_size, wide(config));
        let query = config.heads * config.head_dim;
        let mut phases = Phases { model: self.model, block, observer: self.observer.take() };
        let Scratch { linears, x, normed, q, k, v, qkv, attended, projected, gate, up, angles } =
            &mut *self.scratch;
        let rows = n - keep;
        let angles = angles.of(config.window(layer).is_some());
        let target = KvTarget { cache: self.cache, slot: layer, layer, first, angles };
        let (x_all, normed_all) = (&mut x[..n * hidden], &mut normed[..n * hidden]);
        let buffers = AttentionBuffers { normed: normed_all, q, k, v, qkv };
        let attended = &mut attended[..rows * query];
        let mut done = phases.attend(linears, x_all, keep, target, buffers, attended);
        if keep < n {
            let x = &mut x[keep * hidden..n * hidden];
            let (projected, normed) = (&mut projected[..rows * hidden], &mut normed[..rows * hidden]);
            done = done.and_then(|()| phases.project(linears, attended, projected, x, normed));
            done = match &block.ffn {
                Ffn::Dense { .. } => {
                    let (gate, up) = (&mut gate[..rows * wide], &mut up[..2 * rows * wide]);
                    done.and_then(|()| phases.widen(linears, normed, up, gate))
                        .and_then(|()| phases.narrow(linears, gate, projected, x))
                }
                Ffn::Experts(experts) => {
                    done.and_then(|()| phases.experts(linears, experts, normed, projected, x))
                }
            };
        }
        self.observer = phases.observer;
        done
    }
}

/// What the first block receives: `out` is `[tokens][hidden]`.
pub(crate) fn embed(
    model: &Model,
    linears: &mut LinearScratch,
    tokens: &[u32],
    first: usize,
    out: &mut [f32],
) -> Result<()> {
    let (config, weights) = (&model.config, &model.weights);
    let embedding = weights.embedding.matrix(&model.checkpoint)?;
    match &weights.embedding_in {
        None => {
            for (&token, x) in tokens.iter().zip(out.chunks_exact_mut(config.hidden_size)) {
                get_row(&embedding, token as usize, x)?;
            }
        }
        Some(projection) => {
            let mut narrow = vec![0.0; tokens.len() * config.embedding_size];
            for (&token, x) in tokens.iter().zip(narrow.chunks_exact_mut(config.embedding_size)) {
                get_row(&embedding, token as usize, x)?;
            }
            linear(model, linears, &mut None, [projection], &narrow, [&mut *out])?;
        }
    }
    if config.architecture.scaled_embeddings {
        let scale = (config.hidden_size as f32).sqrt();
        out.iter_mut().for_each(|x| *x *= scale);
    }
    if let (Some(positions), Position::Learned { offset }) =
        (&weights.positions, config.architecture.position)
    {
        let table = positions.matrix(&model.checkpoint)?;
        let mut row = vec![0.0; config.hidden_size];
        for (at, x) in out.chunks_exact_mut(config.hidden_size).enumerate() {
            get_row(&table, first + at + offset, &mut row)?;
            ops::add(model.pool.level(), x, &row);
        }
    }
    Ok(())
}

/// The network's function, as the kernels name it.
pub(crate) fn activation(config: &Config) -> ops::Activation {
    match config.activation {
        Activation::Silu => ops::Activation::Silu,
        Activation::Gelu => ops::Activation::Gelu,
        Activation::GeluTanh => ops::Activation::GeluTanh,
        Activation::Relu => ops::Activation::Relu,
    }
}
