//! Types multiplied in f32: 32 weight rows are widened and transposed, 256 columns at a time.

use super::{DEPTH, TASK_ROWS, transpose};
use crate::Matrix;
use crate::aligned::Aligned;
use crate::dot::widen;
use crate::fgemm::{Product, multiply_add};
use crate::simd::Level;

/// The bytes of `depth` columns from `start` on of a row; both are whole blocks, since every block's length divides 256.
pub(super) fn part_of_row<'a>(w: &Matrix<'a>, number: usize, start: usize, depth: usize) -> &'a [u8] {
    let (block, bytes) = (w.element_type().block_elements(), w.element_type().block_bytes());
    debug_assert!(DEPTH.is_multiple_of(block), "every block size divides 256");
    &w.row(number)[start / block * bytes..(start + depth) / block * bytes]
}

/// Columns of a row, from `start` on, as f32.
pub(super) fn widen_row(level: Level, w: &Matrix, number: usize, start: usize, out: &mut [f32]) {
    widen(level, w.element_type(), part_of_row(w, number, start, out.len()), out);
    if let Some(scales) = w.scales() {
        scales.apply(number, start, out);
    }
}

/// 32 weight rows of up to 256 columns as f32, transposed.
pub(super) struct Widened {
    rows: Aligned,
    tile: Aligned,
    /// Weight rows side by side in the tile, 16 or 32.
    width: usize,
}

impl Widened {
    pub fn new(width: usize) -> Self {
        Self { rows: Aligned::zeros(DEPTH * TASK_ROWS), tile: Aligned::zeros(DEPTH * TASK_ROWS), width }
    }

    /// Reads `depth` columns from `start` on of rows `first ..` (the last row again where there are fewer).
    pub fn fill(&mut self, level: Level, w: &Matrix, first: usize, start: usize, depth: usize) {
        for (r, wide) in self.rows.as_chunks_mut::<DEPTH>().0.iter_mut().enumerate() {
            widen_row(level, w, (first + r).min(w.rows() - 1), start, &mut wide[..depth]);
        }
        for half in 0..2 {
            let rows = std::array::from_fn(|r| &self.rows[(16 * half + r) * DEPTH..][..depth]);
            let place = if self.width == TASK_ROWS { 16 * half } else { half * DEPTH * self.width };
            transpose::floats(level, &rows, &mut self.tile[place..], self.width);
        }
    }

    /// `[depth][width]` for the rows from `first` on, a multiple of the width.
    pub fn tile(&self, first: usize) -> &[f32] {
        &self.tile[first * DEPTH..]
    }
}

/// Adds the product of weight rows `first..` with the `n` rows of `x` to `sums`, `[n][32]`.
pub(super) fn multiply(level: Level, w: &Matrix, first: usize, x: &[f32], n: usize, sums: &mut [f32]) {
    let columns = w.columns();
    // With 8 lanes a product takes 16 columns at a time. Apart they use all sets of the first-level cache; side by side
    // with others only every other one, from which activations then push them out.
    let width = if level.here() >= Level::Avx512 { TASK_ROWS } else { TASK_ROWS / 2 };
    let mut widened = Widened::new(width);
    for start in (0..columns).step_by(DEPTH) {
        let depth = DEPTH.min(columns - start);
        widened.fill(level, w, first, start, depth);
        for part in (0..TASK_ROWS).step_by(width) {
            multiply_add(
                level,
                Product {
                    rows: n,
                    depth,
                    width,
                    a: &x[start..],
                    a_stride: columns,
                    b: widened.tile(part),
                    c: &mut sums[part..],
                    c_stride: TASK_ROWS,
                },
            );
        }
    }
}
