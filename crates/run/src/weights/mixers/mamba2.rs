//! The tensors of Mamba-2.

use quern_compute::mixers::{Convolution, ScanParameters};
use quern_compute::states::ScanShape;
use quern_compute::{Norm, NormKind, Uploader, Vector};
use quern_model::{Config, TensorRole};

use super::super::Linear;
use super::super::lookup::Lookup;
use super::taps_of;
use crate::Result;

/// Mamba-2.
#[derive(Clone, Debug)]
pub(crate) struct Mamba2 {
    pub(crate) parameters: ScanParameters,
    /// To the gate, to what is convolved, and to the steps of the heads.
    pub(crate) input: Linear,
    pub(crate) output: Linear,
}

/// Sizes of a model's Mamba-2, as the kernels take them.
pub(crate) fn scan_of(mamba: &quern_model::Mamba2) -> ScanShape {
    let &quern_model::Mamba2 { heads, head_dim, groups, state, taps: _, conv_bias: _, norm: _ } = mamba;
    ScanShape { heads, head_dim, groups, state }
}

impl Mamba2 {
    /// Takes the tensors of a layer.
    pub(super) fn resolve(
        lookup: &Lookup<'_, '_>,
        config: &Config,
        mamba: &quern_model::Mamba2,
        layer: usize,
    ) -> Result<Self> {
        use TensorRole as R;
        let at = Some(layer);
        let conv_bias = mamba.conv_bias.then(|| lookup.vector(R::StateConvBias, at)).transpose()?;
        let shape = scan_of(mamba);
        let vector = |role| -> Result<Vector> { Ok(lookup.vector(role, at)?.into()) };
        let norm = |weight| Norm { kind: NormKind::Rms, epsilon: config.norm_epsilon, weight, bias: None };
        let weight = mamba.norm.then(|| vector(R::StateNorm)).transpose()?;
        let parameters = ScanParameters {
            shape,
            conv: Convolution {
                weight: taps_of(&lookup.vector(R::StateConv, at)?, mamba.taps).into(),
                bias: conv_bias.map(Into::into),
                channels: shape.width(),
            },
            time_bias: vector(R::StateTimeBias)?,
            limits: (0.0, f32::INFINITY),
            rates: vector(R::StateDecay)?,
            skips: vector(R::StateSkip)?,
            norm: weight.map(norm),
            factors: config.multipliers.map(|own| own.of_state()),
        };
        let linear = |role| lookup.linear(role, None, at);
        Ok(Self { parameters, input: linear(R::StateIn)?, output: linear(R::StateOut)? })
    }

    /// Memory for each token: all that is computed of the input, and what the executor computes in.
    pub(super) fn scratch(&self) -> usize {
        self.parameters.row() + self.parameters.scratch()
    }

    /// The same on another device.
    pub(super) fn upload(&self, uploader: &mut Uploader) -> Result<Self> {
        Ok(Self {
            parameters: self.parameters.upload(uploader)?,
            input: self.input.upload(uploader)?,
            output: self.output.upload(uploader)?,
        })
    }
}
