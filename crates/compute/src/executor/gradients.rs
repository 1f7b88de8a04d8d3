//! What gradients need beside the operations of a forward pass: norms, functions, rotations and attention backward, and
//! linear layers from the gradients by their outputs to those by their inputs.

use std::ops::Range;

use super::{Executor, Half, Linear, Norm, Values, ValuesMut, Vector};
use crate::attention::{Attended, AttentionShape};
use crate::error::same;
use crate::ops::{Activation, RopeStyle};
use crate::{Error, Result};

/// Rotation of heads, forward or back: cosines and sines, `[tokens][pairs]`.
#[derive(Clone, Copy, Debug)]
pub struct Turn<'a> {
    /// Which values form a pair.
    pub style: RopeStyle,
    /// Pairs of a head that are rotated.
    pub pairs: usize,
    /// Cosines.
    pub cos: Values<'a>,
    /// Sines.
    pub sin: Values<'a>,
    /// Against the direction of the forward pass.
    pub back: bool,
}

/// What attention over whole sequences reads and returns: queries and results `[tokens][heads][head_dim]`, keys and values
/// `[tokens][kv_heads][head_dim]`, as they are multiplied (normalized, rotated).
#[derive(Clone, Copy, Debug)]
pub struct Recorded<'a> {
    /// Queries.
    pub q: Values<'a>,
    /// Keys.
    pub k: Values<'a>,
    /// Values.
    pub v: Values<'a>,
    /// Results.
    pub out: Values<'a>,
    /// A score for each head that joins the sum of its softmax and has no value. Only on the CPU.
    pub sinks: Option<&'a Vector>,
    /// Logarithms of the sums of the exponentials of the scores, `[tokens][heads]`, as [`Executor::attention`] writes them.
    /// Not read on the CPU.
    pub log_sums: Values<'a>,
}

/// Rows of some columns of a wider matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Columns {
    /// The first column.
    pub first: usize,
    /// Columns of the matrix.
    pub of: usize,
}

/// Passes an operation to the half that computes.
macro_rules! dispatch {
    ($executor:expr, $half:ident => $call:expr) => {
        match &mut $executor.half {
            Half::Cpu($half) => $call,
            #[cfg(feature = "cuda")]
            Half::Cuda($half) => $call,
        }
    };
}

/// Operations that only a GPU has.
macro_rules! on_gpu {
    ($executor:expr, $half:ident => $call:expr) => {
        match &mut $executor.half {
            Half::Cpu(_) => Err(Error::Device),
            #[cfg(feature = "cuda")]
            Half::Cuda($half) => $call,
        }
    };
}

impl Executor {
    /// `x = norm(x)`, `dim` numbers at a time: one weight for all, or one for each head of a row. Without bias.
    ///
    /// # Errors
    /// Lengths and devices that do not fit.
    pub fn head_norm(&mut self, norm: &Norm, dim: usize, x: ValuesMut<'_>) -> Result<()> {
        dispatch!(self, half => half.head_norm(norm, dim, x))
    }

    /// Gradient by the inputs `x` of a norm, in place of `d`, that by its outputs; `dim` numbers are normalized together.
    ///
    /// # Errors
    /// As [`Executor::head_norm`].
    pub fn norm_backward(&mut self, norm: &Norm, dim: usize, x: Values<'_>, d: ValuesMut<'_>) -> Result<()> {
        dispatch!(self, half => half.norm_backward(norm, dim, x, d))
    }

    /// `x = act(x)`.
    ///
    /// # Errors
    /// As [`Executor::head_norm`].
    pub fn activate(&mut self, act: Activation, x: ValuesMut<'_>) -> Result<()> {
        dispatch!(self, half => half.activate_all(act, x))
    }

    /// `gate = act(gate) * up`.
    ///
    /// # Errors
    /// As [`Executor::head_norm`].
    pub fn gate(&mut self, act: Activation, gate: ValuesMut<'_>, up: Values<'_>) -> Result<()> {
        dispatch!(self, half => half.gate_all(act, gate, up))
    }

    /// Gradient by the inputs of [`Executor::activate`], in place of these; `d` is that by its outputs.
    ///
    /// # Errors
    /// As [`Executor::head_norm`].
    pub fn activate_backward(&mut self, act: Activation, x: ValuesMut<'_>, d: Values<'_>) -> Result<()> {
        dispatch!(self, half => half.activate_backward(act, x, d))
    }

    /// The same of [`Executor::gate`], for both of its inputs.
    ///
    /// # Errors
    /// As [`Executor::head_norm`].
    pub fn gate_backward(
        &mut self,
        act: Activation,
        (gate, up): (ValuesMut<'_>, ValuesMut<'_>),
        d: Values<'_>,
    ) -> Result<()> {
        dispatch!(self, half => half.gate_backward(act, gate, up, d))
    }

    /// Rotates `x`, `[tokens][heads][dim]`.
    ///
    /// # Errors
    /// As [`Executor::head_norm`].
    pub fn rotate(&mut self, turn: Turn<'_>, (heads, dim): (usize, usize), x: ValuesMut<'_>) -> Result<()> {
        dispatch!(self, half => half.rotate(turn, (heads, dim), x))
    }

    /// Copies rows of `width` numbers between columns of two matrices.
    ///
    /// # Errors
    /// As [`Executor::head_norm`].
    pub fn copy_columns(
        &mut self,
        width: usize,
        (from, at): (Values<'_>, Columns),
        (to, to_at): (ValuesMut<'_>, Columns),
    ) -> Result<()> {
        dispatch!(self, half => half.copy_columns(width, (from, at), (to, to_at)))
    }

    /// Values of a head that [`Executor::attention`] and its gradients take, at most.
    pub fn most_gradient_head(&self) -> usize {
        match &self.half {
            Half::Cpu(_) => usize::MAX,
            #[cfg(feature = "cuda")]
            Half::Cuda(cuda) => cuda.most_gradient_head(),
        }
    }

    /// Causal attention over whole sequences, whose tokens `sequences` names, in f32: writes results and `log_sums`
    /// (the two of [`Recorded`]) from the rest of `recorded`. On a GPU; the CPU has [`Executor::attend`].
    ///
    /// # Errors
    /// Lengths and devices that do not fit; heads beyond [`Executor::most_gradient_head`]; [`Error::Device`] on the CPU.
    pub fn attention(
        &mut self,
        shape: &AttentionShape,
        sequences: &[Range<usize>],
        recorded: Recorded<'_>,
    ) -> Result<()> {
        let _ = (shape, sequences, recorded);
        on_gpu!(self, half => half.attention(shape, sequences, recorded))
    }

    /// Gradients of queries, keys and values, written to `to` in this order, from those of the results, `d_out`, as
    /// [`attention_backward`](crate::attention::attention_backward).
    ///
    /// # Errors
    /// Lengths and devices that do not fit; heads beyond [`Executor::most_gradient_head`].
    pub fn attention_backward(
        &mut self,
        shape: &AttentionShape,
        sequences: &[Range<usize>],
        recorded: Recorded<'_>,
        d_out: Values<'_>,
        to: [ValuesMut<'_>; 3],
    ) -> Result<()> {
        match &mut self.half {
            Half::Cpu(cpu) => {
                let Recorded { q, k, v, out, sinks, log_sums: _ } = recorded;
                let attended = Attended { q: q.host()?, k: k.host()?, v: v.host()?, out: out.host()? };
                let [q, k, v] = to;
                let to = [q.host()?, k.host()?, v.host()?];
                let d_out = d_out.host()?;
                let sinks = sinks.map_or(Ok(&[][..]), |sinks| sinks.host())?;
                let given = (attended, sinks);
                crate::attention::attention_backward(cpu.pool(), shape, sequences, given, d_out, to)
            }
            #[cfg(feature = "cuda")]
            Half::Cuda(cuda) => cuda.attention_backward(shape, sequences, recorded, d_out, to),
        }
    }

    /// A layer's weight in f32, `[rows][columns]`, the columns in the order of the input: what the layer makes of unit
    /// vectors, without its bias. On a GPU. Exact for plain numbers of 16 bits; block types are rounded to f16, as in the
    /// products of the forward pass.
    ///
    /// # Errors
    /// Lengths and devices that do not fit; [`Error::Device`] on the CPU.
    pub fn weight(&mut self, linear: &Linear, out: ValuesMut<'_>) -> Result<()> {
        let _ = (linear, &out);
        on_gpu!(self, half => half.weight(linear, out))
    }

    /// `to += d W`: from the gradients `d` by a layer's outputs, `[tokens][rows]`, to those by its inputs, with the weight
    /// `W` as [`Executor::weight`] writes it, `[rows][columns]`. On a GPU, with the products of [`Executor::cross`].
    ///
    /// # Errors
    /// As [`Executor::weight`].
    pub fn add_backward(
        &mut self,
        (weight, columns): (Values<'_>, usize),
        d: Values<'_>,
        to: ValuesMut<'_>,
    ) -> Result<()> {
        let _ = (weight, columns, d, &to);
        on_gpu!(self, half => half.add_backward((weight, columns), d, to))
    }
}

impl Columns {
    /// Refuses matrices that are not whole rows, as many of each, and columns that they do not have. Returns the rows.
    pub(crate) fn check(
        width: usize,
        (from, at): (usize, Self),
        (to, to_at): (usize, Self),
    ) -> Result<usize> {
        let rows = from / at.of.max(1);
        for (length, columns) in [(from, at), (to, to_at)] {
            same("columns: whole rows", rows * columns.of, length)?;
            let end = columns.first.saturating_add(width);
            if end > columns.of {
                let what = "columns: numbers of a row";
                return Err(Error::Lengths { what, expected: end, found: columns.of });
            }
        }
        Ok(rows)
    }
}
