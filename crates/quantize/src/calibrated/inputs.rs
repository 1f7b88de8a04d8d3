//! What is collected of the inputs of a group of layers while the calibration text runs through them.

use quern_compute::{Executor, Result};
use quern_run::LinearGroup;

use crate::gptq::{Hessian, Shift};

/// Sums over the inputs of layers that share them.
#[derive(Clone, Debug)]
pub(super) struct Inputs {
    /// The sum of the outer products.
    pub hessian: Hessian,
    /// What the layers should make up for, where the unquantized model is run too.
    pub shift: Option<Shift>,
}

/// Inputs of which [`Shift`] makes sums have a multiple of so many values.
const LANES: usize = 16;

impl Inputs {
    /// Of inputs with so many values; nothing was seen yet.
    pub fn new(columns: usize) -> Self {
        Self { hessian: Hessian::new(columns), shift: None }
    }

    /// The same, in the memory of the device that `executor` computes on.
    fn on(executor: &Executor, columns: usize) -> Result<Self> {
        Ok(Self { hessian: Hessian::on(executor, columns)?, shift: None })
    }

    /// Adds the inputs of some tokens.
    ///
    /// # Errors
    /// They are on another device.
    pub fn add(&mut self, executor: &mut Executor, group: &LinearGroup<'_>) -> Result<()> {
        self.hessian.add_values(executor, group.values)?;
        if let Some(reference) = group.reference.filter(|_| group.columns.is_multiple_of(LANES)) {
            let shift = match &mut self.shift {
                Some(shift) => shift,
                None => self.shift.insert(Shift::on(executor, group.columns)?),
            };
            shift.add_values(executor, group.values, reference, group.drift)?;
        }
        Ok(())
    }
}

/// What each device collected of one group's inputs, in the order of the devices.
#[derive(Debug, Default)]
pub(super) struct Collected(Vec<(Option<usize>, Inputs)>);

impl Collected {
    /// Adds the inputs of some tokens to the sums of the device that `executor` computes on.
    ///
    /// # Errors
    /// A device without memory for the sums, or that is lost.
    pub fn add(&mut self, executor: &mut Executor, group: &LinearGroup<'_>) -> Result<()> {
        let device = executor.device().gpu_index();
        let at = match self.0.iter().position(|(own, _)| *own == device) {
            Some(at) => at,
            None => {
                self.0.push((device, Inputs::on(executor, group.columns)?));
                self.0.len() - 1
            }
        };
        self.0[at].1.add(executor, group)
    }

    /// The sums over all devices, which are added in their order; `None` if no inputs were seen.
    ///
    /// # Errors
    /// A device that is lost.
    pub fn take(&mut self) -> Result<Option<Inputs>> {
        let mut all = std::mem::take(&mut self.0).into_iter();
        let Some((_, mut first)) = all.next() else { return Ok(None) };
        for (_, inputs) in all {
            first.hessian.merge(inputs.hessian)?;
            match (&mut first.shift, inputs.shift) {
                (Some(all), Some(shift)) => all.merge(&shift)?,
                (None, shift @ Some(_)) => first.shift = shift,
                (_, None) => {}
            }
        }
        Ok(Some(first))
    }
}
