//! Norms, sums and activation functions of rows, divided among the threads.

use super::Executor;
use crate::error::same;
use crate::executor::{Norm, NormKind, Values, ValuesMut};
use crate::ops::{self, Activation, Xielu};
use crate::parallel::{part_of, share};
use crate::simd::Level;
use crate::{Pool, Result};

/// `out = norm(x)` for whole rows, on this thread.
fn norm_rows(level: Level, norm: &HostNorm<'_>, x: &[f32], out: &mut [f32]) {
    match norm.kind {
        NormKind::Layer => ops::layer_norm(level, x, norm.weight, norm.bias, norm.epsilon, out),
        NormKind::Rms => ops::rms_norm(level, x, norm.weight, norm.epsilon, out),
    }
}

/// A norm whose parameters are in RAM.
struct HostNorm<'a> {
    kind: NormKind,
    epsilon: f32,
    weight: &'a [f32],
    bias: Option<&'a [f32]>,
}

impl<'a> HostNorm<'a> {
    fn of(norm: &'a Norm) -> Result<Self> {
        let bias = norm.bias.as_ref().map(|bias| bias.host()).transpose()?;
        Ok(Self { kind: norm.kind, epsilon: norm.epsilon, weight: norm.weight.host()?, bias })
    }
}

/// `out = norm(x)`, row by row.
pub(super) fn norm(pool: &Pool, norm: &Norm, x: &[f32], out: &mut [f32]) -> Result<()> {
    let norm = HostNorm::of(norm)?;
    same("norm: output", x.len(), out.len())?;
    let part = part_of(pool, x.len(), norm.weight.len());
    let parts = x.chunks(part).zip(out.chunks_mut(part));
    share(pool, parts, |(x, out)| norm_rows(pool.level(), &norm, x, out));
    Ok(())
}

/// `x = norm(x)` for the first numbers of rows that are `stride` long.
fn norm_fronts(pool: &Pool, norm: &Norm, x: &mut [f32], stride: usize) -> Result<()> {
    let norm = HostNorm::of(norm)?;
    let width = norm.weight.len();
    let part = part_of(pool, x.len(), stride);
    share(pool, x.chunks_mut(part), |part| {
        let mut own = vec![0.0; width];
        for row in part.chunks_exact_mut(stride) {
            own.copy_from_slice(&row[..width]);
            norm_rows(pool.level(), &norm, &own, &mut row[..width]);
        }
    });
    Ok(())
}

/// `x = norm(x)` for each head of `[n][heads][head_dim]`: one weight for all heads, or one for each.
pub(super) fn norm_heads(
    pool: &Pool,
    norm: &Norm,
    heads: usize,
    head_dim: usize,
    x: &mut [f32],
) -> Result<()> {
    let HostNorm { kind, epsilon, weight, .. } = HostNorm::of(norm)?;
    let level = pool.level();
    each_part(pool, x, heads * head_dim, |part| {
        let mut out = vec![0.0; head_dim];
        for row in part.chunks_exact_mut(heads * head_dim) {
            let weights = weight.chunks_exact(head_dim).cycle();
            for (head, weight) in row.chunks_exact_mut(head_dim).zip(weights) {
                norm_rows(level, &HostNorm { kind, epsilon, weight, bias: None }, head, &mut out);
                head.copy_from_slice(&out);
            }
        }
    });
    Ok(())
}

/// `x += y`.
pub(super) fn add(pool: &Pool, width: usize, x: &mut [f32], y: &[f32]) {
    let part = part_of(pool, x.len(), width);
    share(pool, x.chunks_mut(part).zip(y.chunks(part)), |(x, y)| ops::add(pool.level(), x, y));
}

/// `gate = act(gate) * up`.
pub(super) fn gate(pool: &Pool, act: Activation, width: usize, gate: &mut [f32], up: &[f32]) {
    let part = part_of(pool, gate.len(), width);
    let parts = gate.chunks_mut(part).zip(up.chunks(part));
    share(pool, parts, |(gate, up)| ops::activate_mul(pool.level(), act, gate, up));
}

/// `out = act(gate) * up` for rows that hold both, the gate first; `width` values of each.
pub(super) fn gate_halves(pool: &Pool, act: Activation, width: usize, both: &[f32], out: &mut [f32]) {
    let part = part_of(pool, out.len(), width);
    share(pool, out.chunks_mut(part).zip(both.chunks(2 * part)), |(out, both)| {
        for (out, both) in out.chunks_exact_mut(width).zip(both.chunks_exact(2 * width)) {
            out.copy_from_slice(&both[..width]);
            ops::activate_mul(pool.level(), act, out, &both[width..]);
        }
    });
}

/// Calls `body` for parts of whole rows, on all threads.
pub(super) fn each_part(pool: &Pool, x: &mut [f32], width: usize, body: impl Fn(&mut [f32]) + Sync) {
    let part = part_of(pool, x.len(), width);
    share(pool, x.chunks_mut(part), body);
}

impl Executor {
    pub fn norm_fronts(&mut self, norm: &Norm, x: ValuesMut<'_>, stride: usize) -> Result<()> {
        let x = x.host()?;
        same("norm: whole rows", x.len() % stride.max(1), 0)?;
        same("norm: numbers of a row", norm.weight.len().min(stride), norm.weight.len())?;
        norm_fronts(&self.pool, norm, x, stride)
    }

    pub fn copy_fronts(
        &mut self,
        from: Values<'_>,
        stride: usize,
        to: ValuesMut<'_>,
        width: usize,
    ) -> Result<()> {
        let rows = from.host()?.chunks(stride).zip(to.host()?.chunks_exact_mut(width));
        rows.for_each(|(row, to)| to.copy_from_slice(&row[..width]));
        Ok(())
    }

    pub fn xielu(&mut self, x: ValuesMut<'_>, width: usize, function: Xielu) -> Result<()> {
        each_part(&self.pool, x.host()?, width, |part| function.apply(part));
        Ok(())
    }

    pub fn norm(&mut self, parameters: &Norm, x: Values<'_>, out: ValuesMut<'_>) -> Result<()> {
        norm(&self.pool, parameters, x.host()?, out.host()?)
    }

    pub fn norm_in_place(&mut self, norm: &Norm, x: ValuesMut<'_>) -> Result<()> {
        let norm = HostNorm::of(norm)?;
        let (pool, width) = (&self.pool, norm.weight.len());
        each_part(pool, x.host()?, width, |part| {
            let mut row = vec![0.0; width];
            for x in part.chunks_exact_mut(width) {
                norm_rows(pool.level(), &norm, x, &mut row);
                x.copy_from_slice(&row);
            }
        });
        Ok(())
    }

    pub fn add(&mut self, x: ValuesMut<'_>, y: Values<'_>) -> Result<()> {
        let (x, y) = (x.host()?, y.host()?);
        same("add: second", x.len(), y.len())?;
        add(&self.pool, 1, x, y);
        Ok(())
    }

    pub fn add_normed(&mut self, x: ValuesMut<'_>, norm: &Norm, mut y: ValuesMut<'_>) -> Result<()> {
        self.norm_in_place(norm, y.reborrow())?;
        self.add(x, y.as_values())
    }

    pub fn softcap(&mut self, x: ValuesMut<'_>, width: usize, cap: f32) -> Result<()> {
        let pool = &self.pool;
        each_part(pool, x.host()?, width, |part| {
            part.chunks_exact_mut(width).for_each(|row| ops::softcap(pool.level(), row, cap));
        });
        Ok(())
    }
}
