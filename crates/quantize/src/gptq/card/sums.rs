//! The sums of a Hessian in a card's memory.

use std::sync::Arc;

use quern_compute::cuda::{Card, Event, GramMatrix};
use quern_compute::{Executor, Result, Values};

/// The lower triangle of `Σ x xᵀ`, to which an executor of that card adds.
#[derive(Clone, Debug)]
pub(in crate::gptq) struct Sums {
    /// Shared by clones until one of them is changed.
    matrix: Arc<GramMatrix>,
    /// Behind what an executor has queued last.
    added: Option<Arc<Event>>,
}

impl Sums {
    /// Zeros.
    ///
    /// # Errors
    /// The card has no memory for them, or is lost.
    pub fn new(card: &Card, columns: usize) -> Result<Self> {
        Ok(Self { matrix: Arc::new(GramMatrix::new(card, columns)?), added: None })
    }

    /// A copy of sums in RAM.
    ///
    /// # Errors
    /// As [`Sums::new`].
    pub fn from_host(card: &Card, sum: &[f32], columns: usize) -> Result<Self> {
        Ok(Self { matrix: Arc::new(GramMatrix::from_host(card, sum, columns)?), added: None })
    }

    /// The card.
    pub fn card(&self) -> &Card {
        self.matrix.card()
    }

    /// Adds inputs.
    ///
    /// # Errors
    /// As [`super::super::Hessian::add_values`].
    pub fn add_values(&mut self, executor: &mut Executor, x: Values<'_>, columns: usize) -> Result<()> {
        executor.gram(x, columns, self.own()?.values_mut())?;
        self.added = executor.event()?.map(Arc::new);
        Ok(())
    }

    /// Adds other sums.
    ///
    /// # Errors
    /// A card has no memory left, or is lost.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        other.matrix()?;
        self.matrix()?;
        self.own()?.add(&other.matrix)
    }

    /// The sums, whose stream waits for what was queued.
    ///
    /// # Errors
    /// The card is lost.
    pub fn matrix(&self) -> Result<&GramMatrix> {
        if let Some(added) = &self.added {
            self.matrix.wait(added)?;
        }
        Ok(&self.matrix)
    }

    /// The sums in RAM.
    ///
    /// # Errors
    /// The card is lost.
    pub fn download(&self) -> Result<Vec<f32>> {
        self.matrix()?.download()
    }

    /// Row and column of the first sum, row by row, that is infinite or none, and that sum.
    ///
    /// # Errors
    /// As [`Sums::diagonal`].
    pub fn first_not_finite(&self) -> Result<Option<(usize, usize, f32)>> {
        self.matrix()?.first_not_finite()
    }

    /// The diagonal.
    ///
    /// # Errors
    /// The card is lost, or has no memory left.
    pub fn diagonal(&self) -> Result<Vec<f32>> {
        self.matrix()?.diagonal()
    }

    /// The matrix to be changed: no clone has it.
    fn own(&mut self) -> Result<&mut GramMatrix> {
        if Arc::get_mut(&mut self.matrix).is_none() {
            let copy = self.matrix()?.copied()?;
            (self.matrix, self.added) = (Arc::new(copy), None);
        }
        Ok(Arc::get_mut(&mut self.matrix).expect("it is not shared"))
    }
}
