//! The tensors of attention and Mamba-2 side by side (Falcon-H1).

use quern_model::{Config, Multipliers};

use super::super::Linear;
use super::super::lookup::Lookup;
use super::{Attention, Mamba2};
use crate::Result;

/// Attention and Mamba-2, which read the same input; their results are added.
#[derive(Clone, Debug)]
pub(crate) struct Beside {
    pub(crate) attention: Attention,
    pub(crate) mamba: Mamba2,
    /// What attention's result and Mamba-2's are multiplied with in front of their output layers.
    pub(crate) factors: [f32; 2],
}

impl Beside {
    /// Takes the tensors of a layer.
    pub(super) fn resolve(
        lookup: &Lookup<'_, '_>,
        config: &Config,
        mamba: &quern_model::Mamba2,
        layer: usize,
    ) -> Result<Self> {
        let factors = |own: Multipliers| [own.attended(), own.state_out];
        Ok(Self {
            attention: Attention::resolve(lookup, config, layer)?,
            mamba: Mamba2::resolve(lookup, config, mamba, layer)?,
            factors: config.multipliers.map_or([1.0; 2], factors),
        })
    }

    /// The layers that read the block's normed input.
    pub(super) fn inputs(&self) -> Vec<&Linear> {
        let mut all = self.attention.qkv.linears();
        all.push(&self.mamba.input);
        all
    }

    /// The same, to be replaced.
    pub(super) fn inputs_mut(&mut self) -> Vec<&mut Linear> {
        let mut all = self.attention.qkv.linears_mut();
        all.push(&mut self.mamba.input);
        all
    }

    /// Numbers for each token in front of the output layer of attention, and what the other output layer gives.
    pub(crate) fn width(&self) -> usize {
        self.attention.output.op.weight.columns() + self.mamba.output.op.weight.rows()
    }

    /// Memory for each token: Mamba-2's, and its result.
    pub(super) fn scratch(&self) -> usize {
        self.attention.scratch().max(self.mamba.scratch() + self.mamba.output.op.weight.columns())
    }

    /// Numbers in its vectors.
    pub(super) fn vector_values(&self) -> usize {
        self.attention.vector_values() + self.mamba.vector_values()
    }
}
