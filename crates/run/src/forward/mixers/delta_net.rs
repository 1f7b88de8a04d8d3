//! The gated delta net: convolved queries, keys and values through a matrix for each head, which forgets and is corrected
//! with every token.
//!
//! ```text
//! norm(x) -> qkv, gate, beta, alpha
//! qkv -> convolution, SiLU -> q, k of length one; v
//! decay = e^(rate * softplus(alpha + bias)), step = sigmoid(beta)
//! delta rule(q, k, v, decay, step) -> norm of each head * SiLU(gate) -> output layer
//! ```

use quern_compute::mixers::{DeltaNet as Net, DeltaRows};
use quern_compute::{Output, Values, ValuesMut};

use crate::Result;
use crate::weights::DeltaNet;

use super::super::phases::{Phases, mixer_input};
use super::StateRoom;

impl Phases<'_, '_> {
    pub(super) fn delta_net(
        &mut self,
        net: &DeltaNet,
        (x, keep): (Values<'_>, usize),
        StateRoom { state, scratch }: StateRoom<'_>,
        mixed: ValuesMut<'_>,
    ) -> Result<()> {
        let (model, block) = (self.model, self.block);
        let n = x.len() / model.config.hidden_size;
        let parameters = &net.parameters;
        let (width, values, heads) =
            (parameters.shape.width(), parameters.shape.values(), parameters.shape.value_heads);
        let linears = [&net.qkv, &net.gate, &net.beta, &net.alpha];
        let input = mixer_input(model, block, x);
        let (mut all, rest) = scratch.split_at(n * parameters.row());
        let rows = match self.executor.joins_heads() {
            true => {
                self.linear(linears, input, Output::Join(all.reborrow()))?;
                DeltaRows::Joined(all.as_values())
            }
            false => {
                let (mut qkv, rest) = all.split_at(n * width);
                let (mut gate, rest) = rest.split_at(n * values);
                let (mut beta, mut alpha) = rest.split_at(n * heads);
                let outputs = [&mut qkv, &mut gate, &mut beta, &mut alpha].map(ValuesMut::reborrow);
                self.linear(linears, input, Output::Store(outputs))?;
                DeltaRows::Separate { qkv, gate, beta, alpha }
            }
        };
        let scratch = rest.slice(0..n * values);
        Ok(self.executor.delta_net(Net { parameters, rows, state, scratch, skip: keep, out: mixed })?)
    }
}
