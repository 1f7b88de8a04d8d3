//! The first half of a block: from the residual stream to the inputs of the feed-forward network.

use quern_model::architecture::Block as BlockKind;

use crate::Result;

use super::{Calibrator, Layerwise};

impl Layerwise<'_> {
    pub(super) fn attention(&mut self, layer: usize, calibrator: &mut dyn Calibrator) -> Result<()> {
        let model = self.model;
        let original = &model.weights.blocks[layer];
        // In a parallel block the network's result is added as well before anything reads the sum.
        let directly = model.config.block != BlockKind::Parallel && original.attention_post_norm.is_none();

        let qkv = original.qkv.linears();
        self.each(|lane, _, tokens| lane.show_attention_inputs(&qkv, tokens, calibrator))?;
        self.replace(&qkv, calibrator, |block, index| block.qkv.linears_mut().swap_remove(index))?;

        let output = &original.attention_output;
        self.each(|lane, _, tokens| lane.show_attended((layer, output), tokens, directly, calibrator))?;
        self.replace(&[output], calibrator, |block, _| &mut block.attention_output)
    }
}
