//! Norms, functions and rotations backward, divided among the threads.

use super::Executor;
use super::rows::norm_heads;
use crate::Result;
use crate::error::same;
use crate::executor::gradients::{Columns, Turn};
use crate::executor::{Norm, NormKind, Values, ValuesMut};
use crate::ops::{self, Activation};
use crate::parallel::{part_of, share};

impl Executor {
    pub fn head_norm(&mut self, norm: &Norm, dim: usize, x: ValuesMut<'_>) -> Result<()> {
        let heads = norm.weight.len() / dim.max(1);
        norm_heads(&self.pool, norm, heads.max(1), dim, x.host()?)
    }

    pub fn norm_backward(&mut self, norm: &Norm, dim: usize, x: Values<'_>, d: ValuesMut<'_>) -> Result<()> {
        let (weight, eps) = (norm.weight.host()?, norm.epsilon);
        let (x, d) = (x.host()?, d.host()?);
        same("norm backward: gradients", x.len(), d.len())?;
        // One weight for all heads, or one for each.
        let part = part_of(&self.pool, x.len(), weight.len());
        share(&self.pool, x.chunks(part).zip(d.chunks_mut(part)), |(x, d)| {
            let rows = x.chunks_exact(dim).zip(d.chunks_exact_mut(dim));
            for ((x, d), weight) in rows.zip(weight.chunks_exact(dim).cycle()) {
                match norm.kind {
                    NormKind::Rms => ops::rms_norm_backward(x, weight, eps, d),
                    NormKind::Layer => ops::layer_norm_backward(x, weight, eps, d),
                }
            }
        });
        Ok(())
    }

    pub fn activate_all(&mut self, act: Activation, x: ValuesMut<'_>) -> Result<()> {
        let (pool, x) = (&self.pool, x.host()?);
        let part = part_of(pool, x.len(), 1);
        share(pool, x.chunks_mut(part), |x| ops::activate(pool.level(), act, x));
        Ok(())
    }

    pub fn gate_all(&mut self, act: Activation, gate: ValuesMut<'_>, up: Values<'_>) -> Result<()> {
        let (pool, gate, up) = (&self.pool, gate.host()?, up.host()?);
        same("gate: second", gate.len(), up.len())?;
        let part = part_of(pool, gate.len(), 1);
        let parts = gate.chunks_mut(part).zip(up.chunks(part));
        share(pool, parts, |(gate, up)| ops::activate_mul(pool.level(), act, gate, up));
        Ok(())
    }

    pub fn activate_backward(&mut self, act: Activation, x: ValuesMut<'_>, d: Values<'_>) -> Result<()> {
        let (pool, x, d) = (&self.pool, x.host()?, d.host()?);
        same("activate backward: gradients", x.len(), d.len())?;
        let part = part_of(pool, x.len(), 1);
        let parts = x.chunks_mut(part).zip(d.chunks(part));
        share(pool, parts, |(x, d)| ops::activate_backward(pool.level(), act, x, d));
        Ok(())
    }

    pub fn gate_backward(
        &mut self,
        act: Activation,
        gate: ValuesMut<'_>,
        up: ValuesMut<'_>,
        d: Values<'_>,
    ) -> Result<()> {
        let (pool, gate, up, d) = (&self.pool, gate.host()?, up.host()?, d.host()?);
        same("gate backward: second", gate.len(), up.len())?;
        same("gate backward: gradients", gate.len(), d.len())?;
        let part = part_of(pool, gate.len(), 1);
        let parts = gate.chunks_mut(part).zip(up.chunks_mut(part)).zip(d.chunks(part));
        share(pool, parts, |((gate, up), d)| ops::activate_mul_backward(pool.level(), act, gate, up, d));
        Ok(())
    }

    pub fn rotate(&mut self, turn: Turn<'_>, (heads, dim): (usize, usize), x: ValuesMut<'_>) -> Result<()> {
        let Turn { style, pairs, cos, sin, back } = turn;
        let (cos, sin, x) = (cos.host()?, sin.host()?, x.host()?);
        same("rotate: cosines", x.len() / (heads * dim).max(1) * pairs, cos.len())?;
        same("rotate: sines", cos.len(), sin.len())?;
        if !back {
            ops::rope(self.pool.level(), style, x, heads, dim, cos, sin);
            return Ok(());
        }
        let negated: Vec<f32> = sin.iter().map(|sin| -sin).collect();
        ops::rope(self.pool.level(), style, x, heads, dim, cos, &negated);
        Ok(())
    }

    pub fn copy_columns(
        &mut self,
        width: usize,
        (from, at): (Values<'_>, Columns),
        (to, to_at): (ValuesMut<'_>, Columns),
    ) -> Result<()> {
        let (from, to) = (from.host()?, to.host()?);
        Columns::check(width, (from.len(), at), (to.len(), to_at))?;
        for (from, to) in from.chunks_exact(at.of).zip(to.chunks_exact_mut(to_at.of)) {
            to[to_at.first..][..width].copy_from_slice(&from[at.first..][..width]);
        }
        Ok(())
    }
}
