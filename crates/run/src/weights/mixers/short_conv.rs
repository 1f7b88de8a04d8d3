//! The tensors of a gated convolution as wide as the residual stream.

use quern_compute::Uploader;
use quern_compute::mixers::Convolution;
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
    pub(crate) conv: Convolution,
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
        let output = lookup.linear(TensorRole::StateOut, None, at)?;
        let conv = Convolution {
            weight: taps_of(&lookup.vector(TensorRole::StateConv, at)?, conv.taps).into(),
            bias: None,
            channels: output.op.weight.columns(),
        };
        Ok(Self { input: lookup.linear(TensorRole::StateIn, None, at)?, conv, output })
    }

    /// Memory for each token.
    pub(super) fn scratch(&self) -> usize {
        4 * self.conv.channels
    }

    /// The same on another device.
    pub(super) fn upload(&self, uploader: &mut Uploader) -> Result<Self> {
        Ok(Self {
            input: self.input.upload(uploader)?,
            conv: self.conv.upload(uploader)?,
            output: self.output.upload(uploader)?,
        })
    }
}
