//! Products of two different inputs: `sum += aᵀ b`.
//!
//! ```text
//! b, 256 tokens      packed into panels of 256 columns, [token][column], which stay in the L2 cache
//! a, 256 tokens      each task transposes its strip of 48 columns, and multiplies it by all panels
//! ```
//!
//! Tokens are added in order, so the bits do not depend on the number of threads.

use crate::fgemm::{LANES, Product, multiply_add};
use crate::matmul::Shared;
use crate::{Error, Pool, Result};

/// Tokens at a time.
const DEPTH: usize = 256;
/// Columns of `b` at a time.
const PANEL: usize = 256;
/// Columns of `a` of a task.
const STRIP: usize = 48;

/// Adds the products of the columns of `a` (`[tokens][a_columns]`) with those of `b` (`[tokens][b_columns]`) to `sum`
/// (`[a_columns][b_columns]`): `sum[i][j] += Σ a[t][i] b[t][j]`.
///
/// # Errors
/// [`Error::Lengths`] if the lengths do not fit together, or `b_columns` is not a multiple of 16.
pub fn cross(
    pool: &Pool,
    (a, a_columns): (&[f32], usize),
    (b, b_columns): (&[f32], usize),
    sum: &mut [f32],
) -> Result<()> {
    let expect = |what, expected, found| match expected == found {
        true => Ok(()),
        false => Err(Error::Lengths { what, expected, found }),
    };
    expect("cross: the sum", a_columns.saturating_mul(b_columns), sum.len())?;
    if sum.is_empty() {
        return Ok(());
    }
    expect("cross: columns of b", b_columns.next_multiple_of(LANES), b_columns)?;
    let tokens = a.len() / a_columns;
    expect("cross: whole rows of a", tokens * a_columns, a.len())?;
    expect("cross: rows of b", tokens * b_columns, b.len())?;
    let level = pool.level();
    let sum = Shared::new(sum);
    let mut packed = vec![0f32; DEPTH.min(tokens) * b_columns];
    let chunks = a.chunks(DEPTH * a_columns).zip(b.chunks(DEPTH * b_columns));
    for (a, b) in chunks {
        let depth = a.len() / a_columns;
        let panels = Shared::new(&mut packed);
        pool.run(b_columns.div_ceil(PANEL), |p| {
            let width = PANEL.min(b_columns - p * PANEL);
            // SAFETY: each task has its own panel.
            let panel = unsafe { panels.slice(p * PANEL * depth, width * depth) };
            for (to, from) in panel.chunks_exact_mut(width).zip(b.chunks_exact(b_columns)) {
                to.copy_from_slice(&from[p * PANEL..][..width]);
            }
        });
        let packed = &packed[..];
        pool.run(a_columns.div_ceil(STRIP), |task| {
            let first = task * STRIP;
            let rows = STRIP.min(a_columns - first);
            let mut strip = [0f32; STRIP * DEPTH];
            for (t, line) in a.chunks_exact(a_columns).enumerate() {
                for (i, value) in line[first..first + rows].iter().enumerate() {
                    strip[i * depth + t] = *value;
                }
            }
            // SAFETY: each task has its own rows of the sum.
            let own = unsafe { sum.slice(first * b_columns, rows * b_columns) };
            for at in (0..b_columns).step_by(PANEL) {
                let width = PANEL.min(b_columns - at);
                let product = Product {
                    rows,
                    depth,
                    width,
                    a: &strip,
                    a_stride: depth,
                    b: &packed[at * depth..][..width * depth],
                    c: &mut own[at..],
                    c_stride: b_columns,
                };
                multiply_add(level, product);
            }
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_those_of_f64_and_the_same_for_all_threads() {
        let noise = |n: usize, seed: usize| -> Vec<f32> {
            (0..n).map(|i| ((i * 7919 + seed * 104_729) % 1009) as f32 / 500.0 - 1.0).collect()
        };
        for (tokens, m, n) in [(1, 1, 16), (300, 50, 272), (513, 97, 32)] {
            let (a, b) = (noise(tokens * m, 1), noise(tokens * n, 2));
            let made = |threads: usize| {
                let mut sum = vec![1f32; m * n];
                cross(&Pool::new(threads), (&a, m), (&b, n), &mut sum).unwrap();
                sum
            };
            let sum = made(1);
            assert_eq!(sum, made(3));
            for i in 0..m {
                for j in 0..n {
                    let exact: f64 =
                        (0..tokens).map(|t| f64::from(a[t * m + i]) * f64::from(b[t * n + j])).sum();
                    let error = (f64::from(sum[i * n + j]) - 1.0 - exact).abs();
                    assert!(error < 1e-3, "{tokens} {m} {n}: {i} {j}: {error}");
                }
            }
        }
        assert!(cross(&Pool::new(1), (&[0.0; 6], 2), (&[0.0; 51], 17), &mut [0.0; 34]).is_err());
        assert!(cross(&Pool::new(1), (&[0.0; 6], 2), (&[0.0; 32], 16), &mut [0.0; 32]).is_err());
    }
}
