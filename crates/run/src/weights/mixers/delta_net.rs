//! The tensors of a gated delta net.

use quern_compute::states::{DeltaShape, Taps, conv_state};
use quern_model::{Config, TensorRole};

use super::super::Linear;
use super::super::lookup::Lookup;
use super::taps_of;
use crate::Result;

/// A gated delta net (Qwen3-Next).
#[derive(Clone, Debug)]
pub(crate) struct DeltaNet {
    pub(crate) shape: DeltaShape,
    /// The layers that read the block's input.
    pub(crate) project: DeltaProjections,
    /// `[taps][queries, keys and values]`.
    conv: Vec<f32>,
    /// How fast each head's state decays, less than zero.
    pub(crate) rates: Vec<f32>,
    pub(crate) time_bias: Vec<f32>,
    /// Of the norm of each head's results.
    pub(crate) norm: Vec<f32>,
    pub(crate) epsilon: f32,
    pub(crate) output: Linear,
}

/// The projections of a block's input: queries, keys and values, the gate of the results, how much of a token each head
/// learns (`beta`) and how much of its state it keeps (`alpha`).
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant)] // one a layer
pub(crate) enum DeltaProjections {
    /// One matrix each.
    Apart { qkv: Linear, gate: Linear, beta: Linear, alpha: Linear },
    /// `beta` and `alpha` in one matrix, those of the value heads of one key head together (Qwen3-Next in GGUF).
    Paired { qkv: Linear, gate: Linear, beta_alpha: Linear },
    /// Queries, keys, values and gates of one key head together as well (Qwen3-Next).
    Joined { qkvz: Linear, beta_alpha: Linear },
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
        let project = match (lookup.has(R::StateIn, at), lookup.has(R::DeltaBetaAlpha, at)) {
            (true, _) => {
                let (qkvz, beta_alpha) = (linear(R::StateIn)?, linear(R::DeltaBetaAlpha)?);
                DeltaProjections::Joined { qkvz, beta_alpha }
            }
            (false, true) => DeltaProjections::Paired {
                qkv: linear(R::DeltaQkv)?,
                gate: linear(R::DeltaGate)?,
                beta_alpha: linear(R::DeltaBetaAlpha)?,
            },
            (false, false) => DeltaProjections::Apart {
                qkv: linear(R::DeltaQkv)?,
                gate: linear(R::DeltaGate)?,
                beta: linear(R::DeltaBeta)?,
                alpha: linear(R::DeltaAlpha)?,
            },
        };
        Ok(Self {
            shape: shape_of(net),
            project,
            conv: taps_of(&lookup.vector(R::StateConv, at)?, net.taps),
            rates: lookup.vector(R::StateDecay, at)?,
            time_bias: lookup.vector(R::StateTimeBias, at)?,
            norm: lookup.vector(R::StateNorm, at)?,
            epsilon: config.norm_epsilon,
            output: linear(R::StateOut)?,
        })
    }

    /// The convolution.
    pub(crate) fn taps(&self) -> Taps<'_> {
        Taps { weight: &self.conv, bias: None, channels: self.shape.width() }
    }

    /// Values of the convolution's state, and of the delta rule's.
    pub(crate) fn states(&self) -> (usize, usize) {
        let taps = self.conv.len() / self.shape.width().max(1);
        (conv_state(self.shape.width(), taps), self.shape.state())
    }

    /// Numbers in its vectors.
    pub(super) fn vector_values(&self) -> usize {
        self.conv.len() + self.rates.len() + self.time_bias.len() + self.norm.len()
    }

    /// Memory for each token.
    pub(super) fn scratch(&self) -> usize {
        let joined = match self.project {
            DeltaProjections::Apart { .. } => 0,
            DeltaProjections::Paired { .. } => 2 * self.shape.value_heads,
            DeltaProjections::Joined { .. } => joined_scratch(&self.shape),
        };
        joined + self.shape.width() + 2 * self.shape.values() + 2 * self.shape.value_heads
    }

    /// The layers that read the block's input, in the order of their outputs.
    pub(super) fn inputs(&self) -> Vec<&Linear> {
        match &self.project {
            DeltaProjections::Apart { qkv, gate, beta, alpha } => vec![qkv, gate, beta, alpha],
            DeltaProjections::Paired { qkv, gate, beta_alpha } => vec![qkv, gate, beta_alpha],
            DeltaProjections::Joined { qkvz, beta_alpha } => vec![qkvz, beta_alpha],
        }
    }

    /// The same, to be replaced.
    pub(super) fn inputs_mut(&mut self) -> Vec<&mut Linear> {
        match &mut self.project {
            DeltaProjections::Apart { qkv, gate, beta, alpha } => vec![qkv, gate, beta, alpha],
            DeltaProjections::Paired { qkv, gate, beta_alpha } => vec![qkv, gate, beta_alpha],
            DeltaProjections::Joined { qkvz, beta_alpha } => vec![qkvz, beta_alpha],
        }
    }
}

/// Memory for each token of what joined projections give, before it is parted.
pub(super) fn joined_scratch(shape: &DeltaShape) -> usize {
    shape.width() + shape.values() + 2 * shape.value_heads
}
