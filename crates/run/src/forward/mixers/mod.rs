//! The mixers' part of the forward pass, one file each: from the residual stream to the input of the output layer.

mod attention;
mod beside;
mod delta_net;
mod indexer;
mod latent;
mod mamba2;
mod network;
mod short_conv;

use std::ops::Range;

use quern_compute::{Buffer, Device, Executor, Values, ValuesMut};
use quern_model::Config;

use crate::weights::{Block, Mixer};
use crate::{Model, Result};

use super::phases::Phases;

pub(super) use attention::Remote;
pub(crate) use attention::{AttentionBuffers, KvTarget, attention_shape, rope_style};
pub(crate) use indexer::IndexRoom;

/// What a mixer has beside the residual stream.
pub(crate) struct MixerRoom<'p> {
    /// Where attention keeps keys and values.
    pub(crate) target: KvTarget<'p>,
    /// Memory of attention to compute in.
    pub(crate) buffers: AttentionBuffers<'p>,
    /// What other mixers keep, and memory to compute in.
    pub(crate) states: StateRoom<'p>,
    /// Of sparse attention, where a text may have more positions than it reads.
    pub(crate) index: Option<IndexRoom<'p>>,
}

/// What a mixer with a state has.
pub(crate) struct StateRoom<'p> {
    /// What it keeps of the tokens before the batch; at position 0 it may hold anything.
    pub(crate) state: ValuesMut<'p>,
    /// Memory to compute in, [`Mixer::scratch`] for each token.
    pub(crate) scratch: ValuesMut<'p>,
}

/// Numbers for each token that a mixer computes in, in the three memories of [`AttentionBuffers`]: queries, keys, values;
/// or what latent attention has in their place.
pub(crate) fn widths(config: &Config) -> [usize; 3] {
    match &config.latent {
        Some(sizes) => latent::latent_widths(config, sizes),
        None => {
            let (query, key) = config.widest_heads();
            [query, key, key]
        }
    }
}

impl Phases<'_, '_> {
    /// From the residual stream of a batch to what the mixer made of the rows from `keep` on, the input of the output
    /// layer. All rows are kept for the tokens that follow.
    pub(crate) fn mix(
        &mut self,
        x: Values<'_>,
        keep: usize,
        room: MixerRoom<'_>,
        mixed: ValuesMut<'_>,
    ) -> Result<()> {
        let MixerRoom { target, buffers, mut states, index } = room;
        if target.first == 0 && !states.state.is_empty() {
            // A text begins.
            self.executor.clear(states.state.reborrow())?;
        }
        let input = (x, keep);
        match &self.block.mixer {
            Mixer::Attention(attention) => {
                self.attend(attention, input, target, buffers, states.scratch, mixed)
            }
            Mixer::Latent(latent) => {
                self.attend_latent(latent, input, target, buffers, (states.scratch, index), mixed)
            }
            Mixer::DeltaNet(net) => self.delta_net(net, input, states, mixed),
            Mixer::ShortConv(conv) => self.short_conv(conv, input, states, mixed),
            Mixer::Mamba2(mamba) => self.mamba2(mamba, input, states, mixed),
            Mixer::Beside(both) => self.beside(both, input, (target, buffers, states), mixed),
            Mixer::Network(network) => self.network(network, input, mixed),
            Mixer::None => Ok(()),
        }
    }
}

/// What the layers with a state keep of a text, on one device.
#[derive(Debug)]
pub(crate) struct States {
    /// One for each layer of the model; empty for those with attention.
    layers: Vec<Buffer>,
}

impl States {
    /// Room for the states of all layers.
    pub(crate) fn new(model: &Model, device: &Device) -> Result<Self> {
        let state = |block: &Block| {
            let mut buffer = Buffer::new(device);
            if block.mixer.state() > 0 {
                buffer.reserve(block.mixer.state())?;
            }
            Ok(buffer)
        };
        Ok(Self { layers: model.weights.blocks.iter().map(state).collect::<Result<_>>()? })
    }

    /// The state of a layer.
    pub(crate) fn of(&mut self, layer: usize) -> ValuesMut<'_> {
        let length = self.layers[layer].len();
        self.layers[layer].front_mut(length)
    }

    /// Copies of all, in RAM.
    ///
    /// # Errors
    /// A GPU is lost.
    pub(crate) fn copies(&self, executor: &mut Executor) -> Result<Vec<Vec<f32>>> {
        let copy = |state: &Buffer| {
            let mut copy = vec![0.0; state.len()];
            if !copy.is_empty() {
                executor.download(state.front(state.len()), &mut copy)?;
            }
            Ok(copy)
        };
        self.layers.iter().map(copy).collect()
    }

    /// Takes copies back, between passes.
    ///
    /// # Errors
    /// A GPU is lost.
    pub(crate) fn restore(&mut self, executor: &mut Executor, copies: &[Vec<f32>]) -> Result<()> {
        for (state, copy) in self.layers.iter_mut().zip(copies) {
            executor.put(copy, state.front_mut(copy.len()))?;
        }
        Ok(())
    }

    /// Takes the states of some layers from another device, one of both being the CPU.
    ///
    /// # Errors
    /// A GPU is lost.
    pub(crate) fn take(
        &mut self,
        executor: &mut Executor,
        (from, theirs): (&Self, &mut Executor),
        layers: Range<usize>,
    ) -> Result<()> {
        for (to, from) in self.layers[layers.clone()].iter_mut().zip(&from.layers[layers]) {
            let length = from.len();
            match (from.front(length), to.front_mut(length)) {
                (_, to) if to.is_empty() => {}
                (Values::Host(from), to) => executor.put(from, to)?,
                (from, to) => theirs.download(from, to.host()?)?,
            }
        }
        Ok(())
    }
}
