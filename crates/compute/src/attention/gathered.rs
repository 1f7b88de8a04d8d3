//! Partial results of attention over runs of keys, and how they are joined.

use super::task::Task;
use crate::aligned::Aligned;
use crate::ops::{exp, larger};
use crate::simd::{Level, Op, dispatch};

use super::softmax::share;

/// The partial result of rows of queries over a run of keys.
pub(super) struct Gathered {
    /// `[rows][width]`: the values, each times `e^(score - maximum)`.
    pub result: Aligned,
    /// Of each row: largest score, sum of the factors.
    pub sums: Vec<(f32, f32)>,
    pub width: usize,
}

impl Gathered {
    /// Numbers of a row that is stored.
    pub fn row(width: usize) -> usize {
        width + 2
    }

    pub fn store(&self, out: &mut [f32]) {
        let rows = self.result.chunks_exact(self.width).zip(&self.sums);
        for (out, (result, &(largest, sum))) in out.chunks_exact_mut(Self::row(self.width)).zip(rows) {
            out[..self.width].copy_from_slice(result);
            out[self.width..].copy_from_slice(&[largest, sum]);
        }
    }

    /// The stored partial results of the same rows over one run of keys after the other, together: `[parts][rows]`.
    pub fn joined(level: Level, parts: &[f32], rows: usize, width: usize) -> Self {
        let mut all = Self { result: Aligned::zeros(rows * width), sums: vec![(0.0, 0.0); rows], width };
        dispatch(level, Join(parts, &mut all));
        all
    }

    /// Divides by the sums, those of the sinks included, and passes each (token, head, result) to `put`.
    pub fn finish(mut self, task: &Task, put: impl Fn(usize, usize, &[f32])) {
        let value_dim = task.job.value_dim;
        for (row, result) in self.result.chunks_exact_mut(self.width).enumerate() {
            let inverse = match task.job.sinks.get(task.head(row)) {
                None => 1.0 / self.sums[row].1,
                Some(&sink) => share(self.sums[row], sink),
            };
            result.iter_mut().for_each(|x| *x *= inverse);
            put(task.token(row), task.head(row), &result[..value_dim]);
        }
    }
}

struct Join<'a>(&'a [f32], &'a mut Gathered);

impl Op for Join<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self(parts, Gathered { result, sums, width }) = self;
        let (width, rows) = (*width, sums.len());
        let row = Gathered::row(width);
        let of_rows = result.chunks_exact_mut(width).zip(sums.iter_mut());
        for (at, (result, sum)) in of_rows.enumerate() {
            let parts = || parts.chunks_exact(rows * row).map(|part| &part[at * row..][..row]);
            let largest = parts().fold(f32::NEG_INFINITY, |largest, part| larger(largest, part[width]));
            sum.0 = largest;
            for part in parts() {
                // Nothing was seen in this run.
                if part[width] == f32::NEG_INFINITY {
                    continue;
                }
                let factor = exp(part[width] - largest);
                sum.1 += factor * part[width + 1];
                result.iter_mut().zip(&part[..width]).for_each(|(x, y)| *x += factor * y);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_joined_by_their_largest_scores() {
        let nothing = [0.0, 0.0, f32::NEG_INFINITY, 0.0];
        let parts =
            [[[1.0, 2.0, 3.0, 4.0], nothing], [[5.0, 6.0, 1.0, 7.0], nothing], [[1.0, 1.0, 2.0, 1.0]; 2]];
        for level in Level::available() {
            let all = Gathered::joined(level, parts.as_flattened().as_flattened(), 2, 2);
            let (b, c) = ((-2f32).exp(), (-1f32).exp());
            let expected = [1.0 + 5.0 * b + c, 2.0 + 6.0 * b + c, 1.0, 1.0];
            assert!(
                all.result.iter().zip(expected).all(|(x, y)| (x - y).abs() < 1e-6),
                "{:?}",
                &all.result[..]
            );
            assert!((all.sums[0].1 - (4.0 + 7.0 * b + c)).abs() < 1e-6 && all.sums[1] == (2.0, 1.0));
        }
    }
}
