//! The mixers' part of the forward pass, one file each: from the residual stream to the input of the output layer.

mod attention;
mod latent;

use quern_compute::{Values, ValuesMut};
use quern_model::Config;

use crate::Result;
use crate::weights::Mixer;

use super::phases::Phases;

pub(super) use attention::Remote;
pub(crate) use attention::{AttentionBuffers, KvTarget, attention_shape, rope_style};

/// What a mixer has beside the residual stream.
pub(crate) struct MixerRoom<'p> {
    /// What it keeps of earlier tokens.
    pub(crate) target: KvTarget<'p>,
    /// Memory to compute in.
    pub(crate) buffers: AttentionBuffers<'p>,
}

/// Numbers for each token that a mixer computes in, in the three memories of [`AttentionBuffers`]: queries, keys, values;
/// or what latent attention has in their place.
pub(crate) fn widths(config: &Config) -> [usize; 3] {
    match &config.latent {
        Some(sizes) => latent::latent_widths(config, sizes),
        None => {
            let key = config.kv_heads * config.head_dim;
            [config.heads * config.head_dim, key, key]
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
        let MixerRoom { target, buffers } = room;
        match &self.block.mixer {
            Mixer::Attention(attention) => self.attend(attention, (x, keep), target, buffers, mixed),
            Mixer::Latent(latent) => self.attend_latent(latent, (x, keep), target, buffers, mixed),
        }
    }
}
