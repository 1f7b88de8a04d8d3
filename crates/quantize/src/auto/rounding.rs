//! Rounding whole matrices to a type and back, for measuring what that costs.

use quern_compute::parallel::share;
use quern_compute::simd::Level;
use quern_compute::{Matrix, Pool, get_row};
use quern_run::Replacement;
use quern_tensor_io::{ElementType, decode};
use std::sync::{Mutex, PoisonError};

use crate::encode::{EncodeError, encode_rows_at};
use crate::finite::all_finite;

/// Values that one thread works on at a time.
const PIECE: usize = 1 << 15;

/// Why a matrix was not rounded.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum RoundError {
    /// An encoder refused it.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// Its values cannot be read.
    #[error("{0} cannot be decoded")]
    Undecodable(ElementType),
    /// A weight is NaN or infinite.
    #[error("row {row} has a value that is not finite; a model with such values cannot be quantized")]
    NotFinite {
        /// The row.
        row: usize,
    },
}

/// How matrices are rounded.
#[derive(Clone, Copy, Debug)]
pub struct Rounding<'p> {
    /// The threads. Results do not depend on their number.
    pub pool: &'p Pool,
    /// The instructions. Results do not depend on them.
    pub level: Level,
}

impl Rounding<'_> {
    /// The matrix as a file has it that stores it as `to`: in f32. `weights` is the importance of each column.
    pub fn rounded(
        &self,
        matrix: Matrix<'_>,
        to: ElementType,
        weights: Option<&[f32]>,
    ) -> Result<Replacement, RoundError> {
        let columns = matrix.columns();
        let step = (PIECE / columns).max(1);
        let mut data = vec![0u8; matrix.rows() * columns * 4];
        let failure = Mutex::new(None);
        share(self.pool, data.chunks_mut(step * columns * 4).enumerate(), |(piece, out)| {
            let rows: Vec<usize> = (piece * step..piece * step + out.len() / columns / 4).collect();
            match self.piece(matrix, &rows, to, weights) {
                Ok((_, values)) => {
                    for (out, value) in out.as_chunks_mut().0.iter_mut().zip(values) {
                        *out = value.to_le_bytes();
                    }
                }
                Err(error) => keep(&failure, piece, error),
            }
        });
        match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some((_, error)) => Err(error),
            None => Ok(Replacement { element_type: ElementType::F32, data, permutation: None }),
        }
    }

    /// The squared errors of some rows in each of `types`, weighted by the importance of the columns and summed; and the
    /// squares of the rows themselves.
    pub fn errors(
        &self,
        matrix: Matrix<'_>,
        rows: &[usize],
        types: &[ElementType],
        weights: Option<&[f32]>,
    ) -> Result<(Vec<f64>, f64), RoundError> {
        let step = (PIECE / matrix.columns()).max(1);
        let pieces: Vec<&[usize]> = rows.chunks(step).collect();
        let mut sums = vec![[0f64; 2]; pieces.len() * types.len()];
        let failure = Mutex::new(None);
        let work = sums.iter_mut().enumerate();
        share(self.pool, work, |(index, sum)| {
            let (piece, to) = (pieces[index / types.len()], types[index % types.len()]);
            match self.piece(matrix, piece, to, weights) {
                Ok((before, mut after)) => {
                    let error = weighted(&before, &after, matrix.columns(), weights);
                    after.fill(0.0);
                    *sum = [error, weighted(&before, &after, matrix.columns(), weights)];
                }
                Err(error) => keep(&failure, index, error),
            }
        });
        match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some((_, error)) => Err(error),
            None => {
                let of =
                    |t: usize, part: usize| sums.iter().skip(t).step_by(types.len()).map(|s| s[part]).sum();
                Ok(((0..types.len()).map(|t| of(t, 0)).collect(), of(0, 1)))
            }
        }
    }

    /// Some rows as they are, and as `to` stores them.
    fn piece(
        &self,
        matrix: Matrix<'_>,
        rows: &[usize],
        to: ElementType,
        weights: Option<&[f32]>,
    ) -> Result<(Vec<f32>, Vec<f32>), RoundError> {
        let columns = matrix.columns();
        let mut before = vec![0f32; rows.len() * columns];
        for (&row, values) in rows.iter().zip(before.chunks_exact_mut(columns)) {
            if get_row(&matrix, row, values).is_err() {
                return Err(RoundError::Undecodable(matrix.element_type()));
            }
            if !all_finite(values) {
                return Err(RoundError::NotFinite { row });
            }
        }
        let row_bytes = to.row_bytes(columns).ok_or(EncodeError::PartialBlock {
            element_type: to,
            columns,
            block: to.block_elements(),
        })?;
        let mut bytes = vec![0u8; rows.len() * row_bytes];
        encode_rows_at(self.level, to, columns, &before, weights, &mut bytes)?;
        let mut after = vec![0f32; before.len()];
        if !decode::to_f32(to, &bytes, &mut after) {
            return Err(RoundError::Undecodable(to));
        }
        Ok((before, after))
    }
}

/// The error of the first piece stays, whichever thread found it first.
fn keep(failure: &Mutex<Option<(usize, RoundError)>>, piece: usize, error: RoundError) {
    let mut failure = failure.lock().unwrap_or_else(PoisonError::into_inner);
    if failure.as_ref().is_none_or(|&(first, _)| piece < first) {
        *failure = Some((piece, error));
    }
}

fn weighted(before: &[f32], after: &[f32], columns: usize, weights: Option<&[f32]>) -> f64 {
    let rows = before.chunks_exact(columns).zip(after.chunks_exact(columns));
    let row = |(before, after): (&[f32], &[f32])| {
        let squares = before.iter().zip(after).map(|(a, b)| f64::from(a - b) * f64::from(a - b));
        match weights {
            None => squares.sum::<f64>(),
            Some(weights) => squares.zip(weights).map(|(square, &w)| square * f64::from(w)).sum(),
        }
    };
    rows.map(row).sum()
}
