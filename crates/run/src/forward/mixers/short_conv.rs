//! The gated convolution: `y = c * convolution(b * u)`, with `b`, `c` and `u` computed from the block's input.

use quern_compute::states::{causal_conv, multiply};
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
        let width = conv.channels();
        let (all, rest) = scratch.host()?.split_at_mut(3 * n * width);
        let made = &mut rest[..n * width];
        let output = Output::Store([ValuesMut::Host(all)]);
        self.linear([&conv.input], mixer_input(model, block, x), output)?;

        for (row, made) in all.chunks_exact(3 * width).zip(made.chunks_exact_mut(width)) {
            let (gate, values) = (&row[..width], &row[2 * width..]);
            for ((made, gate), value) in made.iter_mut().zip(gate).zip(values) {
                *made = gate * value;
            }
        }
        causal_conv(&model.pool, made, conv.taps(), state.host()?, None)?;
        let mixed = mixed.host()?;
        let rows = all.chunks_exact(3 * width).skip(keep);
        for (row, mixed) in rows.zip(mixed.chunks_exact_mut(width)) {
            mixed.copy_from_slice(&row[width..2 * width]);
        }
        Ok(multiply(&model.pool, mixed, &made[keep * width..])?)
    }
}
