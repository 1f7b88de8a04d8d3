//! The mixers: the first half of a block, which lets tokens read earlier tokens.

mod attention;
mod beside;
mod delta_net;
mod indexer;
mod latent;
mod latent_card;
mod mamba2;
mod network;
mod short_conv;

use quern_compute::Uploader;
use quern_compute::states::conv_state;
use quern_model::architecture::Hybrid;
use quern_model::{Config, StateMixer, TensorRole};

use super::Linear;
use super::lookup::Lookup;
use crate::Result;

pub(crate) use attention::{Attention, HeadNorms, Qkv};
pub(crate) use beside::Beside;
pub(crate) use delta_net::{DeltaNet, DeltaProjections};
pub(crate) use indexer::{Indexer, index_scratch};
pub(crate) use latent::{LatentAttention, Queries, Shown, Up};
pub(crate) use mamba2::Mamba2;
pub(crate) use network::Network;
pub(crate) use short_conv::ShortConv;

/// The first half of a block, from its normed input to what is added to the residual stream.
#[derive(Clone, Debug)]
pub(crate) enum Mixer {
    /// Attention over cached keys and values.
    Attention(Box<Attention>),
    /// A gated delta net.
    DeltaNet(Box<DeltaNet>),
    /// A gated convolution over few positions.
    ShortConv(Box<ShortConv>),
    /// Attention whose keys and values are made of cached latent vectors.
    Latent(Box<LatentAttention>),
    /// Mamba-2.
    Mamba2(Box<Mamba2>),
    /// Attention and Mamba-2, side by side.
    Beside(Box<Beside>),
    /// A network, in a block that is nothing else.
    Network(Box<Network>),
    /// Nothing, in a block that is a mixture of experts alone.
    None,
}

impl Mixer {
    /// Takes the tensors of a layer's mixer.
    pub(super) fn resolve(lookup: &Lookup<'_, '_>, config: &Config, layer: usize) -> Result<Self> {
        if config.is_network(layer) && config.is_sparse(layer) {
            return Ok(Self::None);
        }
        if config.is_network(layer) {
            return Network::resolve(lookup, layer).map(Box::new).map(Self::Network);
        }
        let state = config.states.as_ref().filter(|_| config.has_state(layer)).map(|states| &states.mixer);
        match (state, &config.latent) {
            (None, None) => Attention::resolve(lookup, config, layer).map(Box::new).map(Self::Attention),
            (None, Some(latent)) => {
                LatentAttention::resolve(lookup, config, latent, layer).map(Box::new).map(Self::Latent)
            }
            (Some(StateMixer::DeltaNet(net)), _) => {
                DeltaNet::resolve(lookup, config, net, layer).map(Box::new).map(Self::DeltaNet)
            }
            (Some(StateMixer::ShortConv(conv)), _) => {
                ShortConv::resolve(lookup, conv, layer).map(Box::new).map(Self::ShortConv)
            }
            (Some(StateMixer::Mamba2(mamba)), _) if config.has_attention(layer) => {
                Beside::resolve(lookup, config, mamba, layer).map(Box::new).map(Self::Beside)
            }
            (Some(StateMixer::Mamba2(mamba)), _) => {
                Mamba2::resolve(lookup, config, mamba, layer).map(Box::new).map(Self::Mamba2)
            }
        }
    }

    /// Attention, where it is that alone.
    pub(crate) fn attention(&self) -> Option<&Attention> {
        match self {
            Self::Attention(attention) => Some(attention),
            Self::DeltaNet(_)
            | Self::Beside(_)
            | Self::ShortConv(_)
            | Self::Latent(_)
            | Self::Mamba2(_)
            | Self::Network(_)
            | Self::None => None,
        }
    }

    /// The same, to be changed.
    pub(crate) fn attention_mut(&mut self) -> Option<&mut Attention> {
        match self {
            Self::Attention(attention) => Some(attention),
            Self::DeltaNet(_)
            | Self::Beside(_)
            | Self::ShortConv(_)
            | Self::Latent(_)
            | Self::Mamba2(_)
            | Self::Network(_)
            | Self::None => None,
        }
    }

    /// Whether it keeps keys and values, or what they are made of, of each position.
    pub(crate) fn caches(&self) -> bool {
        match self {
            Self::Attention(_) | Self::Latent(_) | Self::Beside(_) => true,
            Self::DeltaNet(_) | Self::ShortConv(_) | Self::Mamba2(_) | Self::Network(_) | Self::None => false,
        }
    }

    /// The layers that read the block's normed input, in the order of their outputs.
    pub(crate) fn inputs(&self) -> Vec<&Linear> {
        match self {
            Self::Attention(attention) => attention.inputs(),
            Self::Beside(both) => both.inputs(),
            Self::DeltaNet(net) => net.inputs(),
            Self::ShortConv(conv) => vec![&conv.input],
            Self::Mamba2(mamba) => vec![&mamba.input],
            Self::Network(network) => vec![&network.up],
            Self::None => Vec::new(),
            Self::Latent(latent) => latent.inputs(),
        }
    }

    /// The same, to be replaced.
    pub(crate) fn inputs_mut(&mut self) -> Vec<&mut Linear> {
        match self {
            Self::Attention(attention) => attention.inputs_mut(),
            Self::Beside(both) => both.inputs_mut(),
            Self::DeltaNet(net) => net.inputs_mut(),
            Self::ShortConv(conv) => vec![&mut conv.input],
            Self::Mamba2(mamba) => vec![&mut mamba.input],
            Self::Network(network) => vec![&mut network.up],
            Self::None => Vec::new(),
            Self::Latent(latent) => latent.inputs_mut(),
        }
    }

    /// The layers within whose inputs calibration can show, in the order of the computation.
    pub(crate) fn shown(&self) -> Vec<(Shown, &Linear)> {
        match self {
            Self::Attention(_)
            | Self::DeltaNet(_)
            | Self::ShortConv(_)
            | Self::Mamba2(_)
            | Self::Network(_)
            | Self::None => Vec::new(),
            Self::Beside(both) => vec![(Shown::StateOut, &both.mamba.output)],
            Self::Latent(latent) => latent.shown(),
        }
    }

    /// One of them, to be replaced.
    pub(crate) fn shown_mut(&mut self, which: Shown) -> Option<&mut Linear> {
        match self {
            Self::Beside(both) => Some(&mut both.mamba.output),
            Self::Latent(latent) => Some(latent.shown_mut(which)),
            Self::Attention(_)
            | Self::DeltaNet(_)
            | Self::ShortConv(_)
            | Self::Mamba2(_)
            | Self::Network(_)
            | Self::None => None,
        }
    }

    /// The layer whose outputs are added to the residual stream.
    pub(crate) fn output(&self) -> Option<&Linear> {
        match self {
            Self::Attention(attention) => Some(&attention.output),
            Self::Beside(both) => Some(&both.attention.output),
            Self::DeltaNet(net) => Some(&net.output),
            Self::ShortConv(conv) => Some(&conv.output),
            Self::Mamba2(mamba) => Some(&mamba.output),
            Self::Network(network) => Some(&network.down),
            Self::Latent(latent) => Some(&latent.output),
            Self::None => None,
        }
    }

    /// The same, to be replaced.
    pub(crate) fn output_mut(&mut self) -> Option<&mut Linear> {
        match self {
            Self::Attention(attention) => Some(&mut attention.output),
            Self::Beside(both) => Some(&mut both.attention.output),
            Self::DeltaNet(net) => Some(&mut net.output),
            Self::ShortConv(conv) => Some(&mut conv.output),
            Self::Mamba2(mamba) => Some(&mut mamba.output),
            Self::Network(network) => Some(&mut network.down),
            Self::Latent(latent) => Some(&mut latent.output),
            Self::None => None,
        }
    }

    /// The linear layers, in the order of the computation.
    pub(crate) fn linears(&self) -> Vec<&Linear> {
        let mut all = self.inputs();
        match self {
            Self::Attention(_)
            | Self::DeltaNet(_)
            | Self::ShortConv(_)
            | Self::Mamba2(_)
            | Self::Network(_)
            | Self::None => {}
            Self::Beside(both) => all.push(&both.mamba.output),
            Self::Latent(latent) => all.extend(latent.inner()),
        }
        all.extend(self.output());
        all
    }

    /// Numbers for each token in front of the output layer.
    pub(crate) fn width(&self) -> usize {
        match self {
            Self::Beside(both) => both.width(),
            Self::Attention(_)
            | Self::DeltaNet(_)
            | Self::ShortConv(_)
            | Self::Latent(_)
            | Self::Mamba2(_)
            | Self::Network(_)
            | Self::None => self.output().map_or(0, |output| output.op.weight.columns()),
        }
    }

    /// Values of the state that it keeps of a text in place of keys and values; none for attention.
    pub(crate) fn state(&self) -> usize {
        match self {
            Self::Attention(_) | Self::Latent(_) | Self::Network(_) | Self::None => 0,
            Self::DeltaNet(net) => net.parameters.state(),
            Self::ShortConv(conv) => conv.conv.state(),
            Self::Mamba2(mamba) => mamba.parameters.state(),
            Self::Beside(both) => both.mamba.parameters.state(),
        }
    }

    /// Memory for each token beside the input of the output layer, and attention's queries, keys and values.
    pub(crate) fn scratch(&self) -> usize {
        match self {
            Self::Attention(attention) => attention.scratch(),
            Self::Latent(latent) => latent.scratch(),
            Self::DeltaNet(net) => net.scratch(),
            Self::ShortConv(conv) => conv.scratch(),
            Self::Mamba2(mamba) => mamba.scratch(),
            Self::Beside(both) => both.scratch(),
            Self::Network(_) | Self::None => 0,
        }
    }

    /// Numbers in its vectors (norms within it); biases of linear layers are not counted.
    pub(crate) fn vector_values(&self) -> usize {
        match self {
            Self::Attention(attention) => attention.vector_values(),
            Self::DeltaNet(net) => net.parameters.values(),
            Self::ShortConv(conv) => conv.conv.values(),
            Self::Mamba2(mamba) => mamba.parameters.values(),
            Self::Beside(both) => both.vector_values(),
            Self::Latent(latent) => latent.vector_values(),
            Self::Network(_) | Self::None => 0,
        }
    }

    /// Whether a GPU computes with this layer in a form of the mixer's own, and not with it as it is.
    pub(crate) fn reshapes(linear: &Linear) -> bool {
        use quern_model::TensorRole as R;
        [R::AttentionKvUp, R::AttentionKUp, R::AttentionVUp].contains(&linear.role)
    }

    /// Bytes on a GPU beside those of the linear layers.
    pub(super) fn vector_bytes(&self) -> usize {
        match self {
            Self::Attention(attention) => attention.vector_bytes(),
            Self::DeltaNet(net) => net.parameters.gpu_bytes(),
            Self::ShortConv(conv) => conv.conv.gpu_bytes(),
            Self::Mamba2(mamba) => mamba.parameters.gpu_bytes(),
            // As `Model::beyond_gpus` says, no GPU has it.
            Self::Beside(_) | Self::Network(_) | Self::None => 0,
            Self::Latent(latent) => latent.vector_bytes(),
        }
    }

    /// This mixer on another device.
    pub(super) fn upload(&self, uploader: &mut Uploader) -> Result<Self> {
        match self {
            Self::Attention(attention) => attention.upload(uploader).map(Box::new).map(Self::Attention),
            Self::DeltaNet(net) => net.upload(uploader).map(Box::new).map(Self::DeltaNet),
            Self::ShortConv(conv) => conv.upload(uploader).map(Box::new).map(Self::ShortConv),
            Self::Mamba2(mamba) => mamba.upload(uploader).map(Box::new).map(Self::Mamba2),
            Self::Network(network) => network.upload(uploader).map(Box::new).map(Self::Network),
            Self::None => Ok(Self::None),
            // As `Model::beyond_gpus` says.
            Self::Beside(_) => Err(quern_compute::Error::Device.into()),
            Self::Latent(latent) => latent.upload(uploader).map(Box::new).map(Self::Latent),
        }
    }
}

/// Values of the states that a model keeps of a text, and memory for each token of its largest mixer beside attention's,
/// by its configuration alone.
pub(crate) fn state_sizes(config: &Config) -> (usize, usize) {
    let (query, key) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
    let apart = config.architecture.tensors.iter().any(|t| t.role == TensorRole::AttentionGate);
    let gates = match config.architecture.gated_attention {
        true => 3 * query + 2 * key,
        false if apart => query,
        false => index_scratch(config),
    };
    let Some(mixer) = config.state_mixer() else { return (0, gates) };
    let (state, scratch) = match mixer {
        StateMixer::DeltaNet(net) => {
            let shape = delta_net::shape_of(net);
            let made = shape.state() / shape.key_dim.max(1);
            let of = |role| config.architecture.tensors.iter().any(|tensor| tensor.role == role);
            let joined = if of(TensorRole::DeltaBetaAlpha) { delta_net::joined_scratch(&shape) } else { 0 };
            let scratch = joined + shape.width() + 2 * shape.values() + 2 * shape.value_heads + made;
            (conv_state(shape.width(), net.taps) + shape.state(), scratch)
        }
        StateMixer::ShortConv(conv) => (conv_state(config.hidden_size, conv.taps), 4 * config.hidden_size),
        StateMixer::Mamba2(mamba) => {
            let scan = mamba2::scan_of(mamba);
            let parts = scan.inner() + scan.width() + scan.heads;
            let made = scan.states() / scan.state.max(1);
            let beside = config.architecture.hybrid == Hybrid::Beside;
            let result = if beside { scan.inner() + config.hidden_size } else { 0 };
            (conv_state(scan.width(), mamba.taps) + scan.states(), 2 * parts + scan.inner() + made + result)
        }
    };
    let layers = (0..config.layers).filter(|&layer| config.has_state(layer)).count();
    (layers * state, scratch.max(gates))
}

/// Numbers for each token that a GPU has of convolved inputs, and of what projections compute in another order.
pub(crate) fn convolved(config: &Config) -> usize {
    match config.state_mixer() {
        Some(StateMixer::DeltaNet(net)) => {
            let shape = delta_net::shape_of(net);
            2 * shape.width() + shape.values() + 2 * shape.value_heads
        }
        Some(StateMixer::Mamba2(mamba)) => mamba2::scan_of(mamba).width(),
        Some(StateMixer::ShortConv(_)) | None => 0,
    }
}

/// The weight of a convolution, stored as `[channels][taps]`, as `[taps][channels]`.
fn taps_of(stored: &[f32], taps: usize) -> Vec<f32> {
    let channels = stored.len() / taps.max(1);
    (0..taps * channels).map(|at| stored[at % channels * taps + at / channels]).collect()
}
