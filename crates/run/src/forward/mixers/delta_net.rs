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
use quern_compute::states::DeltaShape;
use quern_compute::{Input, Output, Values, ValuesMut};

use crate::Result;
use crate::weights::{DeltaNet, DeltaProjections};

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
        let values = parameters.shape.values();
        let (mut all, rest) = scratch.split_at(n * parameters.row());
        let (scratch, rest) = rest.split_at(n * values);
        let input = mixer_input(model, block, x);
        let rows = match self.executor.joins_heads() {
            true => {
                match &net.project {
                    DeltaProjections::Apart { qkv, gate, beta, alpha } => {
                        self.linear([qkv, gate, beta, alpha], input, Output::Join(all.reborrow()))?;
                    }
                    DeltaProjections::Paired { qkv, gate, beta_alpha } => {
                        self.linear([qkv, gate, beta_alpha], input, Output::Join(all.reborrow()))?;
                    }
                    DeltaProjections::Joined { qkvz, beta_alpha } => {
                        self.linear([qkvz, beta_alpha], input, Output::Join(all.reborrow()))?;
                    }
                }
                DeltaRows::Joined(all.as_values())
            }
            false => self.delta_rows(net, input, n, all, rest)?,
        };
        Ok(self.executor.delta_net(Net { parameters, rows, state, scratch, skip: keep, out: mixed })?)
    }

    /// What the projections compute, each part in a memory of its own: the CPU's.
    fn delta_rows<'r>(
        &mut self,
        net: &DeltaNet,
        input: Input<'_>,
        n: usize,
        all: ValuesMut<'r>,
        rest: ValuesMut<'r>,
    ) -> Result<DeltaRows<'r>> {
        let shape = &net.parameters.shape;
        let (values, heads) = (shape.values(), shape.value_heads);
        let (mut qkv, all) = all.split_at(n * shape.width());
        let (mut gate, all) = all.split_at(n * values);
        let (mut beta, mut alpha) = all.split_at(n * heads);
        match &net.project {
            DeltaProjections::Apart { qkv: q, gate: g, beta: b, alpha: a } => {
                let outputs = [&mut qkv, &mut gate, &mut beta, &mut alpha].map(ValuesMut::reborrow);
                self.linear([q, g, b, a], input, Output::Store(outputs))?;
            }
            DeltaProjections::Paired { qkv: q, gate: g, beta_alpha } => {
                let mut pairs = rest.slice(0..2 * n * heads);
                let outputs = [&mut qkv, &mut gate, &mut pairs].map(ValuesMut::reborrow);
                self.linear([q, g, beta_alpha], input, Output::Store(outputs))?;
                let parts = [beta.reborrow().host()?, alpha.reborrow().host()?];
                part_pairs(pairs.host()?, heads / shape.key_heads, parts);
            }
            DeltaProjections::Joined { qkvz, beta_alpha } => {
                let (mut joined, rest) = rest.split_at(n * (shape.width() + values));
                let mut pairs = rest.slice(0..2 * n * heads);
                let outputs = [&mut joined, &mut pairs].map(ValuesMut::reborrow);
                self.linear([qkvz, beta_alpha], input, Output::Store(outputs))?;
                let parts = [beta.reborrow().host()?, alpha.reborrow().host()?];
                part_pairs(pairs.host()?, heads / shape.key_heads, parts);
                part_heads(shape, joined.host()?, qkv.reborrow().host()?, gate.reborrow().host()?);
            }
        }
        Ok(DeltaRows::Separate { qkv, gate, beta, alpha })
    }
}

/// Parts rows of pairs: of each key head `own` numbers of the first output, then as many of the second.
fn part_pairs(joined: &[f32], own: usize, [first, second]: [&mut [f32]; 2]) {
    let outputs = first.chunks_exact_mut(own).zip(second.chunks_exact_mut(own));
    for (joined, (first, second)) in joined.chunks_exact(2 * own).zip(outputs) {
        first.copy_from_slice(&joined[..own]);
        second.copy_from_slice(&joined[own..]);
    }
}

/// Parts rows of queries, keys, values and gates, those of one key head together.
fn part_heads(shape: &DeltaShape, joined: &[f32], qkv: &mut [f32], gates: &mut [f32]) {
    let (key, value) = (shape.key_dim, shape.values() / shape.key_heads);
    let keys = shape.key_heads * key;
    let rows = joined.chunks_exact(shape.width() + shape.values());
    let outputs = qkv.chunks_exact_mut(shape.width()).zip(gates.chunks_exact_mut(shape.values()));
    for (row, (qkv, gates)) in rows.zip(outputs) {
        for (head, joined) in row.chunks_exact(2 * (key + value)).enumerate() {
            qkv[head * key..][..key].copy_from_slice(&joined[..key]);
            qkv[keys + head * key..][..key].copy_from_slice(&joined[key..2 * key]);
            qkv[2 * keys + head * value..][..value].copy_from_slice(&joined[2 * key..][..value]);
            gates[head * value..][..value].copy_from_slice(&joined[2 * key + value..]);
        }
    }
}
