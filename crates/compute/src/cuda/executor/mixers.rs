//! Convolutions and mixers with a state.

use super::super::Pointer;
use super::super::mixer_args::{ConvolutionArgs, DeltaArgs, ScanArgs};
use super::gates::Gated;
use super::{Executor, Geometry};
use crate::error::same;
use crate::executor::mixers::{Convolution, DeltaNet, DeltaRows, GatedConvolution, Mamba2};
use crate::executor::{MOST_GPU_STATE, MOST_GPU_TAPS, Vector};
use crate::{Error, Result};

/// Columns of a state that a block of the kernels takes.
const COLUMNS: usize = 16;

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

impl Executor {
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
        let (Some(norm), None) = (&parameters.norm, parameters.factors) else {
            return Err(Error::NoGpuKernel { what: "Mamba-2 without a norm, or whose parts are multiplied" });
        };
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
            norm,
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
