//! The first half of a block: from the residual stream to the inputs of the feed-forward network.

use quern_compute::Values;
use quern_model::TensorRole;
use quern_model::architecture::Block as BlockKind;

use crate::Result;
use crate::observer::{Inputs, observe};
use crate::weights::Block;

use super::calibrator::replace;
use super::{Calibrator, Layerwise};

impl Layerwise<'_> {
    pub(super) fn attention(
        &mut self,
        layer: usize,
        block: &mut Block,
        calibrator: &mut dyn Calibrator,
    ) -> Result<()> {
        let config = &self.model.config;
        let (hidden, query) = (config.hidden_size, config.heads * config.head_dim);
        let original = &self.model.weights.blocks[layer];
        // In a parallel block the network's result is added as well before anything reads the sum.
        let directly = config.block != BlockKind::Parallel && original.attention_post_norm.is_none();

        // Inputs of Q, K and V.
        if config.block != BlockKind::PostNorm {
            let (norm, own, role) = match (&mut block.attention_norm_2, &original.attention_norm_2) {
                (Some(norm), Some(own)) => (norm, own, TensorRole::AttentionNorm2),
                _ => (&mut block.attention_norm, &original.attention_norm, TensorRole::AttentionNorm),
            };
            self.refit((role, Some(layer)), norm, own, calibrator)?;
        }
        let Self { sequences, current, reference, steps, views, .. } = self;
        for tokens in &*sequences {
            let values = tokens.len() * hidden;
            let normed = &mut views.normed[..values];
            steps.attention_input(block, current.hidden_of(tokens), normed)?;
            let mut inputs = Inputs::from(Values::Host(normed));
            if let Some(reference) = reference {
                let normed = &mut views.reference[..values];
                steps.attention_input(original, reference.hidden_of(tokens), normed)?;
                inputs.reference = Some(Values::Host(normed));
            }
            observe(calibrator, &mut steps.executor, &original.qkv.linears(), inputs)?;
        }
        replace(calibrator, &mut block.qkv.linears_mut())?;

        // Attention, and the inputs of the output projection.
        for tokens in &*sequences {
            steps.attend((layer, block), current, tokens)?;
            let mut inputs = Inputs::from(Values::Host(current.inputs_of(query, tokens)));
            if let Some(reference) = reference {
                steps.attend((layer, original), reference, tokens)?;
                inputs.reference = Some(Values::Host(reference.inputs_of(query, tokens)));
                inputs.drift = directly.then(|| Values::Host(views.drift(current, reference, tokens)));
            }
            observe(calibrator, &mut steps.executor, &[&original.attention_output], inputs)?;
        }
        replace(calibrator, &mut [&mut block.attention_output])?;

        // The output projection, and the inputs of the network: in a parallel block of the same residual stream.
        if config.block == BlockKind::Parallel {
            self.network_norm(layer, block, calibrator)?;
        }
        let Self { sequences, current, reference, steps, .. } = self;
        for tokens in &*sequences {
            steps.before_project(block, current, tokens)?;
            steps.project(block, current, tokens)?;
            if let Some(reference) = reference {
                steps.before_project(original, reference, tokens)?;
                steps.project(original, reference, tokens)?;
            }
        }
        if config.block == BlockKind::Sequential {
            self.network_norm(layer, block, calibrator)?;
        }
        let Self { sequences, current, reference, steps, .. } = self;
        for tokens in &*sequences {
            steps.network_input(block, current, tokens)?;
            if let Some(reference) = reference {
                steps.network_input(original, reference, tokens)?;
            }
        }
        Ok(())
    }

    /// Lets the norm in front of the network be refitted, unless it is the attention's too.
    fn network_norm(
        &mut self,
        layer: usize,
        block: &mut Block,
        calibrator: &mut dyn Calibrator,
    ) -> Result<()> {
        let original = &self.model.weights.blocks[layer];
        let (norm, own, role) = match (&mut block.ffn_norm, &original.ffn_norm) {
            (Some(norm), Some(own)) => (norm, own, TensorRole::FfnNorm),
            // Falcon 40B: the attention has one of its own, and this is the network's.
            _ if original.attention_norm_2.is_some() => {
                (&mut block.attention_norm, &original.attention_norm, TensorRole::AttentionNorm)
            }
            _ => return Ok(()),
        };
        self.refit((role, Some(layer)), norm, own, calibrator)
    }
}
