//! A block's forward pass with everything kept that its gradients need.

use std::ops::Range;

use quern_compute::parallel::{part_of, share};
use quern_compute::{Attend, Heads, Rotate, Values, ValuesMut, ops};
use quern_model::Config;
use quern_model::architecture::Block as BlockKind;

use crate::Result;
use crate::forward::{activation, attention_shape, rope_style};
use crate::rope::grow_queries;
use crate::weights::{Ffn, HeadNorms, Qkv, Widen};

use super::products::{Machine, add, angles_of};

/// The activations of one block for one batch; each is `[tokens][width]`.
#[derive(Debug, Default)]
pub(super) struct Tape {
    /// The residual stream in front of the block.
    pub(super) x: Vec<f32>,
    /// Inputs of Q, K and V.
    pub(super) normed: Vec<f32>,
    /// Queries and keys before the norms of heads; empty without those.
    pub(super) unnormed: [Vec<f32>; 2],
    /// Queries and keys as they are multiplied, and values.
    pub(super) qkv: [Vec<f32>; 3],
    /// Inputs of the output projection.
    pub(super) attended: Vec<f32>,
    /// What it returns.
    pub(super) projected: Vec<f32>,
    /// The residual stream with attention's result added; then normalized, where norms are behind the sums.
    pub(super) sum: Vec<f32>,
    pub(super) middle: Vec<f32>,
    /// Inputs of the network.
    pub(super) network: Vec<f32>,
    /// What gate and up, the two fused, or up alone return.
    pub(super) widened: Vec<Vec<f32>>,
    /// Inputs of the down projection.
    pub(super) wide: Vec<f32>,
    /// What it returns; empty if it is added as it is.
    pub(super) narrowed: Vec<f32>,
}

impl Machine<'_> {
    /// Runs block `layer` over sequences whose residual streams are `x`, `[tokens][hidden]`.
    pub(super) fn record(&mut self, layer: usize, sequences: &[Range<usize>], x: &[f32]) -> Result<Tape> {
        let model = self.model;
        let (config, block, pool) = (&model.config, &model.weights.blocks[layer], &model.pool);
        let mut tape = Tape { x: x.to_vec(), ..Tape::default() };

        tape.normed = self.norm_if(block.norm_of_attention(config.block), x)?;
        tape.qkv = match &block.qkv {
            Qkv::Separate { q, k, v } => {
                let normed = &tape.normed;
                [self.linear(q, normed)?, self.linear(k, normed)?, self.linear(v, normed)?]
            }
            Qkv::Fused { qkv, by_group } => split(config, *by_group, &self.linear(qkv, &tape.normed)?),
        };
        if block.head_norms.is_some() {
            tape.unnormed = [tape.qkv[0].clone(), tape.qkv[1].clone()];
        }
        if let Some(HeadNorms { q, k, whole: true }) = &block.head_norms {
            tape.qkv[0] = self.norm(q, &tape.unnormed[0])?;
            tape.qkv[1] = self.norm(k, &tape.unnormed[1])?;
        }
        tape.attended = vec![0f32; tape.qkv[0].len()];
        self.attend(layer, sequences, &mut tape)?;

        tape.projected = self.linear(&block.attention_output, &tape.attended)?;
        tape.sum = x.to_vec();
        match &block.attention_post_norm {
            Some(norm) => {
                let normed = self.norm(norm, &tape.projected)?;
                add(pool, &mut tape.sum, &normed);
            }
            None => add(pool, &mut tape.sum, &tape.projected),
        }
        (tape.middle, tape.network) = match config.block {
            BlockKind::PostNorm => {
                let middle = self.norm_if(block.attention_norm.as_ref(), &tape.sum)?;
                (middle.clone(), middle)
            }
            BlockKind::Sequential => (tape.sum.clone(), self.norm_if(block.network_norm(), &tape.sum)?),
            BlockKind::Parallel => (tape.sum.clone(), self.norm_if(block.network_norm(), x)?),
            BlockKind::OutputNorm => (tape.sum.clone(), tape.sum.clone()),
        };

        let Ffn::Dense { widen, down } = &block.ffn else { return Ok(tape) };
        for linear in widen.linears() {
            let made = self.linear(linear, &tape.network)?;
            tape.widened.push(made);
        }
        tape.wide = self.activate(widen, &tape.widened);
        if block.ffn_post_norm.is_some() || config.block == BlockKind::PostNorm {
            tape.narrowed = self.linear(down, &tape.wide)?;
        }
        Ok(tape)
    }

    /// Norms of heads, rotation and attention, sequence by sequence; queries and keys are overwritten.
    fn attend(&mut self, layer: usize, sequences: &[Range<usize>], tape: &mut Tape) -> Result<()> {
        let Self { model, executor, cache, angles } = self;
        let (config, block) = (&model.config, &model.weights.blocks[layer]);
        let shape = attention_shape(config, layer);
        let norms = block.head_norms.as_ref().and_then(HeadNorms::of_heads);
        let (query, key) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        for tokens in sequences {
            let [q, k, v] = &mut tape.qkv;
            let of = |width: usize| tokens.start * width..tokens.end * width;
            grow_queries(config, 0, query, query, &mut q[of(query)]);
            let heads = Heads::Separate {
                q: ValuesMut::Host(&mut q[of(query)]),
                k: ValuesMut::Host(&mut k[of(key)]),
                v: ValuesMut::Host(&mut v[of(key)]),
            };
            let (cos, sin) = angles_of(model, angles, layer, tokens.len());
            let (cos, sin) = (Values::Host(cos), Values::Host(sin));
            let (style, pairs) = (rope_style(config), model.rotation.pairs());
            let rotate = config.rotates(layer).then_some(Rotate { style, pairs, cos, sin });
            let out = ValuesMut::Host(&mut tape.attended[of(query)]);
            let sinks = block.sinks.as_ref();
            let attend = Attend { shape, slot: 0, first: 0, skip: 0, norms, rotate, sinks, heads, out };
            executor.attend(cache, attend)?;
        }
        Ok(())
    }

    /// The inputs of the down projection.
    fn activate(&self, widen: &Widen, widened: &[Vec<f32>]) -> Vec<f32> {
        let (pool, act) = (&self.model.pool, activation(&self.model.config));
        let (mut wide, up) = match (widen, widened) {
            (Widen::Gated { .. }, [gate, up]) => (gate.clone(), up.clone()),
            (Widen::Fused(_), [both]) => halves(self.model.config.ffn_size, both),
            (_, [plain]) => (plain.clone(), Vec::new()),
            _ => (Vec::new(), Vec::new()),
        };
        let part = part_of(pool, wide.len(), 1);
        if up.is_empty() {
            share(pool, wide.chunks_mut(part), |wide| ops::activate(pool.level(), act, wide));
        } else {
            let parts = wide.chunks_mut(part).zip(up.chunks(part));
            share(pool, parts, |(gate, up)| ops::activate_mul(pool.level(), act, gate, up));
        }
        wide
    }
}

/// Rows of gate and up, `width` numbers each, taken apart.
pub(super) fn halves(width: usize, both: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let mut apart = (Vec::with_capacity(both.len() / 2), Vec::with_capacity(both.len() / 2));
    for row in both.chunks_exact(2 * width) {
        apart.0.extend_from_slice(&row[..width]);
        apart.1.extend_from_slice(&row[width..]);
    }
    apart
}

/// Rows of gate and up put together.
pub(super) fn whole(width: usize, gate: &[f32], up: &[f32]) -> Vec<f32> {
    let rows = gate.chunks_exact(width).zip(up.chunks_exact(width));
    rows.flat_map(|(gate, up)| gate.iter().chain(up)).copied().collect()
}

/// How the outputs of a fused projection are arranged: for each piece, whether it is of the queries (0), keys (1) or values
/// (2), and its length.
fn pieces(config: &Config, by_group: bool) -> Vec<(usize, usize)> {
    let dim = config.head_dim;
    match by_group {
        false => {
            let (query, key) = (config.heads * dim, config.kv_heads * dim);
            vec![(0, query), (1, key), (2, key)]
        }
        true => {
            let own = config.heads / config.kv_heads * dim;
            (0..config.kv_heads).flat_map(|_| [(0, own), (1, dim), (2, dim)]).collect()
        }
    }
}

/// Queries, keys and values of a fused projection's outputs.
fn split(config: &Config, by_group: bool, joined: &[f32]) -> [Vec<f32>; 3] {
    let pieces = pieces(config, by_group);
    let width = pieces.iter().map(|(_, length)| length).sum();
    let mut apart: [Vec<f32>; 3] = Default::default();
    for mut row in joined.chunks_exact(width) {
        for &(which, length) in &pieces {
            let (piece, rest) = row.split_at(length);
            apart[which].extend_from_slice(piece);
            row = rest;
        }
    }
    apart
}

/// The reverse of [`split`], for gradients.
pub(super) fn join(config: &Config, by_group: bool, apart: &[Vec<f32>; 3]) -> Vec<f32> {
    let pieces = pieces(config, by_group);
    let mut rest = apart.each_ref().map(Vec::as_slice);
    let mut joined = Vec::with_capacity(apart.iter().map(Vec::len).sum());
    while !rest[0].is_empty() {
        for &(which, length) in &pieces {
            let (piece, later) = rest[which].split_at(length);
            joined.extend_from_slice(piece);
            rest[which] = later;
        }
    }
    joined
}
