//! Mixers other than attention over keys and values.

use super::Executor;
use crate::error::same;
use crate::executor::mixers::{Convolution, DeltaNet, DeltaRows, GatedConvolution, Mamba2, SplitGates};
use crate::executor::{Values, ValuesMut};
use crate::ops::{Activation, activate_mul};
use crate::states::{
    Taps, causal_conv, decays, delta_rule, gated_norm, multiply, norm_of_gated, selective_scan, sigmoid,
    sigmoid_gate, time_steps,
};
use crate::{Error, Result};

impl Convolution {
    /// Its weights in RAM.
    fn host(&self) -> Result<Taps<'_>> {
        let bias = self.bias.as_ref().map(|bias| bias.host()).transpose()?;
        Ok(Taps { weight: self.weight.host()?, bias, channels: self.channels })
    }
}

impl Executor {
    pub fn split_gates(&mut self, split: SplitGates<'_>) -> Result<()> {
        let SplitGates { both, head_dim, heads, rest, out, gates } = split;
        let (both, out, gates) = (both.host()?, out.host()?, gates.host()?);
        let query = heads * head_dim;
        let n = gates.len() / query.max(1);
        same("gates: rows", n * (2 * query + rest), both.len())?;
        same("gates: output", n * (query + rest), out.len())?;
        let rows = both.chunks_exact(2 * query + rest).zip(out.chunks_exact_mut(query + rest));
        for ((both, out), gates) in rows.zip(gates.chunks_exact_mut(query)) {
            let (both, kept) = both.split_at(2 * query);
            let (queries, to) = out.split_at_mut(query);
            to.copy_from_slice(kept);
            let apart = queries.chunks_exact_mut(head_dim).zip(gates.chunks_exact_mut(head_dim));
            for (both, (query, gate)) in both.chunks_exact(2 * head_dim).zip(apart) {
                query.copy_from_slice(&both[..head_dim]);
                gate.copy_from_slice(&both[head_dim..]);
            }
        }
        Ok(())
    }

    pub fn sigmoid_gate(&mut self, x: ValuesMut<'_>, gate: Values<'_>) -> Result<()> {
        sigmoid_gate(&self.pool, x.host()?, gate.host()?)
    }

    pub fn gated_convolution(&mut self, convolution: GatedConvolution<'_>) -> Result<()> {
        let GatedConvolution { conv, rows, state, scratch, skip, out } = convolution;
        let (rows, made, out) = (rows.host()?, scratch.host()?, out.host()?);
        let width = conv.channels;
        same("gated convolution: rows", 3 * made.len(), rows.len())?;
        same("gated convolution: output", made.len(), out.len() + skip * width)?;
        for (row, made) in rows.chunks_exact(3 * width).zip(made.chunks_exact_mut(width)) {
            let (gate, values) = (&row[..width], &row[2 * width..]);
            for ((made, gate), value) in made.iter_mut().zip(gate).zip(values) {
                *made = gate * value;
            }
        }
        causal_conv(&self.pool, made, conv.host()?, state.host()?, None)?;
        let rows = rows.chunks_exact(3 * width).skip(skip);
        for (row, out) in rows.zip(out.chunks_exact_mut(width)) {
            out.copy_from_slice(&row[width..2 * width]);
        }
        multiply(&self.pool, out, &made[skip * width..])
    }

    pub fn delta_net(&mut self, net: DeltaNet<'_>) -> Result<()> {
        let DeltaNet { parameters, rows, state, scratch, skip, out } = net;
        let DeltaRows::Separate { qkv, gate, beta, alpha } = rows else { return Err(Error::Device) };
        let (qkv, gate, beta, alpha) = (qkv.host()?, gate.host()?, beta.host()?, alpha.host()?);
        let (pool, shape, made) = (&*self.pool, &parameters.shape, scratch.host()?);
        same("delta net: state", parameters.state(), state.len())?;
        let (convolved, state) = state.host()?.split_at_mut(parameters.conv.state());
        causal_conv(pool, qkv, parameters.conv.host()?, convolved, Some(Activation::Silu))?;
        decays(alpha, parameters.rates.host()?, parameters.time_bias.host()?)?;
        sigmoid(beta);
        delta_rule(pool, shape, qkv, (alpha, beta), state, made)?;
        let rows = skip * shape.values()..;
        same("delta net: gates", made.len(), gate.len())?;
        let (weight, epsilon) = (parameters.norm.weight.host()?, parameters.norm.epsilon);
        gated_norm(pool, &made[rows.clone()], &mut gate[rows], weight, epsilon, out.host()?)
    }
    pub fn mamba2(&mut self, mamba: Mamba2<'_>) -> Result<()> {
        let Mamba2 { parameters, rows, state, scratch, skip, out } = mamba;
        let (rows, shape, row) = (rows.host()?, &parameters.shape, parameters.row());
        let (inner, width, heads) = (shape.inner(), shape.width(), shape.heads);
        let n = rows.len() / row.max(1);
        same("Mamba-2: rows", n * row, rows.len())?;
        same("Mamba-2: scratch", n * parameters.scratch(), scratch.len())?;
        same("Mamba-2: state", parameters.state(), state.len())?;
        let (gate, rest) = scratch.host()?.split_at_mut(n * inner);
        let (convolved, rest) = rest.split_at_mut(n * width);
        let (steps, made) = rest.split_at_mut(n * heads);
        let parts = gate.chunks_exact_mut(inner).zip(convolved.chunks_exact_mut(width));
        for (row, ((gate, convolved), steps)) in
            rows.chunks_exact(row).zip(parts.zip(steps.chunks_exact_mut(heads)))
        {
            gate.copy_from_slice(&row[..inner]);
            convolved.copy_from_slice(&row[inner..inner + width]);
            steps.copy_from_slice(&row[inner + width..]);
            if let Some(factors) = parameters.factors {
                let (x, rest) = convolved.split_at_mut(inner);
                let (b, c) = rest.split_at_mut(shape.groups * shape.state);
                for (part, factor) in [&mut *gate, x, b, c, steps].into_iter().zip(factors) {
                    part.iter_mut().for_each(|value| *value *= factor);
                }
            }
        }
        let pool = &*self.pool;
        let (before, state) = state.host()?.split_at_mut(parameters.conv.state());
        causal_conv(pool, convolved, parameters.conv.host()?, before, Some(Activation::Silu))?;
        time_steps(steps, parameters.time_bias.host()?, parameters.limits)?;
        let rates = (parameters.rates.host()?, parameters.skips.host()?);
        selective_scan(pool, shape, convolved, steps, rates, state, made)?;
        let kept = skip * inner..;
        let gated = (&made[kept.clone()], &mut gate[kept]);
        let out = out.host()?;
        match &parameters.norm {
            Some(norm) => {
                let norm = (norm.weight.host()?, norm.epsilon);
                norm_of_gated(pool, gated, norm, inner / shape.groups.max(1), out)
            }
            None => {
                same("Mamba-2: output", gated.0.len(), out.len())?;
                out.copy_from_slice(gated.1);
                activate_mul(pool.level(), Activation::Silu, out, gated.0);
                Ok(())
            }
        }
    }
}
