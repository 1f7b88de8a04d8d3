//! Mamba-2: convolved inputs through a state for each head, which decays and is written and read as the token says.
//!
//! ```text
//! norm(x) -> gate, inputs with b and c, steps
//! inputs, b, c -> convolution, SiLU
//! scan(inputs, b, c, softplus(steps + bias)) * SiLU(gate) -> norm of each group -> output layer
//! ```

use quern_compute::mixers::Mamba2 as Scan;
use quern_compute::{Output, Values, ValuesMut};

use crate::Result;
use crate::weights::Mamba2;

use super::super::phases::{Phases, mixer_input};
use super::StateRoom;

impl Phases<'_, '_> {
    pub(super) fn mamba2(
        &mut self,
        mamba: &Mamba2,
        (x, keep): (Values<'_>, usize),
        StateRoom { state, scratch }: StateRoom<'_>,
        mixed: ValuesMut<'_>,
    ) -> Result<()> {
        let (model, block) = (self.model, self.block);
        let n = x.len() / model.config.hidden_size;
        let parameters = &mamba.parameters;
        let (mut rows, rest) = scratch.split_at(n * parameters.row());
        let output = Output::Store([rows.reborrow()]);
        self.linear([&mamba.input], mixer_input(model, block, x), output)?;
        let (rows, scratch) = (rows.as_values(), rest.slice(0..n * parameters.scratch()));
        Ok(self.executor.mamba2(Scan { parameters, rows, state, scratch, skip: keep, out: mixed })?)
    }
}
