//! The mixers: the first half of a block, which lets tokens read earlier tokens.

mod attention;
mod latent;

use quern_compute::Uploader;
use quern_model::Config;

use super::Linear;
use super::lookup::Lookup;
use crate::Result;

pub(crate) use attention::{Attention, HeadNorms, Qkv};
pub(crate) use latent::{LatentAttention, Queries, Shown, Up};

/// The first half of a block, from its normed input to what is added to the residual stream.
#[derive(Clone, Debug)]
pub(crate) enum Mixer {
    /// Attention over cached keys and values.
    Attention(Box<Attention>),
    /// Attention whose keys and values are made of cached latent vectors.
    Latent(Box<LatentAttention>),
}

impl Mixer {
    /// Takes the tensors of a layer's mixer.
    pub(super) fn resolve(lookup: &Lookup<'_, '_>, config: &Config, layer: usize) -> Result<Self> {
        match &config.latent {
            Some(latent) => {
                LatentAttention::resolve(lookup, config, latent, layer).map(Box::new).map(Self::Latent)
            }
            None => Attention::resolve(lookup, config, layer).map(Box::new).map(Self::Attention),
        }
    }

    /// Attention, where it is that.
    pub(crate) fn attention(&self) -> Option<&Attention> {
        match self {
            Self::Attention(attention) => Some(attention),
            Self::Latent(_) => None,
        }
    }

    /// The same, to be changed.
    pub(crate) fn attention_mut(&mut self) -> Option<&mut Attention> {
        match self {
            Self::Attention(attention) => Some(attention),
            Self::Latent(_) => None,
        }
    }

    /// The layers that read the block's normed input, in the order of their outputs.
    pub(crate) fn inputs(&self) -> Vec<&Linear> {
        match self {
            Self::Attention(attention) => attention.qkv.linears(),
            Self::Latent(latent) => latent.inputs(),
        }
    }

    /// The same, to be replaced.
    pub(crate) fn inputs_mut(&mut self) -> Vec<&mut Linear> {
        match self {
            Self::Attention(attention) => attention.qkv.linears_mut(),
            Self::Latent(latent) => latent.inputs_mut(),
        }
    }

    /// The layers within whose inputs calibration can show, in the order of the computation.
    pub(crate) fn shown(&self) -> Vec<(Shown, &Linear)> {
        match self {
            Self::Attention(_) => Vec::new(),
            Self::Latent(latent) => latent.shown(),
        }
    }

    /// One of them, to be replaced.
    pub(crate) fn shown_mut(&mut self, which: Shown) -> &mut Linear {
        match self {
            Self::Attention(attention) => &mut attention.output,
            Self::Latent(latent) => latent.shown_mut(which),
        }
    }

    /// The layer whose outputs are added to the residual stream.
    pub(crate) fn output(&self) -> &Linear {
        match self {
            Self::Attention(attention) => &attention.output,
            Self::Latent(latent) => &latent.output,
        }
    }

    /// The same, to be replaced.
    pub(crate) fn output_mut(&mut self) -> &mut Linear {
        match self {
            Self::Attention(attention) => &mut attention.output,
            Self::Latent(latent) => &mut latent.output,
        }
    }

    /// The linear layers, in the order of the computation.
    pub(crate) fn linears(&self) -> Vec<&Linear> {
        let mut all = self.inputs();
        match self {
            Self::Attention(_) => {}
            Self::Latent(latent) => all.extend(latent.inner()),
        }
        all.push(self.output());
        all
    }

    /// Numbers for each token in front of the output layer.
    pub(crate) fn width(&self) -> usize {
        self.output().op.weight.columns()
    }

    /// Numbers in its vectors (norms within it); biases of linear layers are not counted.
    pub(crate) fn vector_values(&self) -> usize {
        match self {
            Self::Attention(attention) => attention.vector_values(),
            Self::Latent(latent) => latent.vector_values(),
        }
    }

    /// Bytes on a GPU beside those of the linear layers.
    pub(super) fn vector_bytes(&self) -> usize {
        match self {
            Self::Attention(attention) => attention.vector_bytes(),
            Self::Latent(latent) => latent.vector_bytes(),
        }
    }

    /// This mixer on another device.
    pub(super) fn upload(&self, uploader: &mut Uploader) -> Result<Self> {
        match self {
            Self::Attention(attention) => attention.upload(uploader).map(Box::new).map(Self::Attention),
            Self::Latent(latent) => latent.upload(uploader).map(Box::new).map(Self::Latent),
        }
    }
}
