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
    matmul: quern_compute::Scratch,
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
        let embedding = model.weights.embedding.matrix(&model.checkpoint)?;
        for (&token, x) in tokens.iter().zip(x.chunks_exact_mut(hidden)) {
            get_row(&embedding, token as usize, x)?;
        }
        let blocks = &model.weights.blocks;
        for (layer, block) in blocks.iter().enumerate() {
            // The head's rows are all that is needed behind the last block's keys and values.
            let unseen = self.observer.is_none() && layer + 1 == blocks.len();
            self.block(layer, block, n, first, if unseen { keep } else { 0 })?;
        }
        if keep == n {
            return Ok(());
        }
        let Scratch { matmul, x, normed, .. } = &mut *self.scratch;
        let x = &x[keep * hidden..n * hidden];
        let normed = &mut normed[..x.len()];
        norm(model, x, &model.weights.output_norm, norm_epsilon, normed);
        linear(model, matmul, &mut self.observer, [&model.weights.output], normed, [logits])
    }

    /// One block. Rows of `x` before `keep` are left as they are once their keys and values are stored.
    fn block(&mut self, layer: usize, block: &Block, n: usize, first: usize, keep: usize) -> Result<()> {
        let model = self.model;
        let config = &model.config;
        let (hidden, ffn, eps) = (config.hidden_size, config.ffn_size, config.norm_epsilon);
        let (query, key) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        let Scratch { matmul, x, normed, q, k, v, attended, projected, gate, up, cos, sin } =
            &mut *self.scratch;
        let observer = &mut self.observer;

        let (q, k, v) = (&mut q[..n * query], &mut k[..n * key], &mut v[..n * key]);
        let normed_all = &mut normed[..n * hidden];
        norm(model, &x[..n * hidden], &block.attention_norm, eps, normed_all);
        linear(
            model,
            matmul,
            observer,
            [&block.q, &block.k, &block.v],
            normed_all,
            [&mut *q, &mut *k, &mut *v],
        )?;
        self.cache.store(model, layer, first, (q, k, v), (cos, sin));

        if keep == n {
            return Ok(());
        }
        let rows = n - keep;
        let x = &mut x[keep * hidden..n * hidden];
        let attended = &mut attended[..rows * query];
        let shape = AttentionShape {
            heads: config.heads,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
            scale: 1.0 / (config.head_dim as f32).sqrt(),
            window: config.sliding_window,
        };
        let (keys, values) = self.cache.layer(layer);
        attention(&model.pool, &shape, &q[keep * query..], first + keep, keys, values, attended)?;
        let projected = &mut projected[..rows * hidden];
        linear(model, matmul, observer, [&block.attention_output], attended, [&mut *projected])?;
        let normed = &mut normed[..rows * hidden];
        add_and_norm(model, x, projected, Some((&block.ffn_norm, eps, &mut *normed)));

        let (gate, up) = (&mut gate[..rows * ffn], &mut up[..rows * ffn]);
        linear(model, matmul, observer, [&block.gate, &block.up], normed, [&mut *gate, &mut *up])?;
        silu_mul(model, gate, up);
        linear(model, matmul, observer, [&block.down], gate, [&mut *projected])?;
        add_and_norm(model, x, projected, None);
        Ok(())
    }
}

/// `outputs[i] = linears[i](input)` for layers that share their input: one parallel region for all.
fn linear<const N: usize>(
    model: &Model,
    scratch: &mut quern_compute::Scratch,
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
    matmul(&model.pool, scratch, &matrices, input, rows, &mut outputs)?;
    for (output, l) in outputs.into_iter().zip(linears) {
        if let Some(bias) = &l.bias {
            ops::add_bias(output, bias);
        }
    }
    Ok(())
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
