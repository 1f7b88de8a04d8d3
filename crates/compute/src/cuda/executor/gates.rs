//! Gates of mixers, and rows that are taken apart for them.

use super::super::args::NormArgs;
use super::super::mixer_args::{GatesArgs, PartArgs};
use super::super::{Pointer, Region};
use super::rows::{norm_kind, parameters};
use super::{Executor, Geometry};
use crate::Result;
use crate::error::same;
use crate::executor::mixers::SplitGates;
use crate::executor::{Norm, Values, ValuesMut, Vector};

/// Rows that are gated and normalized, `groups` of `width` numbers each.
pub(super) struct Gated<'a> {
    pub norm: &'a Norm,
    pub x: Pointer,
    pub gate: (Pointer, usize),
    pub out: Pointer,
    pub rows: usize,
    pub groups: usize,
    pub width: usize,
    /// The gate comes before the norm.
    pub first: bool,
}

impl Executor {
    /// Address of a vector on this card.
    pub(super) fn address(&self, vector: &Vector) -> Result<u64> {
        Ok(Region::on(vector.cuda()?, &self.card)?.pointer().address())
    }

    /// As [`crate::Executor::put`].
    ///
    /// # Errors
    /// The card is lost.
    pub fn put(&mut self, from: &[f32], to: ValuesMut<'_>) -> Result<()> {
        if let Some((memory, offset)) = to.cuda()?.place() {
            // SAFETY: an f32 may be read as bytes.
            let (_, bytes, _) = unsafe { from.align_to::<u8>() };
            self.stream.upload(memory, offset, bytes)?;
        }
        Ok(())
    }

    /// As [`crate::Executor::norm_fronts`].
    ///
    /// # Errors
    /// Lengths and devices that do not fit.
    pub fn norm_fronts(&mut self, norm: &Norm, x: ValuesMut<'_>, stride: usize) -> Result<()> {
        let x = x.cuda()?;
        let width = norm.weight.len();
        let rows = x.len() / stride.max(1);
        same("norm: whole rows", rows * stride, x.len())?;
        same("norm: numbers of a row", width.min(stride), width)?;
        if rows == 0 {
            return Ok(());
        }
        let (weight, bias) = parameters(norm)?;
        let arguments = NormArgs {
            x: x.pointer().address(),
            weight: weight.on(&self.card)?.pointer().address(),
            bias: bias.address(),
            out: x.pointer().address(),
            n: rows as i32,
            width: width as i32,
            stride: stride as i32,
            out_stride: stride as i32,
            kind: norm_kind(norm),
            heads: 1,
            weight_stride: 0,
            eps: norm.epsilon,
        };
        let geometry = Geometry { block: 1024, ..Geometry::rows([rows as u32, 1, 1]) };
        // SAFETY: rows are at least as long as the norm.
        unsafe { self.launch("rows", "rows_norm", geometry, &arguments) }
    }

    /// As [`crate::Executor::copy_fronts`].
    ///
    /// # Errors
    /// Lengths and devices that do not fit.
    pub fn copy_fronts(
        &mut self,
        from: Values<'_>,
        stride: usize,
        to: ValuesMut<'_>,
        width: usize,
    ) -> Result<()> {
        let (from, to) = (from.cuda()?, to.cuda()?);
        let rows = to.len() / width.max(1);
        let arguments = PartArgs {
            x: from.pointer().address(),
            out: to.pointer().address(),
            n: rows as i32,
            width: width as i32,
            x_stride: stride as i32,
            out_stride: width as i32,
            ..PartArgs::default()
        };
        let geometry = Geometry::rows([width.div_ceil(1024) as u32, rows as u32, 1]);
        // SAFETY: the caller has checked the lengths.
        unsafe { self.launch("gates", "gates_front", geometry, &arguments) }
    }

    /// As [`crate::Executor::split_gates`].
    ///
    /// # Errors
    /// Lengths and devices that do not fit.
    pub fn split_gates(&mut self, split: SplitGates<'_>) -> Result<()> {
        let SplitGates { both, head_dim, heads, rest, out, gates } = split;
        let (both, out, gates) = (both.cuda()?, out.cuda()?, gates.cuda()?);
        let query = heads * head_dim;
        let n = gates.len() / query.max(1);
        let width = 2 * query + rest;
        same("gates: rows", n * width, both.len())?;
        same("gates: output", n * (query + rest), out.len())?;
        if n == 0 {
            return Ok(());
        }
        let arguments = PartArgs {
            x: both.pointer().address(),
            out: out.pointer().address(),
            gates: gates.pointer().address(),
            n: n as i32,
            width: width as i32,
            x_stride: width as i32,
            out_stride: (query + rest) as i32,
            query: query as i32,
            dim: head_dim as i32,
        };
        let geometry = Geometry::rows([width.div_ceil(1024) as u32, n as u32, 1]);
        // SAFETY: all are rows of these lengths.
        unsafe { self.launch("gates", "gates_part", geometry, &arguments) }
    }

    /// As [`crate::Executor::sigmoid_gate`].
    ///
    /// # Errors
    /// Lengths and devices that do not fit.
    pub fn sigmoid_gate(&mut self, x: ValuesMut<'_>, gate: Values<'_>) -> Result<()> {
        const ROW: usize = 1024;
        let (x, gate) = (x.cuda()?, gate.cuda()?);
        same("gate: length", x.len(), gate.len())?;
        let mut first = 0;
        while first < x.len() {
            // Whole rows, as many as a grid has, then what is left.
            let (n, width) = match (x.len() - first) / ROW {
                0 => (1, x.len() - first),
                rows => (rows.min(1 << 15), ROW),
            };
            let arguments = GatesArgs {
                gate: gate.pointer().at(4 * first).address(),
                out: x.pointer().at(4 * first).address(),
                n: n as i32,
                width: width as i32,
                gate_stride: width as i32,
                out_stride: width as i32,
                ..GatesArgs::default()
            };
            let geometry = Geometry::rows([1, n as u32, 1]);
            // SAFETY: both have as many numbers.
            unsafe { self.launch("gates", "gates_sigmoid", geometry, &arguments)? };
            first += n * width;
        }
        Ok(())
    }

    /// Norms of groups of rows, gated before or behind.
    pub(super) fn gated_norms(&mut self, gated: &Gated<'_>) -> Result<()> {
        let &Gated { norm, x, gate: (gate, gate_stride), out, rows, groups, width, first } = gated;
        if rows == 0 {
            return Ok(());
        }
        let stride = groups * width;
        // One weight for all groups, or one for each.
        let weight_stride = if norm.weight.len() > width { width } else { 0 };
        same("gated norm: weight", if weight_stride > 0 { stride } else { width }, norm.weight.len())?;
        let arguments = GatesArgs {
            x: x.address(),
            gate: gate.address(),
            weight: self.address(&norm.weight)?,
            out: out.address(),
            n: rows as i32,
            width: width as i32,
            x_stride: stride as i32,
            gate_stride: gate_stride as i32,
            out_stride: stride as i32,
            weight_stride: weight_stride as i32,
            eps: norm.epsilon,
            unused: 0,
        };
        let kernel = if first { "gates_gated_norm" } else { "gates_norm" };
        let geometry = Geometry { grid: [rows as u32, groups as u32, 1], block: 128, shared: 0 };
        // SAFETY: the callers give rows of these lengths.
        unsafe { self.launch("gates", kernel, geometry, &arguments) }
    }
}
