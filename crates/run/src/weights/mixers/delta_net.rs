//! The tensors of a gated delta net.

use quern_compute::mixers::{Convolution, DeltaParameters};
use quern_compute::states::DeltaShape;
use quern_compute::{Norm, NormKind, Permutation, Uploader};
use quern_model::{Config, TensorRole};

use super::super::Linear;
use super::super::lookup::Lookup;
use super::taps_of;
use crate::Result;

/// A gated delta net (Qwen3-Next).
#[derive(Clone, Debug)]
pub(crate) struct DeltaNet {
    pub(crate) parameters: DeltaParameters,
    /// The layers that read the block's input.
    pub(crate) project: DeltaProjections,
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
            order: project.order(&shape).map(|order| Permutation::Host(order.into())),
        };
        Ok(Self { parameters, project, output: linear(R::StateOut)? })
    }

    /// Memory for each token.
    pub(super) fn scratch(&self) -> usize {
        let shape = &self.parameters.shape;
        let joined = match self.project {
            DeltaProjections::Apart { .. } => 0,
            DeltaProjections::Paired { .. } => 2 * shape.value_heads,
            DeltaProjections::Joined { .. } => joined_scratch(shape),
        };
        joined + self.parameters.row() + shape.values()
    }

    /// The same on another device.
    pub(super) fn upload(&self, uploader: &mut Uploader) -> Result<Self> {
        Ok(Self {
            parameters: self.parameters.upload(uploader)?,
            project: self.project.upload(uploader)?,
            output: self.output.upload(uploader)?,
        })
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

impl DeltaProjections {
    /// Where among all outputs, side by side, each number is: queries, keys and values, then gates, `beta` and `alpha` of
    /// all heads. `None` where they are in this order.
    fn order(&self, shape: &DeltaShape) -> Option<Vec<u32>> {
        let heads = shape.key_heads.max(1);
        let (key, value, own) = (shape.key_dim, shape.values() / heads, shape.value_heads / heads);
        let before = shape.width() + shape.values();
        let of_heads = |start: usize, stride: usize, offset: usize, length: usize| {
            (0..heads).flat_map(move |head| {
                let first = start + head * stride + offset;
                first as u32..(first + length) as u32
            })
        };
        let front: Vec<u32> = match self {
            Self::Apart { .. } => return None,
            Self::Paired { .. } => (0..before as u32).collect(),
            Self::Joined { .. } => {
                let parts = [(0, key), (key, key), (2 * key, value), (2 * key + value, value)];
                let parts = parts.into_iter();
                parts.flat_map(|(offset, length)| of_heads(0, 2 * (key + value), offset, length)).collect()
            }
        };
        let pairs = [0, own].into_iter().flat_map(|offset| of_heads(before, 2 * own, offset, own));
        Some(front.into_iter().chain(pairs).collect())
    }

    fn upload(&self, uploader: &mut Uploader) -> Result<Self> {
        Ok(match self {
            Self::Apart { qkv, gate, beta, alpha } => Self::Apart {
                qkv: qkv.upload(uploader)?,
                gate: gate.upload(uploader)?,
                beta: beta.upload(uploader)?,
                alpha: alpha.upload(uploader)?,
            },
            Self::Paired { qkv, gate, beta_alpha } => Self::Paired {
                qkv: qkv.upload(uploader)?,
                gate: gate.upload(uploader)?,
                beta_alpha: beta_alpha.upload(uploader)?,
            },
            Self::Joined { qkvz, beta_alpha } => {
                Self::Joined { qkvz: qkvz.upload(uploader)?, beta_alpha: beta_alpha.upload(uploader)? }
            }
        })
    }
}

/// Memory for each token of what joined projections give, before it is parted.
pub(super) fn joined_scratch(shape: &DeltaShape) -> usize {
    shape.width() + shape.values() + 2 * shape.value_heads
}
