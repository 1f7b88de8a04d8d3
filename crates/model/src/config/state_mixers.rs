//! The sizes of mixers that keep a state in place of keys and values.

use crate::architecture::Hybrid;

use super::Config;

/// The layers whose mixer keeps a state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct States {
    /// Which layers they are, one flag a layer.
    pub layers: Vec<bool>,
    /// Their mixer.
    pub mixer: StateMixer,
    /// Which layers are a network alone, one flag a layer; the others are then a mixer alone. Empty where each layer is
    /// a mixer with a network behind it.
    pub networks: Vec<bool>,
}

/// A mixer that keeps a state of fixed size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateMixer {
    /// The gated delta net of Qwen3-Next.
    DeltaNet(DeltaNet),
    /// The gated convolution of LFM2.
    ShortConv(ShortConv),
    /// Mamba-2.
    Mamba2(Mamba2),
}

/// Sizes of a gated delta net.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeltaNet {
    /// Heads of keys and queries; divides `value_heads`.
    pub key_heads: usize,
    /// Heads of values.
    pub value_heads: usize,
    /// Values in a key or query head.
    pub key_dim: usize,
    /// Values in a value head.
    pub value_dim: usize,
    /// Positions that its convolution reads.
    pub taps: usize,
    /// The checkpoint has the first value head of each key head, then the second of each; otherwise those of one key
    /// head follow each other.
    pub tiled: bool,
}

/// Sizes of a gated convolution as wide as the residual stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShortConv {
    /// Positions that it reads.
    pub taps: usize,
}

/// Sizes of Mamba-2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mamba2 {
    /// Heads.
    pub heads: usize,
    /// Values in a head.
    pub head_dim: usize,
    /// Groups of heads that share how the state is written and read; divides `heads`.
    pub groups: usize,
    /// Numbers that the state has for each value of a head.
    pub state: usize,
    /// Positions that its convolution reads.
    pub taps: usize,
    /// Its convolution has a bias.
    pub conv_bias: bool,
    /// What the state gives is normalized, group by group, once it is gated.
    pub norm: bool,
}

impl StateMixer {
    /// Positions that its convolution reads.
    pub fn taps(&self) -> usize {
        match self {
            Self::DeltaNet(net) => net.taps,
            Self::ShortConv(conv) => conv.taps,
            Self::Mamba2(mamba) => mamba.taps,
        }
    }

    /// What it is called.
    pub fn name(&self) -> &'static str {
        match self {
            Self::DeltaNet(_) => "gated delta nets",
            Self::ShortConv(_) => "short convolutions",
            Self::Mamba2(_) => "Mamba-2",
        }
    }
}

impl DeltaNet {
    /// Queries, keys and values of a token.
    pub fn width(&self) -> usize {
        2 * self.key_heads * self.key_dim + self.values()
    }

    /// Values of a token.
    pub fn values(&self) -> usize {
        self.value_heads * self.value_dim
    }
}

impl Mamba2 {
    /// Inputs of a token.
    pub fn inner(&self) -> usize {
        self.heads * self.head_dim
    }

    /// What goes through the convolution: inputs, and for each group how the state is written and read.
    pub fn width(&self) -> usize {
        self.inner() + 2 * self.groups * self.state
    }
}

impl States {
    /// The rules that hold for both formats; what is wrong otherwise.
    pub(super) fn check(&self, layers: usize) -> Result<(), String> {
        if self.layers.len() != layers {
            return Err(format!("kinds of {} layers are given for {layers} layers", self.layers.len()));
        }
        match self.mixer {
            StateMixer::DeltaNet(net) if !net.value_heads.is_multiple_of(net.key_heads) => Err(format!(
                "{} value heads of a delta net cannot share {} key heads evenly",
                net.value_heads, net.key_heads
            )),
            StateMixer::Mamba2(mamba) if !mamba.heads.is_multiple_of(mamba.groups) => {
                Err(format!("{} heads of Mamba-2 cannot form {} groups evenly", mamba.heads, mamba.groups))
            }
            StateMixer::DeltaNet(_) | StateMixer::ShortConv(_) | StateMixer::Mamba2(_) => Ok(()),
        }
    }
}

impl Config {
    /// Whether this layer's mixer keeps a state in place of keys and values.
    pub fn has_state(&self, layer: usize) -> bool {
        self.states.as_ref().is_some_and(|states| states.layers.get(layer).copied().unwrap_or(false))
    }

    /// The mixer of the layers that keep a state; `None` if there are none, whatever sizes are given.
    pub fn state_mixer(&self) -> Option<&StateMixer> {
        self.states.as_ref().filter(|states| states.layers.contains(&true)).map(|states| &states.mixer)
    }

    /// Whether this layer is a network alone.
    pub fn is_network(&self, layer: usize) -> bool {
        self.states.as_ref().is_some_and(|states| states.networks.get(layer).copied().unwrap_or(false))
    }

    /// Whether each layer is a mixer or a network, and none is both.
    pub fn has_single_layers(&self) -> bool {
        self.states.as_ref().is_some_and(|states| !states.networks.is_empty())
    }

    /// Whether this layer has attention.
    pub fn has_attention(&self, layer: usize) -> bool {
        let beside = self.architecture.hybrid == Hybrid::Beside;
        (beside || !self.has_state(layer)) && !self.is_network(layer)
    }

    /// Layers with keys and values.
    pub fn attention_layers(&self) -> usize {
        (0..self.layers).filter(|&layer| self.has_attention(layer)).count()
    }

    /// The sizes of its delta nets, where it has such.
    pub fn delta_net(&self) -> Option<&DeltaNet> {
        match &self.states.as_ref()?.mixer {
            StateMixer::DeltaNet(net) => Some(net),
            StateMixer::ShortConv(_) | StateMixer::Mamba2(_) => None,
        }
    }

    /// The sizes of its Mamba-2, where it has that.
    pub fn mamba2(&self) -> Option<&Mamba2> {
        match &self.states.as_ref()?.mixer {
            StateMixer::Mamba2(mamba) => Some(mamba),
            StateMixer::DeltaNet(_) | StateMixer::ShortConv(_) => None,
        }
    }
}
