//! Logits on the device that computed them.

use quern_compute::{Executor, RowLikelihood, Values};

use crate::{Model, Result};

/// Logits of a pass where its head is: only statistics of them are copied to RAM.
#[derive(Debug)]
pub(crate) struct KeptLogits<'s> {
    pub(super) model: &'s Model,
    pub(super) executor: &'s mut Executor,
    /// `[tokens][vocab]`.
    pub(super) values: Values<'s>,
}

impl KeptLogits<'_> {
    /// For each row, what it says of its target.
    pub(crate) fn likelihood(&mut self, targets: &[u32]) -> Result<Vec<RowLikelihood>> {
        Ok(self.executor.likelihood(self.values, self.model.vocabulary(), targets)?)
    }

    /// Kullback-Leibler divergence of each row from the same row of `reference`: computed where both are, or in RAM if
    /// they are on different devices.
    pub(crate) fn divergence_from(&mut self, reference: &mut KeptLogits<'_>) -> Result<Vec<f64>> {
        let vocabulary = self.model.vocabulary();
        if self.executor.device().gpu_index() == reference.executor.device().gpu_index() {
            return Ok(self.executor.divergence(reference.values, self.values, vocabulary)?);
        }
        let (reference, own) = (reference.in_ram()?, self.in_ram()?);
        let mut executor = Executor::new(&self.model.cpu())?;
        Ok(executor.divergence(Values::Host(&reference), Values::Host(&own), vocabulary)?)
    }

    /// A copy in RAM.
    fn in_ram(&mut self) -> Result<Vec<f32>> {
        let mut copy = vec![0.0; self.values.len()];
        self.executor.download(self.values, &mut copy)?;
        Ok(copy)
    }
}
