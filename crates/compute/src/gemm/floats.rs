//! Types multiplied in f32: 32 weight rows are widened and transposed, 256 columns at a time.

use super::{DEPTH, TASK_ROWS, transpose};
use crate::Matrix;
use crate::dot::widen;
use crate::fgemm::{Product, multiply_add};
use crate::simd::Level;

/// The product of weight rows `first..` with the `n` rows of `x`, as `[n][32]`.
pub(super) fn multiply(level: Level, w: &Matrix, first: usize, x: &[f32], n: usize) -> Vec<f32> {
    let columns = w.columns();
    let mut sums = vec![0f32; n * TASK_ROWS];
    let mut wide = vec![[0f32; DEPTH]; TASK_ROWS];
    let mut tile = vec![0f32; DEPTH * TASK_ROWS];
    // With 8 lanes a product takes 16 columns at a time. Apart they use all sets of the first-level cache; side by side
    // with others only every other one, from which activations then push them out.
    let width = if level.here() >= Level::Avx512 { TASK_ROWS } else { TASK_ROWS / 2 };
    let block = w.element_type().block_elements();
    debug_assert!(DEPTH.is_multiple_of(block), "every block size divides 256");
    for start in (0..columns).step_by(DEPTH) {
        let depth = DEPTH.min(columns - start);
        for (r, wide) in wide.iter_mut().enumerate() {
            let bytes = |values: usize| values / block * w.element_type().block_bytes();
            let number = (first + r).min(w.rows() - 1);
            let row = &w.row(number)[bytes(start)..bytes(start + depth)];
            widen(level, w.element_type(), row, &mut wide[..depth]);
            if let Some(scales) = w.scales() {
                scales.apply(number, start, &mut wide[..depth]);
            }
        }
        for half in 0..2 {
            let rows = std::array::from_fn(|r| &wide[16 * half + r][..depth]);
            let place = if width == TASK_ROWS { 16 * half } else { half * DEPTH * width };
            transpose::floats(level, &rows, &mut tile[place..], width);
        }
        for first in (0..TASK_ROWS).step_by(width) {
            multiply_add(
                level,
                Product {
                    rows: n,
                    depth,
                    width,
                    a: &x[start..],
                    a_stride: columns,
                    b: &tile[first * DEPTH..],
                    c: &mut sums[first..],
                    c_stride: TASK_ROWS,
                },
            );
        }
    }
    sums
}
