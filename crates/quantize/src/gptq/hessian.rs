//! The sum of the outer products of a layer's calibration inputs.

use quern_compute::{Pool, gram};

/// `H = Σ x xᵀ` over all inputs seen: lower triangle of `[columns][columns]` f32. (Papers multiply it by two over
/// the number of tokens, which changes no decision.)
#[derive(Clone, Debug)]
pub struct Hessian {
    pub(super) columns: usize,
    pub(super) sum: Vec<f32>,
    tokens: u64,
}

impl Hessian {
    /// All zeros; takes `4 * columns²` bytes.
    pub fn new(columns: usize) -> Self {
        Self { columns, sum: vec![0.0; columns * columns], tokens: 0 }
    }

    /// Adds inputs, `[tokens][columns]`. The result does not depend on the number of threads.
    ///
    /// # Panics
    /// If `x` is not whole rows.
    pub fn add(&mut self, pool: &Pool, x: &[f32]) {
        assert!(self.columns > 0 && x.len().is_multiple_of(self.columns), "whole inputs");
        gram(pool, x, self.columns, &mut self.sum).expect("lengths are checked");
        self.tokens += (x.len() / self.columns) as u64;
    }

    /// Inputs seen.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Length of an input.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Sum of squares of each column of the inputs.
    pub fn diagonal(&self) -> Vec<f32> {
        (0..self.columns).map(|i| self.sum[i * self.columns + i]).collect()
    }
}
