//! The tensors of a gated convolution as wide as the residual stream.

use quern_compute::states::{Taps, conv_state};
use quern_model::TensorRole;

use super::super::Linear;
use super::super::lookup::Lookup;
use super::taps_of;
use crate::Result;

/// A gated convolution over few positions (LFM2).
#[derive(Clone, Debug)]
pub(crate) struct ShortConv {
    /// To the gate of the convolution's input, the gate of its result, and the input.
    pub(crate) input: Linear,
    /// `[taps][hidden]`.
    conv: Vec<f32>,
    pub(crate) output: Linear,
}

impl ShortConv {
    /// Takes the tensors of a layer.
    pub(super) fn resolve(
        lookup: &Lookup<'_, '_>,
        conv: &quern_model::ShortConv,
        layer: usize,
    ) -> Result<Self> {
        let at = Some(layer);
        Ok(Self {
            input: lookup.linear(TensorRole::StateIn, None, at)?,
            conv: taps_of(&lookup.vector(TensorRole::StateConv, at)?, conv.taps),
            output: lookup.linear(TensorRole::StateOut, None, at)?,
        })
    }

    /// Number of channels.
    pub(crate) fn channels(&self) -> usize {
        self.output.op.weight.columns()
    }

    /// The convolution.
    pub(crate) fn taps(&self) -> Taps<'_> {
        Taps { weight: &self.conv, bias: None, channels: self.channels() }
    }

    /// Values of the state.
    pub(super) fn state(&self) -> usize {
        conv_state(self.channels(), self.conv.len() / self.channels().max(1))
    }

    /// Numbers in its vectors.
    pub(super) fn vector_values(&self) -> usize {
        self.conv.len()
    }

    /// Memory for each token.
    pub(super) fn scratch(&self) -> usize {
        4 * self.channels()
    }
}
