//! Gram matrices: `sum += xᵀ x`, the Hessian of a linear layer, and their Cholesky factor ([`factor`], [`factor64`]).
//!
//! Only tiles that touch the lower triangle are computed: half the work of a matrix product. The input is
//! packed once into panels of 48 columns, which serve both sides of the product:
//!
//! ```text
//! panel p, [token][48 columns]     8 rows of sums x 48 columns stay in registers over 256 tokens,
//!                                  starting at zero, and are then added to the result
//! ```
//!
//! Sums of 256 tokens added to a running total lose less to rounding than one long sum. Tasks are tiles of the
//! result, each running over all tokens in order, so the bits do not depend on the number of threads; they do
//! depend (in the last places) on where the caller cuts the tokens into calls, and on the SIMD level: AVX2 and
//! AVX-512 fuse multiply and add, the scalar specification does not.
//!
//! Two ways with bf16 were tried on Sapphire Rapids and left out. `vdpbf16ps` (AVX512-BF16) runs at a quarter of the rate
//! of the f32 multiply-add, which makes half the products per second. The matrix unit, with numbers in three parts, whose
//! six products add up to those of f32, made 0.9 to 1.0 times the products of vectors on 16 threads.

use crate::matmul::Shared;
use crate::simd::Level;
use crate::{Error, Pool, Result};

pub mod cross;
pub mod factor;
pub mod factor64;
mod kernel;
pub mod mirror;

use kernel::{PANEL, ROWS};

/// Tokens summed in registers before the sum is added to the result.
const DEPTH: usize = 256;
/// Tokens packed at a time: bounds the scratch memory.
const PACKED: usize = 4096;
/// From this many panels on, tasks are squares of two panels: each packed value is read half as often.
const SQUARES_FROM: usize = 32;

/// Adds the products of the columns of `x` (`[tokens][columns]`) to the lower triangle, diagonal included, of
/// `sum` (`[columns][columns]`): `sum[i][j] += Σ x[t][i] x[t][j]` for `j <= i`. The rest of `sum` is not
/// touched. Needs scratch memory as large as at most 4096 tokens of `x`.
///
/// # Errors
/// [`Error::Lengths`] if `x` is not whole rows or `sum` is not square.
pub fn gram(pool: &Pool, x: &[f32], columns: usize, sum: &mut [f32]) -> Result<()> {
    gram_in(&mut Scratch::default(), pool, x, columns, sum)
}

/// Memory that [`gram_in`] reuses from call to call.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    packed: Vec<f32>,
}

/// As [`gram`].
pub(crate) fn gram_in(
    scratch: &mut Scratch,
    pool: &Pool,
    x: &[f32],
    columns: usize,
    sum: &mut [f32],
) -> Result<()> {
    let square = columns.saturating_mul(columns);
    if sum.len() != square {
        return Err(Error::Lengths { what: "gram: the sum", expected: square, found: sum.len() });
    }
    if columns == 0 {
        return Ok(());
    }
    if !x.len().is_multiple_of(columns) {
        let expected = x.len() / columns * columns;
        return Err(Error::Lengths { what: "gram: whole rows of the input", expected, found: x.len() });
    }
    let sum = Triangle { values: Shared::new(sum), stride: columns };
    for x in x.chunks(PACKED * columns) {
        let rows = Rows { values: x, stride: columns, count: x.len() / columns, columns };
        update(pool, &rows, &sum, 1.0, &mut scratch.packed);
    }
    Ok(())
}

/// The vectors whose products are added: the first `columns` values of each row.
struct Rows<'a> {
    values: &'a [f32],
    stride: usize,
    count: usize,
    columns: usize,
}

/// A matrix whose lower triangle is written.
struct Triangle {
    values: Shared,
    stride: usize,
}

/// `sum[i][j] += sign * Σ x[t][i] x[t][j]` for `j <= i < x.columns`.
fn update(pool: &Pool, x: &Rows, sum: &Triangle, sign: f32, packed: &mut Vec<f32>) {
    let (level, panels, tokens) = (pool.level(), x.columns.div_ceil(PANEL), x.count);
    if tokens == 0 {
        return;
    }
    let size = panels * tokens * PANEL;
    if packed.len() < size {
        // Not resized: this memory is zero without being written by this thread alone.
        *packed = vec![0.0; size];
    }
    let packed = &mut packed[..size];
    let shared = Shared::new(packed);
    pool.run(panels, |p| {
        // SAFETY: each task has its own panel.
        let panel = unsafe { shared.slice(p * tokens * PANEL, tokens * PANEL) };
        let width = PANEL.min(x.columns - p * PANEL);
        for (t, line) in panel.chunks_exact_mut(PANEL).enumerate() {
            line[..width].copy_from_slice(&x.values[t * x.stride + p * PANEL..][..width]);
            line[width..].fill(0.0);
        }
    });
    let packed = &packed[..];
    let panel = |p: usize| &packed[p * tokens * PANEL..][..tokens * PANEL];
    let side = if panels < SQUARES_FROM { 1 } else { 2 };
    let squares = panels.div_ceil(side);
    pool.run(squares * (squares + 1) / 2, |task| {
        let (square_i, square_j) = triangle_index(task);
        for first in (0..tokens).step_by(DEPTH) {
            let tokens = first * PANEL..tokens.min(first + DEPTH) * PANEL;
            for j in side * square_j..panels.min(side * (square_j + 1)) {
                for i in (side * square_i).max(j)..panels.min(side * (square_i + 1)) {
                    // SAFETY: this task alone writes the tiles of its square.
                    unsafe {
                        tile(
                            level,
                            x.columns,
                            (i, j),
                            &panel(i)[tokens.clone()],
                            &panel(j)[tokens.clone()],
                            sum,
                            sign,
                        );
                    }
                }
            }
        }
    });
}

/// Adds the products of the columns of panel `i` with those of panel `j <= i`.
///
/// # Safety
/// Nobody else uses this tile of `sum`.
unsafe fn tile(
    level: Level,
    columns: usize,
    (i, j): (usize, usize),
    a: &[f32],
    b: &[f32],
    sum: &Triangle,
    sign: f32,
) {
    let mut products = [[0f32; PANEL]; ROWS];
    for strip in (0..PANEL).step_by(ROWS) {
        let first = i * PANEL + strip;
        if first >= columns {
            break;
        }
        kernel::products(level, &a[strip..], b, &mut products);
        for (row, products) in (first..columns).zip(&products) {
            let width = (row + 1 - j * PANEL).min(PANEL);
            // SAFETY: guaranteed by the caller; rows of different panels and columns of different panels differ.
            let line = unsafe { sum.values.slice(row * sum.stride + j * PANEL, width) };
            for (sum, product) in line.iter_mut().zip(products) {
                *sum += sign * product;
            }
        }
    }
}

/// Row and column of the `index`th cell of a lower triangle, counted row by row.
fn triangle_index(index: usize) -> (usize, usize) {
    let mut row = ((((8 * index + 1) as f64).sqrt() - 1.0) / 2.0) as usize;
    while row * (row + 1) / 2 > index {
        row -= 1;
    }
    while (row + 1) * (row + 2) / 2 <= index {
        row += 1;
    }
    (row, index - row * (row + 1) / 2)
}

#[cfg(test)]
mod tests;
