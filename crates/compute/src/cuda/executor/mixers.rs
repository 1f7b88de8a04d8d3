//! Gates, convolutions and mixers with a state.

use super::super::args::NormArgs;
use super::super::mixer_args::{ConvolutionArgs, DeltaArgs, GatesArgs, PartArgs, ScanArgs};
use super::super::{Pointer, Region};
use super::rows::{norm_kind, parameters};
use super::{Executor, Geometry};
use crate::error::same;
use crate::executor::mixers::{Convolution, DeltaNet, DeltaRows, GatedConvolution, Mamba2, SplitGates};
use crate::executor::{MOST_GPU_STATE, MOST_GPU_TAPS, Norm, Values, ValuesMut, Vector};
use crate::{Error, Result};

/// Columns of a state that a block of the kernels takes.
const COLUMNS: usize = 32;

/// What a convolution reads and writes. Strides in numbers.
struct Convolve<'a> {
    conv: &'a Convolution,
    x: Pointer,
    /// What inputs and results are multiplied with.
    gates: Option<(Pointer, Pointer)>,
    x_stride: usize,
    state: Pointer,
    out: Pointer,
    out_stride: usize,
    tokens: usize,
    skip: usize,
    silu: bool,
}

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

    fn convolve(&mut self, convolve: &Convolve<'_>) -> Result<()> {
        let &Convolve { conv, x, gates, x_stride, state, out, out_stride, tokens, skip, silu } = convolve;
        let taps = conv.taps();
        if taps > MOST_GPU_TAPS {
            return Err(Error::NoGpuKernel { what: "a convolution over so many positions" });
        }
        let bias = conv.bias.as_ref();
        same("convolution: weight", taps * conv.channels, conv.weight.len())?;
        same("convolution: bias", conv.channels, bias.map_or(conv.channels, Vector::len))?;
        let arguments = ConvolutionArgs {
            x: x.address(),
            gate: gates.map_or(0, |(gate, _)| gate.address()),
            after: gates.map_or(0, |(_, after)| after.address()),
            weight: self.address(&conv.weight)?,
            bias: bias.map(|bias| self.address(bias)).transpose()?.unwrap_or(0),
            state: state.address(),
            out: out.address(),
            n: tokens as i32,
            channels: conv.channels as i32,
            taps: taps as i32,
            x_stride: x_stride as i32,
            out_stride: out_stride as i32,
            skip: skip as i32,
            silu: i32::from(silu),
            unused: 0,
        };
        let grid = [conv.channels.div_ceil(128) as u32, tokens.div_ceil(16) as u32, 1];
        // SAFETY: the callers give rows of these lengths.
        unsafe {
            self.launch(
                "convolution",
                "causal_convolution",
                Geometry { grid, block: 128, shared: 0 },
                &arguments,
            )
        }
    }

    /// As [`crate::Executor::gated_convolution`].
    ///
    /// # Errors
    /// Lengths and devices that do not fit.
    pub fn gated_convolution(&mut self, convolution: GatedConvolution<'_>) -> Result<()> {
        let GatedConvolution { conv, rows, state, scratch: _, skip, out } = convolution;
        let (rows, state, out) = (rows.cuda()?, state.cuda()?, out.cuda()?);
        let width = conv.channels;
        let tokens = rows.len() / (3 * width).max(1);
        same("gated convolution: rows", 3 * tokens * width, rows.len())?;
        same("gated convolution: output", tokens * width, out.len() + skip * width)?;
        same("convolution: state", conv.state(), state.len())?;
        if tokens == 0 {
            return Ok(());
        }
        let at = |part: usize| rows.pointer().at(4 * part * width);
        self.convolve(&Convolve {
            conv,
            x: at(2),
            gates: Some((at(0), at(1))),
            x_stride: 3 * width,
            state: state.pointer(),
            out: out.pointer(),
            out_stride: width,
            tokens,
            skip,
            silu: false,
        })
    }

    /// The inputs of a state, convolved, in memory of the executor.
    pub(super) fn convolved(
        &mut self,
        conv: &Convolution,
        (x, x_stride): (Pointer, usize),
        state: Pointer,
        tokens: usize,
    ) -> Result<Pointer> {
        let width = conv.channels;
        let out = self.workspace.convolved.of(&self.stream, 4 * tokens * width)?;
        let (out_stride, skip, silu) = (width, 0, true);
        self.convolve(&Convolve {
            conv,
            x,
            gates: None,
            x_stride,
            state,
            out,
            out_stride,
            tokens,
            skip,
            silu,
        })?;
        Ok(out)
    }

    /// As [`crate::Executor::delta_net`].
    ///
    /// # Errors
    /// Lengths and devices that do not fit.
    pub fn delta_net(&mut self, net: DeltaNet<'_>) -> Result<()> {
        let DeltaNet { parameters, rows, state, scratch, skip, out } = net;
        let DeltaRows::Joined(rows) = rows else { return Err(Error::Device) };
        let (rows, state, made, out) = (rows.cuda()?, state.cuda()?, scratch.cuda()?, out.cuda()?);
        let shape = &parameters.shape;
        let (width, values, heads) = (shape.width(), shape.values(), shape.value_heads);
        let tokens = made.len() / values.max(1);
        let stride = parameters.row();
        same("delta net: rows", tokens * stride, rows.len())?;
        same("delta net: results", tokens * values, made.len())?;
        same("delta net: output", (tokens - skip) * values, out.len())?;
        same("delta net: state", parameters.state(), state.len())?;
        same("delta net: channels", width, parameters.conv.channels)?;
        for vector in [&parameters.rates, &parameters.time_bias] {
            same("delta net: a number for each head", heads, vector.len())?;
        }
        if tokens == 0 {
            return Ok(());
        }
        let mut rows = rows.pointer();
        if let Some(order) = &parameters.order {
            let order = order.cuda()?.on(&self.card)?;
            same("delta net: order of a row", stride, order.bytes() / 4)?;
            let ordered = self.workspace.ordered.of(&self.stream, 4 * tokens * stride)?;
            self.permute(order.pointer(), tokens, stride, rows, ordered)?;
            rows = ordered;
        }
        let at = |offset: usize| rows.at(4 * offset);
        let x = self.convolved(&parameters.conv, (at(0), stride), state.pointer(), tokens)?;
        let size = fitting(shape.key_dim)?;
        let arguments = DeltaArgs {
            x: x.address(),
            beta: at(width + values).address(),
            alpha: at(width + values + heads).address(),
            rates: self.address(&parameters.rates)?,
            bias: self.address(&parameters.time_bias)?,
            state: state.pointer().at(4 * parameters.conv.state()).address(),
            out: made.pointer().address(),
            n: tokens as i32,
            key_heads: shape.key_heads as i32,
            value_heads: heads as i32,
            key_dim: shape.key_dim as i32,
            value_dim: shape.value_dim as i32,
            tiled: i32::from(shape.tiled),
            x_stride: width as i32,
            gate_stride: stride as i32,
        };
        let grid = [shape.value_dim.div_ceil(COLUMNS) as u32, heads as u32, 1];
        // SAFETY: rows, state and results have the lengths that the shape gives.
        unsafe {
            let geometry = Geometry { grid, block: 128, shared: 0 };
            self.launch("delta_rule", &format!("delta_rule_{size}"), geometry, &arguments)?;
        }
        self.gated_norms(&Gated {
            norm: &parameters.norm,
            x: made.pointer().at(4 * skip * values),
            gate: (at(skip * stride + width), stride),
            out: out.pointer(),
            rows: tokens - skip,
            groups: heads,
            width: shape.value_dim,
            first: false,
        })
    }

    /// As [`crate::Executor::mamba2`].
    ///
    /// # Errors
    /// Lengths and devices that do not fit.
    pub fn mamba2(&mut self, mamba: Mamba2<'_>) -> Result<()> {
        let Mamba2 { parameters, rows, state, scratch, skip, out } = mamba;
        let (rows, state, made, out) = (rows.cuda()?, state.cuda()?, scratch.cuda()?, out.cuda()?);
        let (shape, stride) = (&parameters.shape, parameters.row());
        let (inner, width, heads) = (shape.inner(), shape.width(), shape.heads);
        let tokens = rows.len() / stride.max(1);
        same("Mamba-2: rows", tokens * stride, rows.len())?;
        same("Mamba-2: scratch", tokens * parameters.scratch(), made.len())?;
        same("Mamba-2: output", (tokens - skip) * inner, out.len())?;
        same("Mamba-2: state", parameters.state(), state.len())?;
        same("Mamba-2: channels", width, parameters.conv.channels)?;
        for vector in [&parameters.rates, &parameters.time_bias, &parameters.skips] {
            same("Mamba-2: a number for each head", heads, vector.len())?;
        }
        if tokens == 0 {
            return Ok(());
        }
        let at = |offset: usize| rows.pointer().at(4 * offset);
        let x = self.convolved(&parameters.conv, (at(inner), stride), state.pointer(), tokens)?;
        let size = fitting(shape.state)?;
        let arguments = ScanArgs {
            x: x.address(),
            steps: at(inner + width).address(),
            rates: self.address(&parameters.rates)?,
            bias: self.address(&parameters.time_bias)?,
            skips: self.address(&parameters.skips)?,
            state: state.pointer().at(4 * parameters.conv.state()).address(),
            out: made.pointer().address(),
            n: tokens as i32,
            heads: heads as i32,
            head_dim: shape.head_dim as i32,
            groups: shape.groups as i32,
            rows: shape.state as i32,
            x_stride: width as i32,
            step_stride: stride as i32,
            least: parameters.limits.0,
            most: parameters.limits.1,
            unused: 0,
        };
        let grid = [shape.head_dim.div_ceil(COLUMNS) as u32, heads as u32, 1];
        // SAFETY: rows, state and results have the lengths that the shape gives.
        unsafe {
            let geometry = Geometry { grid, block: 128, shared: 0 };
            self.launch("selective_scan", &format!("selective_scan_{size}"), geometry, &arguments)?;
        }
        let groups = shape.groups.max(1);
        self.gated_norms(&Gated {
            norm: &parameters.norm,
            x: made.pointer().at(4 * skip * inner),
            gate: (at(skip * stride), stride),
            out: out.pointer(),
            rows: tokens - skip,
            groups,
            width: inner / groups,
            first: true,
        })
    }
}

/// Rows of a state, rounded up to what a kernel takes.
pub(super) fn fitting(rows: usize) -> Result<usize> {
    let sizes = [32, 64, 128, MOST_GPU_STATE];
    let size = sizes.into_iter().find(|&size| size >= rows);
    size.ok_or(Error::NoGpuKernel { what: "states of so many rows" })
}
