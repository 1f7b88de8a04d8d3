//! Operations on rows.

use super::super::args::{AddNormArgs, MapArgs, NormArgs, XieluArgs};
use super::super::formats::MatvecPrologue;
use super::super::{Pointer, Region};
use super::linear::Target;
use super::{Executor, Geometry};
use crate::Result;
use crate::error::same;
use crate::executor::{Norm, NormKind, Values, ValuesMut, Vector};
use crate::ops::{Activation, Xielu};

/// The number of an activation function in `rows.cu`.
pub(super) fn activation(act: Activation) -> i32 {
    match act {
        Activation::Silu => 0,
        Activation::Gelu => 1,
        Activation::GeluTanh => 2,
        Activation::Relu => 3,
        Activation::ReluSquared => 5,
        Activation::ClampedSwiglu => 4,
    }
}

/// The number of a norm in the kernels; 0 is none.
pub(super) fn norm_kind(norm: &Norm) -> i32 {
    (match norm.kind {
        NormKind::Rms => MatvecPrologue::RmsNorm,
        NormKind::Layer => MatvecPrologue::LayerNorm,
    }) as i32
}

/// Weight and bias of a norm.
pub(super) fn parameters(norm: &Norm) -> Result<(&Region, Pointer)> {
    let bias = norm.bias.as_ref().map(Vector::cuda).transpose()?;
    Ok((norm.weight.cuda()?, bias.map_or(Pointer::NULL, Region::pointer)))
}

impl Executor {
    /// Queues a kernel that works number by number.
    fn map(&mut self, kernel: &'static str, arguments: MapArgs) -> Result<()> {
        let blocks = (arguments.width as u32).div_ceil(1024);
        let geometry = Geometry::rows([blocks, arguments.n as u32, 1]);
        // SAFETY: the callers give rows of values that were checked.
        unsafe { self.launch("rows", kernel, geometry, &arguments) }
    }

    /// `out = norm(x)` for rows at these addresses.
    pub(super) fn norm_rows(&mut self, norm: &Norm, x: Pointer, out: Pointer, rows: usize) -> Result<()> {
        let (weight, bias) = parameters(norm)?;
        let width = norm.weight.len() as i32;
        let arguments = NormArgs {
            x: x.address(),
            weight: weight.on(&self.card)?.pointer().address(),
            bias: bias.address(),
            out: out.address(),
            n: rows as i32,
            width,
            stride: width,
            out_stride: width,
            kind: norm_kind(norm),
            heads: 1,
            weight_stride: 0,
            eps: norm.epsilon,
        };
        let geometry = Geometry { block: 1024, ..Geometry::rows([rows as u32, 1, 1]) };
        // SAFETY: the callers give whole rows of the norm's width.
        unsafe { self.launch("rows", "rows_norm", geometry, &arguments) }
    }

    /// As [`crate::Executor::norm`].
    ///
    /// # Errors
    /// Lengths and devices that do not fit.
    pub fn norm(&mut self, norm: &Norm, x: Values<'_>, out: ValuesMut<'_>) -> Result<()> {
        let (x, out) = (x.cuda()?, out.cuda()?);
        let rows = x.len() / norm.weight.len().max(1);
        same("norm: whole rows", rows * norm.weight.len(), x.len())?;
        same("norm: output", x.len(), out.len())?;
        if rows == 0 { Ok(()) } else { self.norm_rows(norm, x.pointer(), out.pointer(), rows) }
    }

    /// As [`crate::Executor::norm_in_place`].
    ///
    /// # Errors
    /// Lengths and devices that do not fit.
    pub fn norm_in_place(&mut self, norm: &Norm, x: ValuesMut<'_>) -> Result<()> {
        let x = x.cuda()?;
        self.norm(norm, Values::Cuda(x), ValuesMut::Cuda(x))
    }

    /// As [`crate::Executor::add`].
    ///
    /// # Errors
    /// Lengths and devices that do not fit.
    pub fn add(&mut self, x: ValuesMut<'_>, y: Values<'_>) -> Result<()> {
        let (x, y) = (x.cuda()?, y.cuda()?);
        same("add: second", x.len(), y.len())?;
        self.flat("rows_add", x.pointer(), y.pointer(), x.len(), 0.0)
    }

    /// As [`crate::Executor::add_normed`].
    ///
    /// # Errors
    /// Lengths and devices that do not fit.
    pub fn add_normed(&mut self, x: ValuesMut<'_>, norm: &Norm, y: ValuesMut<'_>) -> Result<()> {
        let (x, y) = (x.cuda()?, y.cuda()?);
        let width = norm.weight.len();
        let rows = x.len() / width.max(1);
        same("add_normed: whole rows", rows * width, x.len())?;
        same("add_normed: second", x.len(), y.len())?;
        if rows == 0 {
            return Ok(());
        }
        let (weight, bias) = parameters(norm)?;
        let arguments = AddNormArgs {
            x: x.pointer().address(),
            y: y.pointer().address(),
            y_weight: weight.on(&self.card)?.pointer().address(),
            y_bias: bias.address(),
            n: rows as i32,
            width: width as i32,
            kind: norm_kind(norm),
            eps: norm.epsilon,
            ..AddNormArgs::default()
        };
        let geometry = Geometry { block: 1024, ..Geometry::rows([rows as u32, 1, 1]) };
        // SAFETY: both are whole rows of the norm's width.
        unsafe { self.launch("rows", "rows_add_norm", geometry, &arguments) }
    }

    /// As [`crate::Executor::copy`].
    ///
    /// # Errors
    /// Lengths and devices that do not fit.
    pub fn copy(&mut self, from: Values<'_>, to: ValuesMut<'_>) -> Result<()> {
        let (from, to) = (from.cuda()?, to.cuda()?);
        same("copy: length", from.len(), to.len())?;
        match (to.place(), from.place()) {
            (Some(to), Some(source)) => Ok(self.stream.copy(to, source, 4 * from.len())?),
            _ => Ok(()),
        }
    }

    /// As [`crate::Executor::clear`].
    ///
    /// # Errors
    /// Values that are on another device.
    pub fn clear(&mut self, x: ValuesMut<'_>) -> Result<()> {
        let x = x.cuda()?;
        match x.place() {
            Some((memory, offset)) => Ok(self.stream.fill(memory, offset, 4 * x.len(), 0)?),
            None => Ok(()),
        }
    }

    /// As [`crate::Executor::softcap`].
    ///
    /// # Errors
    /// Lengths and devices that do not fit.
    pub fn softcap(&mut self, x: ValuesMut<'_>, _width: usize, cap: f32) -> Result<()> {
        let x = x.cuda()?;
        self.flat("rows_softcap", x.pointer(), Pointer::NULL, x.len(), cap)
    }

    /// A kernel over all numbers, as rows of a length that grids allow.
    pub(super) fn flat(
        &mut self,
        kernel: &'static str,
        x: Pointer,
        y: Pointer,
        length: usize,
        value: f32,
    ) -> Result<()> {
        const ROW: usize = 1 << 20;
        let mut first = 0;
        while first < length {
            // Whole rows, then what is left.
            let (n, width) = match (length - first) / ROW {
                0 => (1, length - first),
                rows => (rows.min(1 << 15), ROW),
            };
            let at = |p: Pointer| if p == Pointer::NULL { 0 } else { p.at(4 * first).address() };
            let stride = width as i32;
            let arguments = MapArgs {
                x: at(x),
                y: at(y),
                n: n as i32,
                width: stride,
                x_stride: stride,
                y_stride: stride,
                value,
                ..MapArgs::default()
            };
            self.map(kernel, arguments)?;
            first += n * width;
        }
        Ok(())
    }

    /// As [`crate::Executor::xielu`].
    ///
    /// # Errors
    /// Lengths and devices that do not fit.
    pub fn xielu(&mut self, x: ValuesMut<'_>, width: usize, function: Xielu) -> Result<()> {
        const ROWS: usize = 1 << 15;
        let x = x.cuda()?;
        let rows = x.len() / width.max(1);
        same("xielu: whole rows", rows * width, x.len())?;
        let Xielu { positive, negative, beta, eps } = function;
        for first in (0..rows).step_by(ROWS) {
            let n = ROWS.min(rows - first);
            let address = x.pointer().at(4 * first * width).address();
            let (n, width) = (n as i32, width as i32);
            let arguments = XieluArgs { x: address, n, width, positive, negative, beta, eps };
            let geometry = Geometry::rows([(width as u32).div_ceil(1024), n as u32, 1]);
            // SAFETY: the values are whole rows of this width.
            unsafe { self.launch("rows", "rows_xielu", geometry, &arguments)? };
        }
        Ok(())
    }

    /// `x = act(x)` for rows of `width` values, `stride` apart.
    pub(super) fn activate(&mut self, act: Activation, rows: usize, width: usize, x: Target) -> Result<()> {
        let arguments = MapArgs {
            x: x.out.address(),
            n: rows as i32,
            width: width as i32,
            x_stride: x.stride as i32,
            activation: activation(act),
            ..MapArgs::default()
        };
        self.map("rows_activate", arguments)
    }

    /// `out = act(gate) * up` for rows that hold both, the gate first.
    pub(super) fn activate_mul(
        &mut self,
        act: Activation,
        rows: usize,
        out: Target,
        both: Target,
    ) -> Result<()> {
        let width = out.stride;
        let arguments = MapArgs {
            x: out.out.address(),
            y: both.out.address(),
            z: both.out.at(4 * width).address(),
            n: rows as i32,
            width: width as i32,
            x_stride: out.stride as i32,
            y_stride: both.stride as i32,
            z_stride: both.stride as i32,
            activation: activation(act),
            ..MapArgs::default()
        };
        self.map("rows_activate_mul", arguments)
    }

    /// `to[i][j] = from[i][order[j]]` for rows of `width` values.
    pub(super) fn permute(
        &mut self,
        order: Pointer,
        rows: usize,
        width: usize,
        from: Pointer,
        to: Pointer,
    ) -> Result<()> {
        let stride = width as i32;
        let arguments = MapArgs {
            x: to.address(),
            y: from.address(),
            order: order.address(),
            n: rows as i32,
            width: stride,
            x_stride: stride,
            y_stride: stride,
            ..MapArgs::default()
        };
        self.map("rows_permute", arguments)
    }
}
