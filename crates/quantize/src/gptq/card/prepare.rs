//! Order, damping and factor on a card.

use std::sync::Arc;

use quern_compute::Pool;
use quern_compute::cuda::{DiagonalSquare, GramMatrix};

use super::super::SolveError;
use super::super::order::Plan;
use super::super::prepare::{Attempt, Damped, Damping};
use super::super::refine::Squares;
use super::{Factored, Sums};

/// What [`super::super::prepare`] does in RAM. The damping that was enough, if any is, and what was made.
///
/// # Errors
/// [`SolveError::Compute`] if the card has no memory left, or is lost.
pub(in crate::gptq) fn prepare(
    pool: &Pool,
    sums: Sums,
    plan: &Plan,
    damping: &Damping<'_>,
    damp: f64,
    squares: &Squares,
) -> Result<Option<(f64, Factored)>, SolveError> {
    let sum = sums.matrix()?;
    let mut matrix: Option<GramMatrix> = None;
    let enough = damping.search(damp, |attempt| -> Result<bool, SolveError> {
        match attempt {
            Attempt::F32 { damp, floor } => {
                let diagonal = damping.line(damp, floor);
                let matrix = match &mut matrix {
                    Some(matrix) => {
                        sum.arrange_into(&plan.order, &diagonal, matrix)?;
                        matrix
                    }
                    None => matrix.insert(sum.arranged(&plan.order, &diagonal)?),
                };
                Ok(matrix.factor(damping.least(damp) as f32)?.is_ok())
            }
            // The card's f64 is not worth kernels of its own: this is rare.
            Attempt::F64 { damp } => {
                let Some(matrix) = &mut matrix else { return Ok(false) };
                let mut damped = Damped { matrix: matrix.download()?, damping };
                let factored = damped.in_f64(pool, damp);
                if factored {
                    matrix.upload(&damped.matrix)?;
                }
                Ok(factored)
            }
        }
    })?;
    let (Some(damp), Some(mut matrix)) = (enough, matrix) else { return Ok(None) };
    drop(sums);
    let pieces: Vec<_> = squares
        .pieces
        .iter()
        .map(|piece| DiagonalSquare {
            start: piece.positions.start,
            size: piece.positions.len(),
            at: piece.square,
        })
        .collect();
    let length = pieces.last().map_or(0, |piece| piece.at + piece.size * piece.size);
    let values = matrix.squares(&pieces, length, &damping.line(damp, 0.0))?;
    matrix.mirror()?;
    let card = matrix.card().clone();
    Ok(Some((damp, Factored { card, factor: Arc::new(matrix.into_memory()?), squares: Arc::new(values) })))
}
