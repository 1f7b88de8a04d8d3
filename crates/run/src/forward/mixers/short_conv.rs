//! The gated convolution: `y = c * convolution(b * u)`, with `b`, `c` and `u` computed from the block's input.

use quern_compute::mixers::GatedConvolution;
use quern_compute::{Output, Values, ValuesMut};

use crate::Result;
use crate::weights::ShortConv;

use super::super::phases::{Phases, mixer_input};
use super::StateRoom;

impl Phases<'_, '_> {
    pub(super) fn short_conv(
        &mut self,
        conv: &ShortConv,
        (x, keep): (Values<'_>, usize),
        StateRoom { state, scratch }: StateRoom<'_>,
        mixed: ValuesMut<'_>,
    ) -> Result<()> {
        let (model, block) = (self.model, self.block);
        let n = x.len() / model.config.hidden_size;
        let width = conv.conv.channels;
        let (mut rows, rest) = scratch.split_at(3 * n * width);
        let output = Output::Store([rows.reborrow()]);
        self.linear([&conv.input], mixer_input(model, block, x), output)?;
        let (rows, scratch) = (rows.as_values(), rest.slice(0..n * width));
        let conv = &conv.conv;
        Ok(self.executor.gated_convolution(GatedConvolution {
            conv,
            rows,
            state,
            scratch,
            skip: keep,
            out: mixed,
        })?)
    }
}
