//! The gated delta net: convolved queries, keys and values through a matrix for each head, which forgets and is corrected
//! with every token.
//!
//! ```text
//! norm(x) -> qkv, gate, beta, alpha
//! qkv -> convolution, SiLU -> q, k of length one; v
//! decay = e^(rate * softplus(alpha + bias)), step = sigmoid(beta)
//! delta rule(q, k, v, decay, step) -> norm of each head * SiLU(gate) -> output layer
//! ```

use quern_compute::ops::Activation;
use quern_compute::states::{DeltaShape, causal_conv, decays, delta_rule, gated_norm, sigmoid};
use quern_compute::{Output, Values, ValuesMut};

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
        let shape = &net.shape;
        let (values, heads) = (shape.values(), shape.value_heads);
        let (qkv, rest) = scratch.host()?.split_at_mut(n * shape.width());
        let (gate, rest) = rest.split_at_mut(n * values);
        let (out, rest) = rest.split_at_mut(n * values);
        let (beta, rest) = rest.split_at_mut(n * heads);
        let (alpha, rest) = rest.split_at_mut(n * heads);
        let input = mixer_input(model, block, x);
        match &net.project {
            DeltaProjections::Apart { qkv: q, gate: g, beta: b, alpha: a } => {
                let outputs = [&mut *qkv, &mut *gate, &mut *beta, &mut *alpha].map(ValuesMut::Host);
                self.linear([q, g, b, a], input, Output::Store(outputs))?;
            }
            DeltaProjections::Paired { qkv: q, gate: g, beta_alpha } => {
                let pairs = &mut rest[..2 * n * heads];
                let outputs = [&mut *qkv, &mut *gate, &mut *pairs].map(ValuesMut::Host);
                self.linear([q, g, beta_alpha], input, Output::Store(outputs))?;
                part_pairs(pairs, heads / shape.key_heads, [beta, alpha]);
            }
            DeltaProjections::Joined { qkvz, beta_alpha } => {
                let (all, rest) = rest.split_at_mut(n * (shape.width() + values));
                let pairs = &mut rest[..2 * n * heads];
                let outputs = [&mut *all, &mut *pairs].map(ValuesMut::Host);
                self.linear([qkvz, beta_alpha], input, Output::Store(outputs))?;
                part_pairs(pairs, heads / shape.key_heads, [beta, alpha]);
                part_heads(shape, all, qkv, gate);
            }
        }

        let pool = &model.pool;
        let (convolved, state) = state.host()?.split_at_mut(net.states().0);
        causal_conv(pool, qkv, net.taps(), convolved, Some(Activation::Silu))?;
        decays(alpha, &net.rates, &net.time_bias)?;
        sigmoid(beta);
        delta_rule(pool, shape, qkv, (alpha, beta), state, out)?;
        let rows = keep * values..;
        gated_norm(pool, &out[rows.clone()], &mut gate[rows], &net.norm, net.epsilon, mixed.host()?)?;
        Ok(())
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
