//! GPTQ on an NVIDIA card: the same algorithm, with the same arithmetic in f32. Given the same Hessian, factor, scales and
//! codes are those of the CPU's AVX-512, bit for bit.

mod prepare;
mod solve;
mod sums;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use quern_compute::cuda::{Card, Memory, Stream};

use super::{Prepared, SolveError};

pub(super) use prepare::prepare;
pub(super) use solve::{plan_of, solve, strip};
pub(super) use sums::Sums;

/// What the column loop needs of a Hessian, on a card.
#[derive(Clone, Debug)]
pub(super) struct Factored {
    pub card: Card,
    /// As [`Prepared::factor`], f32.
    pub factor: Arc<Memory>,
    /// As [`super::refine::Squares::values`], f32.
    pub squares: Arc<Memory>,
}

impl Prepared {
    /// The same on a card: [`super::solve()`] and [`super::blocks::solve_blocks`] then run there.
    ///
    /// # Errors
    /// [`SolveError::Compute`] if the card has too little memory or is lost.
    pub fn to_card(&self, card: &Card) -> Result<Self, SolveError> {
        let mut on_card = self.to_host()?;
        let stream = Stream::new(card).map_err(quern_compute::Error::from)?;
        let upload = |values: Vec<f32>| -> quern_compute::Result<Arc<Memory>> {
            let memory = Memory::new(card, 4 * values.len())?;
            stream.upload(&memory, 0, zerocopy::IntoBytes::as_bytes(&values[..]))?;
            Ok(Arc::new(memory))
        };
        on_card.card = Some(Factored {
            card: card.clone(),
            factor: upload(std::mem::take(&mut on_card.factor))?,
            squares: upload(std::mem::take(&mut on_card.squares.values))?,
        });
        Ok(on_card)
    }

    /// The same in RAM, for what the CPU must solve.
    ///
    /// # Errors
    /// [`SolveError::Compute`] if the card is lost.
    pub fn to_host(&self) -> Result<Self, SolveError> {
        let mut on_host = self.clone();
        let Some(factored) = on_host.card.take() else { return Ok(on_host) };
        let stream = Stream::new(&factored.card).map_err(quern_compute::Error::from)?;
        let download = |memory: &Memory| -> quern_compute::Result<Vec<f32>> {
            let mut values = vec![0f32; memory.bytes() / 4];
            stream.download(zerocopy::IntoBytes::as_mut_bytes(&mut values[..]), memory, 0)?;
            Ok(values)
        };
        on_host.factor = download(&factored.factor)?;
        on_host.squares.values = download(&factored.squares)?;
        Ok(on_host)
    }
}
