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
use quern_compute::states::{causal_conv, decays, delta_rule, gated_norm, sigmoid};
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
        let shape = &net.shape;
        let (values, heads) = (shape.values(), shape.value_heads);
        let (qkv, rest) = scratch.host()?.split_at_mut(n * shape.width());
        let (gate, rest) = rest.split_at_mut(n * values);
        let (out, rest) = rest.split_at_mut(n * values);
        let (beta, rest) = rest.split_at_mut(n * heads);
        let alpha = &mut rest[..n * heads];
        let outputs = [&mut *qkv, &mut *gate, &mut *beta, &mut *alpha].map(ValuesMut::Host);
        let linears = [&net.qkv, &net.gate, &net.beta, &net.alpha];
        self.linear(linears, mixer_input(model, block, x), Output::Store(outputs))?;

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
