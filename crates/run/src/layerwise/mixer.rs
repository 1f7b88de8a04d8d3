//! The first half of a block, the mixer: from the residual stream to the inputs of its output layer.

use quern_model::architecture::Block as BlockKind;

use crate::Result;

use super::{Calibrator, Layerwise};

impl Layerwise<'_> {
    pub(super) fn mixer(&mut self, layer: usize, calibrator: &mut dyn Calibrator) -> Result<()> {
        let model = self.model;
        let original = &model.weights.blocks[layer];
        // In a parallel block the network's result is added as well before anything reads the sum.
        let directly = model.config.block != BlockKind::Parallel && original.attention_post_norm.is_none();

        // A block that is a mixture of experts alone.
        let Some(output) = original.mixer.output() else { return Ok(()) };

        let inputs = original.mixer.inputs();
        self.each(|lane, _, tokens| lane.show_mixer_inputs(&inputs, tokens, calibrator))?;
        self.replace(&inputs, calibrator, |block, index| Some(block.mixer.inputs_mut().swap_remove(index)))?;

        for (which, linear) in original.mixer.shown() {
            self.each(|lane, _, tokens| lane.show_within((which, linear), tokens, calibrator))?;
            self.replace(&[linear], calibrator, |block, _| block.mixer.shown_mut(which))?;
        }

        self.each(|lane, _, tokens| lane.show_mixed((layer, output), tokens, directly, calibrator))?;
        self.replace(&[output], calibrator, |block, _| block.mixer.output_mut())
    }
}
