//! Mamba-2: convolved inputs through a state for each head, which decays and is written and read as the token says.
//!
//! ```text
//! norm(x) -> gate, inputs with b and c, steps
//! inputs, b, c -> convolution, SiLU
//! scan(inputs, b, c, softplus(steps + bias)) * SiLU(gate) -> norm of each group -> output layer
//! ```

use quern_compute::ops::{Activation, activate_mul};
use quern_compute::states::{causal_conv, norm_of_gated, selective_scan, time_steps};
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
        let shape = &mamba.shape;
        let (inner, width, heads) = (shape.inner(), shape.width(), shape.heads);
        let (all, rest) = scratch.host()?.split_at_mut(n * (inner + width + heads));
        let (gate, rest) = rest.split_at_mut(n * inner);
        let (convolved, rest) = rest.split_at_mut(n * width);
        let (steps, rest) = rest.split_at_mut(n * heads);
        let out = &mut rest[..n * inner];
        let output = Output::Store([ValuesMut::Host(all)]);
        self.linear([&mamba.input], mixer_input(model, block, x), output)?;
        let parts = gate.chunks_exact_mut(inner).zip(convolved.chunks_exact_mut(width));
        let parts = parts.zip(steps.chunks_exact_mut(heads));
        for (row, ((gate, convolved), steps)) in all.chunks_exact(inner + width + heads).zip(parts) {
            gate.copy_from_slice(&row[..inner]);
            convolved.copy_from_slice(&row[inner..inner + width]);
            steps.copy_from_slice(&row[inner + width..]);
            if let Some(factors) = &mamba.factors {
                let shared = shape.groups * shape.state;
                let (x, rest) = convolved.split_at_mut(inner);
                let (b, c) = rest.split_at_mut(shared);
                for (part, factor) in [&mut *gate, x, b, c, steps].into_iter().zip(factors) {
                    part.iter_mut().for_each(|value| *value *= factor);
                }
            }
        }

        let pool = &model.pool;
        let (before, state) = state.host()?.split_at_mut(mamba.states().0);
        causal_conv(pool, convolved, mamba.taps(), before, Some(Activation::Silu))?;
        time_steps(steps, &mamba.time_bias, (0.0, f32::INFINITY))?;
        let rates = (&mamba.rates[..], &mamba.skips[..]);
        selective_scan(pool, shape, convolved, steps, rates, state, out)?;
        let rows = keep * inner..;
        let gated = (&out[rows.clone()], &mut gate[rows]);
        let group = inner / shape.groups.max(1);
        let mixed = mixed.host()?;
        match &mamba.norm {
            Some(norm) => norm_of_gated(pool, gated, (norm, mamba.epsilon), group, mixed)?,
            None => {
                mixed.copy_from_slice(gated.1);
                activate_mul(pool.level(), Activation::Silu, mixed, gated.0);
            }
        }
        Ok(())
    }
}
