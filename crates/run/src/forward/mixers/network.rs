//! A plain network in a mixer's place: each token by itself.

use quern_compute::{Input, Output, Values, ValuesMut};

use crate::Result;
use crate::weights::Network;

use super::super::activation;
use super::super::phases::{Phases, mixer_input};

impl Phases<'_, '_> {
    pub(super) fn network(
        &mut self,
        network: &Network,
        (x, keep): (Values<'_>, usize),
        mixed: ValuesMut<'_>,
    ) -> Result<()> {
        let (model, block) = (self.model, self.block);
        if mixed.is_empty() {
            return Ok(());
        }
        let x = x.slice(keep * model.config.hidden_size..x.len());
        let input: Input<'_> = mixer_input(model, block, x);
        self.linear([&network.up], input, Output::Activate(activation(&model.config), mixed))
    }
}
