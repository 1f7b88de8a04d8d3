//! What is collected of the inputs of a group of layers while the calibration text runs through them.

use quern_compute::{Pool, Result, Values};
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

    /// Adds the inputs of some tokens.
    ///
    /// # Errors
    /// They are on another device.
    pub fn add(&mut self, pool: &Pool, group: &LinearGroup<'_>) -> Result<()> {
        let values = group.values.host()?;
        self.hessian.add(pool, values);
        if let Some(reference) = group.reference.filter(|_| group.columns.is_multiple_of(LANES)) {
            let shift = self.shift.get_or_insert_with(|| Shift::new(group.columns));
            shift.add(pool, values, reference.host()?, group.drift.map(Values::host).transpose()?);
        }
        Ok(())
    }
}
