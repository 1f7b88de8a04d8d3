//! What gradients need beside the forward pass and attention: launches of kernels/gradients.cu.

use super::super::Pointer;
use super::super::gradient_args::{ColumnsMoveArgs, GateArgs, HeadNormArgs, RotateArgs};
use super::linear::{Source, Target, Then};
use super::rows::{activation, norm_kind};
use super::sums::{Rows, Sum};
use super::{Executor, Geometry};
use crate::error::same;
use crate::executor::{Columns, Linear, Norm, Turn, Values, ValuesMut};
use crate::ops::{Activation, RopeStyle};
use crate::{Error, Result};

/// Numbers that a layer makes of unit vectors at a time.
const UNITS: usize = 1 << 25;

/// Blocks of 256 threads for so many numbers.
fn flat(length: usize) -> Geometry {
    Geometry::rows([length.div_ceil(1024).min(1 << 16) as u32, 1, 1])
}

impl Executor {
    fn norm_of_heads(
        &mut self,
        kernel: &'static str,
        (norm, dim): (&Norm, usize),
        x: Values<'_>,
        d: Option<Values<'_>>,
    ) -> Result<()> {
        let x = self.own(x)?;
        let d = d.map(|d| self.own(d)).transpose()?;
        let (rows, weights) = (x.len() / dim.max(1), norm.weight.len() / dim.max(1));
        same("head norm: whole rows", rows * dim, x.len())?;
        same("head norm: whole weights", weights * dim, norm.weight.len())?;
        same("head norm: gradients", x.len(), d.map_or(x.len(), |d| d.len()))?;
        if rows == 0 || weights == 0 {
            return Ok(());
        }
        let arguments = HeadNormArgs {
            x: x.pointer().address(),
            weight: norm.weight.cuda()?.on(&self.card)?.pointer().address(),
            d: d.map_or(0, |d| d.pointer().address()),
            dim: dim as i32,
            weights: weights as i32,
            kind: norm_kind(norm),
            eps: norm.epsilon,
        };
        // SAFETY: whole rows of these lengths, and whole weights.
        unsafe { self.launch("gradients", kernel, Geometry::rows([rows as u32, 1, 1]), &arguments) }
    }

    /// As [`crate::Executor::head_norm`].
    ///
    /// # Errors
    /// Lengths and devices that do not fit.
    pub fn head_norm(&mut self, norm: &Norm, dim: usize, x: ValuesMut<'_>) -> Result<()> {
        self.norm_of_heads("gradients_head_norm", (norm, dim), x.as_values(), None)
    }

    /// As [`crate::Executor::norm_backward`].
    ///
    /// # Errors
    /// Lengths and devices that do not fit.
    pub fn norm_backward(&mut self, norm: &Norm, dim: usize, x: Values<'_>, d: ValuesMut<'_>) -> Result<()> {
        self.norm_of_heads("gradients_norm", (norm, dim), x, Some(d.as_values()))
    }

    /// A kernel over the numbers of these, of equal lengths.
    fn gates(
        &mut self,
        kernel: &'static str,
        act: Activation,
        gate: Values<'_>,
        (up, d): (Option<Values<'_>>, Option<Values<'_>>),
    ) -> Result<()> {
        if act == Activation::ClampedSwiglu {
            return Err(Error::NoGpuKernel { what: "gradients of the clamped SwiGLU" });
        }
        let gate = self.own(gate)?;
        let of = |values: Option<Values<'_>>| -> Result<u64> {
            let Some(values) = values else { return Ok(0) };
            let values = self.own(values)?;
            same("activation: lengths", gate.len(), values.len())?;
            Ok(values.pointer().address())
        };
        let (up, d) = (of(up)?, of(d)?);
        if gate.is_empty() {
            return Ok(());
        }
        let arguments = GateArgs {
            gate: gate.pointer().address(),
            up,
            d,
            length: gate.len() as i64,
            activation: activation(act),
            unused: 0,
        };
        // SAFETY: all have this length.
        unsafe { self.launch("gradients", kernel, flat(gate.len()), &arguments) }
    }

    /// As [`crate::Executor::activate`].
    ///
    /// # Errors
    /// Lengths and devices that do not fit.
    pub fn activate_all(&mut self, act: Activation, x: ValuesMut<'_>) -> Result<()> {
        self.gates("gradients_activate", act, x.as_values(), (None, None))
    }

    /// As [`crate::Executor::gate`].
    ///
    /// # Errors
    /// Lengths and devices that do not fit.
    pub fn gate_all(&mut self, act: Activation, gate: ValuesMut<'_>, up: Values<'_>) -> Result<()> {
        self.gates("gradients_gate", act, gate.as_values(), (Some(up), None))
    }

    /// As [`crate::Executor::activate_backward`].
    ///
    /// # Errors
    /// Lengths and devices that do not fit.
    pub fn activate_backward(&mut self, act: Activation, x: ValuesMut<'_>, d: Values<'_>) -> Result<()> {
        self.gates("gradients_activated", act, x.as_values(), (None, Some(d)))
    }

    /// As [`crate::Executor::gate_backward`].
    ///
    /// # Errors
    /// Lengths and devices that do not fit.
    pub fn gate_backward(
        &mut self,
        act: Activation,
        gate: ValuesMut<'_>,
        up: ValuesMut<'_>,
        d: Values<'_>,
    ) -> Result<()> {
        self.gates("gradients_gated", act, gate.as_values(), (Some(up.as_values()), Some(d)))
    }

    /// As [`crate::Executor::rotate`].
    ///
    /// # Errors
    /// Lengths and devices that do not fit.
    pub fn rotate(&mut self, turn: Turn<'_>, (heads, dim): (usize, usize), x: ValuesMut<'_>) -> Result<()> {
        let Turn { style, pairs, cos, sin, back } = turn;
        let (x, cos, sin) = (self.own(x.as_values())?, self.own(cos)?, self.own(sin)?);
        let rows = x.len() / (heads * dim).max(1);
        same("rotate: whole rows", rows * heads * dim, x.len())?;
        same("rotate: cosines", rows * pairs, cos.len())?;
        same("rotate: sines", rows * pairs, sin.len())?;
        if rows * pairs == 0 {
            return Ok(());
        }
        if 2 * pairs > dim {
            return Err(Error::Lengths { what: "rotate: values of a head", expected: 2 * pairs, found: dim });
        }
        let arguments = RotateArgs {
            x: x.pointer().address(),
            cos: cos.pointer().address(),
            sin: sin.pointer().address(),
            rows: rows as i32,
            heads: heads as i32,
            dim: dim as i32,
            pairs: pairs as i32,
            interleaved: match style {
                RopeStyle::HalfSplit => 0,
                RopeStyle::Interleaved => 1,
            },
            sign: if back { -1.0 } else { 1.0 },
        };
        // SAFETY: the lengths were checked.
        unsafe { self.launch("gradients", "gradients_rotate", flat(rows * heads * pairs), &arguments) }
    }

    /// As [`crate::Executor::copy_columns`].
    ///
    /// # Errors
    /// Lengths and devices that do not fit.
    pub fn copy_columns(
        &mut self,
        width: usize,
        (from, at): (Values<'_>, Columns),
        (to, to_at): (ValuesMut<'_>, Columns),
    ) -> Result<()> {
        let (from, to) = (self.own(from)?, self.own(to.as_values())?);
        let rows = Columns::check(width, (from.len(), at), (to.len(), to_at))?;
        if rows * width == 0 {
            return Ok(());
        }
        let arguments = ColumnsMoveArgs {
            from: from.pointer().at(4 * at.first).address(),
            to: to.pointer().at(4 * to_at.first).address(),
            from_stride: at.of as i64,
            to_stride: to_at.of as i64,
            rows: rows as i32,
            width: width as i32,
            ..ColumnsMoveArgs::default()
        };
        // SAFETY: both have so many rows, and these columns.
        unsafe { self.launch("gradients", "gradients_columns", flat(rows * width), &arguments) }
    }

    /// `to[j][i] = from[i][j]` for rows of `width` numbers; rows of `to` are `stride` apart.
    fn transpose(
        &mut self,
        from: Pointer,
        to: Pointer,
        (rows, width): (usize, usize),
        stride: usize,
    ) -> Result<()> {
        let arguments = ColumnsMoveArgs {
            from: from.address(),
            to: to.address(),
            from_stride: width as i64,
            to_stride: stride as i64,
            rows: rows as i32,
            width: width as i32,
            ..ColumnsMoveArgs::default()
        };
        let geometry = Geometry::rows([width.div_ceil(32) as u32, rows.div_ceil(32) as u32, 1]);
        // SAFETY: the callers give memory for both.
        unsafe { self.launch("gradients", "gradients_transpose", geometry, &arguments) }
    }

    /// As [`crate::Executor::weight`].
    ///
    /// # Errors
    /// Lengths and devices that do not fit.
    pub fn weight(&mut self, linear: &Linear, out: ValuesMut<'_>) -> Result<()> {
        let out = self.own(out.as_values())?;
        let (rows, columns) = (linear.weight.rows(), linear.weight.columns());
        same("weight: output", rows * columns, out.len())?;
        linear.weight.cuda()?.on(&self.card)?;
        let bare = Linear { bias: None, ..linear.clone() };
        let step = (UNITS / rows.max(columns).max(1)).clamp(16, 2048).min(columns);
        for first in (0..columns).step_by(step.max(1)) {
            let count = step.min(columns - first);
            let units = self.workspace.vectors[0].of(&self.stream, 4 * step * columns)?;
            let made = self.workspace.vectors[1].of(&self.stream, 4 * step * rows)?;
            let arguments = ColumnsMoveArgs {
                to: units.address(),
                to_stride: columns as i64,
                rows: count as i32,
                width: columns as i32,
                first: first as i32,
                ..ColumnsMoveArgs::default()
            };
            // SAFETY: there is room for so many rows.
            unsafe { self.launch("gradients", "gradients_units", flat(count * columns), &arguments)? };
            let source = Source { x: units, norm: None, tokens: count };
            self.joined(&[&bare], source, Target { out: made, stride: rows }, Then::Store)?;
            self.transpose(made, out.pointer().at(4 * first), (count, rows), columns)?;
        }
        Ok(())
    }

    /// As [`crate::Executor::add_backward`].
    ///
    /// # Errors
    /// Lengths and devices that do not fit.
    pub fn add_backward(
        &mut self,
        (weight, columns): (Values<'_>, usize),
        d: Values<'_>,
        to: ValuesMut<'_>,
    ) -> Result<()> {
        let (weight, d, to) = (self.own(weight)?, self.own(d)?, self.own(to.as_values())?);
        let rows = weight.len() / columns.max(1);
        let tokens = d.len() / rows.max(1);
        same("linear backward: whole rows of the weight", rows * columns, weight.len())?;
        same("linear backward: whole rows of the gradients", tokens * rows, d.len())?;
        same("linear backward: output", tokens * columns, to.len())?;
        if tokens * columns == 0 {
            return Ok(());
        }
        let turned = self.workspace.vectors[0].of(&self.stream, 4 * d.len())?;
        self.transpose(d.pointer(), turned, (tokens, rows), tokens)?;
        let a = Rows { first: turned, columns: tokens };
        let b = Rows { first: weight.pointer(), columns };
        let sum = Sum { first: to.pointer(), rows: tokens, columns, triangle: false };
        self.products(a, Some(b), rows, sum)
    }
}
