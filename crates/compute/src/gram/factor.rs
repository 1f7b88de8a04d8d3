//! The Cholesky factor of a symmetric matrix from its last column on: `A = U Uᵀ` with `U` upper triangular.
//!
//! This is what solving columns first to last needs (GPTQ): `U` of `A` itself gives the same decisions as the
//! upper factor of `A⁻¹`, and nothing is inverted. `Uᵀ` is stored in the lower triangle, row by row:
//!
//! ```text
//! a[j][i] = U[i][j], i <= j        row j: column j of U
//! ```
//!
//! Blocks of 128 rows, the last one first: factor the block's own square, solve its rows to the left, subtract
//! their Gram matrix from all rows above. The last step is nearly all of the work and is [`super::gram`]'s.

use super::{Rows, Triangle, update};
use crate::matmul::Shared;
use crate::simd::{Op, dispatch};
use crate::{Error, Pool, Result};

const BLOCK: usize = 128;
/// Columns that one task solves.
const STRIP: usize = 64;

/// A pivot was not above the limit: the matrix is not positive definite, or not within the precision of f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadPivot {
    /// Row and column of the pivot.
    pub index: usize,
}

/// Replaces the lower triangle of `a` (`[n][n]`, diagonal included; the rest is neither read nor written) by
/// `Uᵀ` with `A = U Uᵀ`. Squares of diagonal elements of `U` must come out above `least`: pass what is
/// known about the smallest eigenvalue, or 0. The result does not depend on the number of threads.
///
/// # Errors
/// [`Error::Lengths`] if `a` is not `n * n` values. The inner result: the first pivot (the last column comes
/// first) not above `least`, or not a number; the lower triangle is then partly overwritten.
pub fn factor(pool: &Pool, a: &mut [f32], n: usize, least: f32) -> Result<Result<(), BadPivot>> {
    if a.len() != n.saturating_mul(n) {
        return Err(Error::Lengths {
            what: "factor: the matrix",
            expected: n.saturating_mul(n),
            found: a.len(),
        });
    }
    let (level, mut packed) = (pool.level(), Vec::new());
    let mut end = n;
    while end > 0 {
        let start = end.saturating_sub(1) / BLOCK * BLOCK;
        if let Err(bad) = dispatch(level, Square { a, n, start, end, least }) {
            return Ok(Err(bad));
        }
        // The rows below `start` are not needed by what follows, so above and below can be held apart.
        let (above, rows) = a.split_at_mut(start * n);
        let square: Vec<f32> =
            rows.chunks(n).take(end - start).flat_map(|row| &row[start..end]).copied().collect();
        let shared = Shared::new(rows);
        pool.run(start.div_ceil(STRIP), |strip| {
            let columns = strip * STRIP..start.min((strip + 1) * STRIP);
            dispatch(level, Solve { square: &square, size: end - start, rows: &shared, n, columns });
        });
        let x = Rows { values: rows, stride: n, count: end - start, columns: start };
        update(pool, &x, &Triangle { values: Shared::new(above), stride: n }, -1.0, &mut packed);
        end = start;
    }
    Ok(Ok(()))
}

/// Factors the square `start..end` on the diagonal.
struct Square<'a> {
    a: &'a mut [f32],
    n: usize,
    start: usize,
    end: usize,
    least: f32,
}

impl Op for Square<'_> {
    type Output = Result<(), BadPivot>;

    #[inline(always)]
    fn call(self) -> Self::Output {
        let Self { a, n, start, end, least } = self;
        for j in (start..end).rev() {
            let (above, row) = a.split_at_mut(j * n);
            let row = &mut row[start..=j];
            let size = row.len() - 1;
            let pivot = row[size];
            // NaN is not above anything.
            if !(pivot > least && pivot.is_finite()) {
                return Err(BadPivot { index: j });
            }
            let root = pivot.sqrt();
            row[size] = root;
            for x in &mut row[..size] {
                *x /= root;
            }
            for (i, line) in above[start * n..].chunks_exact_mut(n).enumerate() {
                let factor = row[i];
                for (x, y) in line[start..=start + i].iter_mut().zip(&*row) {
                    *x -= factor * y;
                }
            }
        }
        Ok(())
    }
}

/// Solves columns `columns` of the rows to the left of a factored square, last row first.
struct Solve<'a> {
    /// `[size][size]`, the square's part of `Uᵀ`.
    square: &'a [f32],
    size: usize,
    rows: &'a Shared,
    n: usize,
    columns: std::ops::Range<usize>,
}

impl Op for Solve<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let width = self.columns.len();
        let mut strip = [[0f32; STRIP]; BLOCK];
        for (r, strip) in strip.iter_mut().enumerate().take(self.size) {
            // SAFETY: each task has its own columns.
            let row = unsafe { self.rows.slice(r * self.n + self.columns.start, width) };
            strip[..width].copy_from_slice(row);
        }
        for j in (0..self.size).rev() {
            let (above, row) = strip.split_at_mut(j);
            let row = &mut row[0];
            let root = self.square[j * self.size + j];
            for x in row.iter_mut() {
                *x /= root;
            }
            // Row i of the square's U holds in its column j what row j passes on.
            for (i, line) in above.iter_mut().enumerate() {
                let factor = self.square[j * self.size + i];
                for (x, y) in line.iter_mut().zip(&*row) {
                    *x -= factor * y;
                }
            }
        }
        for (r, strip) in strip.iter().enumerate().take(self.size) {
            // SAFETY: as above.
            let row = unsafe { self.rows.slice(r * self.n + self.columns.start, width) };
            row.copy_from_slice(&strip[..width]);
        }
    }
}
