//! [`super::factor`] in f64, for matrices beyond the precision of f32: plain loops, rarely needed.

use std::sync::Mutex;

use super::factor::BadPivot;
use crate::simd::{Op, dispatch};
use crate::{Error, Pool, Result};

const BLOCK: usize = 128;
/// Rows updated together: each value of the block is read once for all of them.
const ROWS: usize = 8;
/// Columns of the block that stay in the L2 cache.
const STRIP: usize = 256;

/// As [`super::factor::factor`], in f64.
///
/// # Errors
/// As [`super::factor::factor`].
pub fn factor_f64(pool: &Pool, a: &mut [f64], n: usize, least: f64) -> Result<Result<(), BadPivot>> {
    if a.len() != n.saturating_mul(n) {
        let expected = n.saturating_mul(n);
        return Err(Error::Lengths { what: "factor: the matrix", expected, found: a.len() });
    }
    let level = pool.level();
    let mut end = n;
    while end > 0 {
        let start = (end - 1) / BLOCK * BLOCK;
        let (above, rows) = a.split_at_mut(start * n);
        let rows = &mut rows[..(end - start) * n];
        if let Err(bad) = dispatch(level, Rows { rows, n, start, least }) {
            return Ok(Err(bad));
        }
        let rows = &*rows;
        let groups: Vec<_> = above.chunks_mut(ROWS * n).map(Mutex::new).collect();
        pool.run(groups.len(), |g| {
            // Tasks never share a group, and a panic ends the region.
            let mut group = groups[g].lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            dispatch(level, Update { above: &mut group, first: g * ROWS, rows, n });
        });
        end = start;
    }
    Ok(Ok(()))
}

/// Factors the rows of a block, last one first: its square and what is to the left.
struct Rows<'a> {
    rows: &'a mut [f64],
    n: usize,
    start: usize,
    least: f64,
}

impl Op for Rows<'_> {
    type Output = Result<(), BadPivot>;

    #[inline(always)]
    fn call(self) -> Self::Output {
        for j in (0..self.rows.len() / self.n).rev() {
            let (above, row) = self.rows.split_at_mut(j * self.n);
            let index = self.start + j;
            let pivot = row[index];
            // NaN is not above anything.
            if !(pivot > self.least && pivot.is_finite()) {
                return Err(BadPivot { index });
            }
            let root = pivot.sqrt();
            row[index] = root;
            for x in &mut row[..index] {
                *x /= root;
            }
            for (i, line) in above.chunks_exact_mut(self.n).enumerate() {
                let factor = row[self.start + i];
                for (x, y) in line[..=self.start + i].iter_mut().zip(&*row) {
                    *x -= factor * y;
                }
            }
        }
        Ok(())
    }
}

/// Subtracts the Gram matrix of a block's rows from a few rows above.
struct Update<'a> {
    above: &'a mut [f64],
    /// Number of the first of these rows.
    first: usize,
    rows: &'a [f64],
    n: usize,
}

impl Op for Update<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let last = self.first + self.above.len() / self.n;
        for strip in (0..last).step_by(STRIP) {
            for row in self.rows.chunks_exact(self.n) {
                for (i, line) in (self.first..).zip(self.above.chunks_exact_mut(self.n)) {
                    let columns = strip.min(i + 1)..(strip + STRIP).min(i + 1);
                    let factor = row[i];
                    for (x, y) in line[columns.clone()].iter_mut().zip(&row[columns]) {
                        *x -= factor * y;
                    }
                }
            }
        }
    }
}
