//! The tensors of Mamba-2.

use quern_compute::states::{ScanShape, Taps, conv_state};
use quern_model::{Config, TensorRole};

use super::super::Linear;
use super::super::lookup::Lookup;
use super::taps_of;
use crate::Result;

/// Mamba-2.
#[derive(Clone, Debug)]
pub(crate) struct Mamba2 {
    pub(crate) shape: ScanShape,
    /// To the gate, to what is convolved, and to the steps of the heads.
    pub(crate) input: Linear,
    /// `[taps][what is convolved]`.
    conv: Vec<f32>,
    conv_bias: Option<Vec<f32>>,
    pub(crate) time_bias: Vec<f32>,
    /// How fast each head's state decays, less than zero.
    pub(crate) rates: Vec<f32>,
    /// What each head's input is multiplied with beside the state.
    pub(crate) skips: Vec<f32>,
    /// Of the norm of gated results, group by group, where they are normalized.
    pub(crate) norm: Option<Vec<f32>>,
    /// What gates, inputs, `b`, `c` and steps are multiplied with (Falcon-H1).
    pub(crate) factors: Option<[f32; 5]>,
    pub(crate) epsilon: f32,
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
        Ok(Self {
            shape: scan_of(mamba),
            input: lookup.linear(R::StateIn, None, at)?,
            conv: taps_of(&lookup.vector(R::StateConv, at)?, mamba.taps),
            conv_bias,
            time_bias: lookup.vector(R::StateTimeBias, at)?,
            rates: lookup.vector(R::StateDecay, at)?,
            skips: lookup.vector(R::StateSkip, at)?,
            norm: mamba.norm.then(|| lookup.vector(R::StateNorm, at)).transpose()?,
            factors: config.multipliers.map(|own| own.of_state()),
            epsilon: config.norm_epsilon,
            output: lookup.linear(R::StateOut, None, at)?,
        })
    }

    /// The convolution.
    pub(crate) fn taps(&self) -> Taps<'_> {
        Taps { weight: &self.conv, bias: self.conv_bias.as_deref(), channels: self.shape.width() }
    }

    /// Values of the convolution's state, and of the scan's.
    pub(crate) fn states(&self) -> (usize, usize) {
        let taps = self.conv.len() / self.shape.width().max(1);
        (conv_state(self.shape.width(), taps), self.shape.states())
    }

    /// Numbers in its vectors.
    pub(super) fn vector_values(&self) -> usize {
        let vectors = [&self.conv, &self.time_bias, &self.rates, &self.skips];
        let optional = [&self.conv_bias, &self.norm].map(|vector| vector.as_ref().map_or(0, Vec::len));
        optional.into_iter().sum::<usize>() + vectors.into_iter().map(Vec::len).sum::<usize>()
    }

    /// Memory for each token: all that is computed of the input, its parts, and the results.
    pub(super) fn scratch(&self) -> usize {
        let parts = self.shape.inner() + self.shape.width() + self.shape.heads;
        2 * parts + self.shape.inner()
    }
}
