//! The second half of a block, where it is one network: from the output projection to the residual stream.

use crate::Result;
use crate::weights::{Ffn, Linear, Widen};

use super::{Calibrator, Layerwise};

impl Layerwise<'_> {
    pub(super) fn dense(
        &mut self,
        layer: usize,
        (widen, down): (&Widen, &Linear),
        calibrator: &mut dyn Calibrator,
    ) -> Result<()> {
        let directly = self.model.weights.blocks[layer].ffn_post_norm.is_none();

        let widen = widen.linears();
        self.each(|lane, _, tokens| {
            lane.project(layer, tokens)?;
            lane.show_network_inputs(&widen, tokens, calibrator)
        })?;
        self.replace(&widen, calibrator, |block, index| match &mut block.ffn {
            Ffn::Dense { widen, .. } => Some(widen.linears_mut().swap_remove(index)),
            Ffn::Experts(_) | Ffn::None => None,
        })?;

        self.each(|lane, _, tokens| lane.show_widened(down, tokens, directly, calibrator))?;
        self.replace(&[down], calibrator, |block, _| match &mut block.ffn {
            Ffn::Dense { down, .. } => Some(down),
            Ffn::Experts(_) | Ffn::None => None,
        })?;

        match &self.model.weights.blocks[layer].beside {
            Some(own) => {
                self.each(|lane, _, tokens| lane.dense_beside(tokens))?;
                self.mixture(&own.experts, calibrator)
            }
            None => self.each(|lane, _, tokens| lane.narrow(tokens)),
        }
    }
}
