//! The first half of a feed-forward network: its first layers and its activation.

use quern_compute::ops::Xielu;
use quern_compute::{Input, Output, ValuesMut, ops};
use quern_model::Config;
use quern_model::architecture::Activation;

use crate::Result;
use crate::weights::{Ffn, Widen};

use super::{Phases, streams};

impl Phases<'_, '_> {
    /// `wide = act(gate(input)) * up(input)`, the input of the down projection.
    pub(crate) fn widen(&mut self, input: Input<'_>, wide: ValuesMut<'_>) -> Result<()> {
        let Ffn::Dense { widen, .. } = &self.block.ffn else { return Ok(()) };
        let wide_len = wide.as_values().len();
        let act = activation(&self.model.config);
        if let (Widen::Plain(up), Some(parameters)) = (widen, self.block.xielu) {
            let mut wide = wide;
            self.linear([up], input, Output::Store([wide.reborrow()]))?;
            return Ok(self.executor.xielu(wide, up.op.weight.rows(), Xielu::new(parameters))?);
        }
        if let (Widen::Gated { gate, up }, Some(cutoff)) = (widen, self.block.cutoff) {
            let (mut wide, mut second) = (wide, vec![0.0; wide_len]);
            let outputs = Output::Store([wide.reborrow(), ValuesMut::Host(&mut second)]);
            self.linear([gate, up], input, outputs)?;
            let gates = wide.host()?;
            streams::cut_off(gates, gate.op.weight.rows(), cutoff);
            ops::activate_mul(self.model.pool.level(), act, gates, &second);
            return Ok(());
        }
        if let (Widen::Gated { gate, up }, Some(own)) = (widen, self.model.config.multipliers) {
            let (mut wide, mut second) = (wide, vec![0.0; wide_len]);
            let outputs = Output::Store([wide.reborrow(), ValuesMut::Host(&mut second)]);
            self.linear([gate, up], input, outputs)?;
            let gates = wide.host()?;
            gates.iter_mut().for_each(|value| *value *= own.gate);
            ops::activate_mul(self.model.pool.level(), act, gates, &second);
            // Of the down projection's result.
            gates.iter_mut().for_each(|value| *value *= own.down);
            return Ok(());
        }
        match widen {
            Widen::Gated { gate, up } => self.linear([gate, up], input, Output::Gate(act, wide)),
            Widen::Fused(weights) => self.linear([weights], input, Output::Gate(act, wide)),
            Widen::Plain(weights) => self.linear([weights], input, Output::Activate(act, wide)),
        }
    }
}

/// The network's function, as the kernels name it.
pub(crate) fn activation(config: &Config) -> ops::Activation {
    match config.activation {
        Activation::Silu => ops::Activation::Silu,
        Activation::Gelu => ops::Activation::Gelu,
        Activation::GeluTanh => ops::Activation::GeluTanh,
        Activation::Relu => ops::Activation::Relu,
        Activation::ReluSquared => ops::Activation::ReluSquared,
        Activation::ClampedSwiglu => ops::Activation::ClampedSwiglu,
        // What `Phases::widen` computes apart.
        Activation::Xielu => ops::Activation::Relu,
    }
}
