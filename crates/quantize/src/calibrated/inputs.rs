//! What is collected of the inputs of a group of layers while the calibration text runs through them.

use quern_compute::Pool;
use quern_run::LinearGroup;

use crate::gptq::Hessian;

/// Sums over the inputs of layers that share them.
#[derive(Clone, Debug)]
pub(super) struct Inputs {
    /// The sum of the outer products.
    pub hessian: Hessian,
}

impl Inputs {
    /// Of inputs with so many values; nothing was seen yet.
    pub fn new(columns: usize) -> Self {
        Self { hessian: Hessian::new(columns) }
    }

    /// So many of the same: copies, and this one as the last.
    pub fn times(self, count: usize) -> impl Iterator<Item = Self> {
        std::iter::repeat_n(self, count)
    }

    /// Adds the inputs of some tokens.
    pub fn add(&mut self, pool: &Pool, group: &LinearGroup<'_>) {
        self.hessian.add(pool, group.values);
    }
}
