//! What tokens add in a layer behind its network, and the factor at the block's end (Gemma 4).

use crate::Result;
use crate::weights::{Block, Linear, PerLayer};

use super::{Calibrator, Layerwise};

impl Layerwise<'_> {
    pub(super) fn per_layer(
        &mut self,
        layer: usize,
        original: &Block,
        calibrator: &mut dyn Calibrator,
    ) -> Result<()> {
        if original.streams.is_some() {
            self.each(|lane, _, tokens| lane.correct(tokens))?;
        }
        if let Some(own) = &original.per_layer {
            self.each(|lane, _, tokens| lane.show_hidden(&own.gate, tokens, calibrator))?;
            self.replace(&[&own.gate], calibrator, |block, _| place(block, |own| &mut own.gate))?;
            self.each(|lane, _, tokens| lane.show_own((layer, &own.output), tokens, calibrator))?;
            self.replace(&[&own.output], calibrator, |block, _| place(block, |own| &mut own.output))?;
            self.each(|lane, _, tokens| lane.add_own(tokens))?;
        }
        if original.scale.is_some() {
            self.each(|lane, _, tokens| lane.scale(tokens))?;
        }
        Ok(())
    }
}

/// A layer of a block that has such.
fn place(block: &mut Block, of: impl Fn(&mut PerLayer) -> &mut Linear) -> Option<&mut Linear> {
    block.per_layer.as_mut().map(|own| of(own))
}
