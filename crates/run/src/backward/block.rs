//! The gradients of one block, from those by the residual stream behind it to those by the one in front.

use std::ops::Range;

use quern_compute::attention::{Attended, attention_backward};
use quern_compute::parallel::{part_of, share};
use quern_compute::{Linear as Op, Norm, Pool, ops};
use quern_model::architecture::Block as BlockKind;

use crate::Result;
use crate::forward::{activation, attention_shape, rope_style};
use crate::rope::grow_queries;
use crate::weights::{Block, Ffn, Linear, Qkv, Widen};

use super::products::{Machine, add, angles_of, transposed};
use super::tape::{Tape, halves, join, whole};
use super::{Batch, GradientObserver, show};

/// A block's weights, transposed.
pub(super) struct Transposed {
    qkv: Vec<Op>,
    attention_output: Op,
    widen: Vec<Op>,
    down: Option<Op>,
}

impl Transposed {
    pub(super) fn new(pool: &Pool, block: &Block) -> Result<Self> {
        let of = |linear: &Linear| transposed(pool, linear, 0..linear.op.weight.rows());
        let all = |linears: Vec<&Linear>| linears.into_iter().map(of).collect::<Result<Vec<_>>>();
        let (widen, down) = match &block.ffn {
            Ffn::Dense { widen, down } => (all(widen.linears())?, Some(of(down)?)),
            Ffn::Experts(_) => (Vec::new(), None),
        };
        Ok(Self {
            qkv: all(block.qkv.linears())?,
            attention_output: of(&block.attention_output)?,
            widen,
            down,
        })
    }
}

impl Machine<'_> {
    /// `d` is `[tokens][hidden]` of the batch: the gradient behind the block, replaced by that in front of it.
    pub(super) fn block(
        &mut self,
        layer: usize,
        batch: &Batch,
        mut tape: Tape,
        weights: &Transposed,
        d: &mut [f32],
        observer: &mut dyn GradientObserver,
    ) -> Result<()> {
        let model = self.model;
        let (kind, block, pool) = (model.config.block, &model.weights.blocks[layer], &model.pool);
        if kind == BlockKind::PostNorm {
            let mut behind = std::mem::take(&mut tape.narrowed);
            add(pool, &mut behind, &tape.middle);
            self.norm_back(block.network_norm(), &behind, d)?;
        }
        let mut by_network = self.network(layer, batch, &mut tape, weights, d, observer)?;
        match kind {
            BlockKind::PostNorm => {
                add(pool, d, &by_network);
                self.norm_back(block.attention_norm.as_ref(), &tape.sum, d)?;
            }
            BlockKind::Sequential => {
                self.norm_back(block.network_norm(), &tape.sum, &mut by_network)?;
                add(pool, d, &by_network);
            }
            BlockKind::OutputNorm => add(pool, d, &by_network),
            BlockKind::Parallel => {
                self.norm_back(block.network_norm(), &tape.x, &mut by_network)?;
            }
        }
        let mut by_attention = self.attention(layer, batch, &tape, weights, d, observer)?;
        self.norm_back(block.norm_of_attention(kind), &tape.x, &mut by_attention)?;
        if kind == BlockKind::Parallel {
            add(pool, d, &by_network);
        }
        add(pool, d, &by_attention);
        Ok(())
    }

    /// Gradients by the inputs `x` of a norm of the residual stream, if there is one.
    fn norm_back(&self, norm: Option<&Norm>, x: &[f32], d: &mut [f32]) -> Result<()> {
        norm.map_or(Ok(()), |norm| self.norm_backward(norm, self.model.config.hidden_size, x, d))
    }

    /// From the gradient by what the network adds to that by its inputs.
    fn network(
        &mut self,
        layer: usize,
        batch: &Batch,
        tape: &mut Tape,
        weights: &Transposed,
        d: &[f32],
        observer: &mut dyn GradientObserver,
    ) -> Result<Vec<f32>> {
        let model = self.model;
        let (config, block, pool) = (&model.config, &model.weights.blocks[layer], &model.pool);
        let (Ffn::Dense { widen, down }, Some(down_transposed)) = (&block.ffn, &weights.down) else {
            return Ok(vec![0f32; d.len()]);
        };
        let mut d = d.to_vec();
        if let Some(norm) = &block.ffn_post_norm {
            self.norm_backward(norm, config.hidden_size, &tape.narrowed, &mut d)?;
        }
        show(observer, down, &batch.tokens, &tape.wide, &d)?;
        let d_wide = self.product(down_transposed, &d)?;

        let (level, act) = (pool.level(), activation(config));
        let part = part_of(pool, d_wide.len(), 1);
        let mut widened = std::mem::take(&mut tape.widened);
        let gated = |gate: &mut [f32], up: &mut [f32]| {
            let parts = gate.chunks_mut(part).zip(up.chunks_mut(part)).zip(d_wide.chunks(part));
            share(pool, parts, |((gate, up), d)| ops::activate_mul_backward(level, act, gate, up, d));
        };
        match (widen, &mut widened[..]) {
            (Widen::Gated { .. }, [gate, up]) => gated(gate, up),
            (Widen::Fused(_), [both]) => {
                let (mut gate, mut up) = halves(config.ffn_size, both);
                gated(&mut gate, &mut up);
                *both = whole(config.ffn_size, &gate, &up);
            }
            (_, plain) => {
                for x in plain {
                    let parts = x.chunks_mut(part).zip(d_wide.chunks(part));
                    share(pool, parts, |(x, d)| ops::activate_backward(level, act, x, d));
                }
            }
        }
        let mut by_network = vec![0f32; d.len()];
        for ((linear, op), d) in widen.linears().into_iter().zip(&weights.widen).zip(&widened) {
            show(observer, linear, &batch.tokens, &tape.network, d)?;
            self.add_product(op, d, &mut by_network)?;
        }
        Ok(by_network)
    }

    /// From the gradient by what attention adds to that by the inputs of Q, K and V.
    fn attention(
        &mut self,
        layer: usize,
        batch: &Batch,
        tape: &Tape,
        weights: &Transposed,
        d: &[f32],
        observer: &mut dyn GradientObserver,
    ) -> Result<Vec<f32>> {
        let model = self.model;
        let (config, block) = (&model.config, &model.weights.blocks[layer]);
        let mut d = d.to_vec();
        if let Some(norm) = &block.attention_post_norm {
            self.norm_backward(norm, config.hidden_size, &tape.projected, &mut d)?;
        }
        show(observer, &block.attention_output, &batch.tokens, &tape.attended, &d)?;
        let d_attended = self.product(&weights.attention_output, &d)?;

        let [q, k, v] = &tape.qkv;
        let attended = Attended { q, k, v, out: &tape.attended };
        let mut d_qkv = tape.qkv.each_ref().map(|values| vec![0f32; values.len()]);
        let shape = attention_shape(config, layer);
        let to = d_qkv.each_mut().map(Vec::as_mut_slice);
        let sinks = block.sinks.as_ref().map_or(Ok(&[][..]), |sinks| sinks.host())?;
        attention_backward(&model.pool, &shape, &batch.sequences, (attended, sinks), &d_attended, to)?;
        let [d_q, d_k, _] = &mut d_qkv;
        self.unrotate(layer, &batch.sequences, config.heads, d_q);
        self.unrotate(layer, &batch.sequences, config.kv_heads, d_k);
        let query = config.heads * config.head_dim;
        for tokens in &batch.sequences {
            grow_queries(config, 0, query, query, &mut d_q[tokens.start * query..tokens.end * query]);
        }
        if let Some(norms) = &block.head_norms {
            let [q, k] = &tape.unnormed;
            let width = |norm: &Norm| if norms.whole { norm.weight.len() } else { config.head_dim };
            self.norm_backward(&norms.q, width(&norms.q), q, d_q)?;
            self.norm_backward(&norms.k, width(&norms.k), k, d_k)?;
        }

        let d_outputs = match &block.qkv {
            Qkv::Separate { .. } => d_qkv.into(),
            Qkv::Fused { by_group, .. } => vec![join(config, *by_group, &d_qkv)],
        };
        let mut by_attention = vec![0f32; d.len()];
        for ((linear, op), d) in block.qkv.linears().into_iter().zip(&weights.qkv).zip(&d_outputs) {
            show(observer, linear, &batch.tokens, &tape.normed, d)?;
            self.add_product(op, d, &mut by_attention)?;
        }
        Ok(by_attention)
    }

    /// Gradients by rotated vectors become those by the vectors before: the rotation back, with the same factor.
    fn unrotate(&self, layer: usize, sequences: &[Range<usize>], heads: usize, d: &mut [f32]) {
        let config = &self.model.config;
        if self.model.rotation.pairs() == 0 || !config.rotates(layer) {
            return;
        }
        let (pool, width) = (&self.model.pool, heads * config.head_dim);
        for tokens in sequences {
            let (cos, sin) = angles_of(self.model, &self.angles, layer, tokens.len());
            let back: Vec<f32> = sin.iter().map(|sin| -sin).collect();
            let d = &mut d[tokens.start * width..tokens.end * width];
            ops::rope(pool.level(), rope_style(config), d, heads, config.head_dim, cos, &back);
        }
    }
}
