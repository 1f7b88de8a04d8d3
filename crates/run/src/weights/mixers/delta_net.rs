//! The tensors of a gated delta net.

use quern_compute::mixers::{Convolution, DeltaParameters};
use quern_compute::states::DeltaShape;
use quern_compute::{Norm, NormKind, Uploader};
use quern_model::{Config, TensorRole};

use super::super::Linear;
use super::super::lookup::Lookup;
use super::taps_of;
use crate::Result;

/// A gated delta net (Qwen3-Next).
#[derive(Clone, Debug)]
pub(crate) struct DeltaNet {
    pub(crate) parameters: DeltaParameters,
    /// Queries, keys and values.
    pub(crate) qkv: Linear,
    /// Of the results.
    pub(crate) gate: Linear,
    /// How much of a token each head learns.
    pub(crate) beta: Linear,
    /// How much of its state each head keeps.
    pub(crate) alpha: Linear,
    pub(crate) output: Linear,
}

/// Sizes of the delta nets of a model, as the kernels take them.
pub(crate) fn shape_of(net: &quern_model::DeltaNet) -> DeltaShape {
    let &quern_model::DeltaNet { key_heads, value_heads, key_dim, value_dim, tiled, taps: _ } = net;
    DeltaShape { key_heads, value_heads, key_dim, value_dim, tiled }
}

impl DeltaNet {
    /// Takes the tensors of a layer.
    pub(super) fn resolve(
        lookup: &Lookup<'_, '_>,
        config: &Config,
        net: &quern_model::DeltaNet,
        layer: usize,
    ) -> Result<Self> {
        use TensorRole as R;
        let at = Some(layer);
        let linear = |role| lookup.linear(role, None, at);
        let shape = shape_of(net);
        let norm = Norm {
            kind: NormKind::Rms,
            epsilon: config.norm_epsilon,
            weight: lookup.vector(R::StateNorm, at)?.into(),
            bias: None,
        };
        let parameters = DeltaParameters {
            shape,
            conv: Convolution {
                weight: taps_of(&lookup.vector(R::StateConv, at)?, net.taps).into(),
                bias: None,
                channels: shape.width(),
            },
            rates: lookup.vector(R::StateDecay, at)?.into(),
            time_bias: lookup.vector(R::StateTimeBias, at)?.into(),
            norm,
            order: None,
        };
        Ok(Self {
            parameters,
            qkv: linear(R::DeltaQkv)?,
            gate: linear(R::DeltaGate)?,
            beta: linear(R::DeltaBeta)?,
            alpha: linear(R::DeltaAlpha)?,
            output: linear(R::StateOut)?,
        })
    }

    /// Memory for each token.
    pub(super) fn scratch(&self) -> usize {
        let shape = &self.parameters.shape;
        shape.width() + 2 * shape.values() + 2 * shape.value_heads
    }

    /// The same on another device.
    pub(super) fn upload(&self, uploader: &mut Uploader) -> Result<Self> {
        Ok(Self {
            parameters: self.parameters.upload(uploader)?,
            qkv: self.qkv.upload(uploader)?,
            gate: self.gate.upload(uploader)?,
            beta: self.beta.upload(uploader)?,
            alpha: self.alpha.upload(uploader)?,
            output: self.output.upload(uploader)?,
        })
    }

    /// The layers that read the block's input, in the order of their outputs.
    pub(super) fn inputs(&self) -> [&Linear; 4] {
        [&self.qkv, &self.gate, &self.beta, &self.alpha]
    }

    /// The same, to be replaced.
    pub(super) fn inputs_mut(&mut self) -> [&mut Linear; 4] {
        [&mut self.qkv, &mut self.gate, &mut self.beta, &mut self.alpha]
    }
}
