//! The selective scan of Mamba-2 (Dao and Gu, arXiv 2405.21060). Each head has a matrix `S`, `[state][head_dim]`; for each
//! token, with its input `x`, its vectors `b` and `c`, its step `t` and the head's rate `a < 0`:
//!
//! ```text
//! S = e^(t a) S + t b x;   y = c S + skip x
//! ```
//!
//! As in the delta rule, a thread takes 16 columns of one head through all tokens.

use crate::error::same;
use crate::ops::LANES;
use crate::parallel::share;
use crate::simd::{Op, dispatch};
use crate::{Pool, Result};

use super::tiles::gather;

/// The heads of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScanShape {
    /// Heads of inputs, of the state and of the results.
    pub heads: usize,
    /// Values in a head.
    pub head_dim: usize,
    /// Groups of heads that share `b` and `c`; divides `heads`.
    pub groups: usize,
    /// Values in `b` and in `c`.
    pub state: usize,
}

impl ScanShape {
    /// Inputs, or results, of a token.
    pub fn inner(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Inputs, `b` and `c` of a token.
    pub fn width(&self) -> usize {
        self.inner() + 2 * self.groups * self.state
    }

    /// Values of all states, `[head][tile][state][16]`: a tile is 16 columns of `S`, the last filled up with zeros.
    pub fn states(&self) -> usize {
        self.heads * self.tiles() * self.state * LANES
    }

    fn tiles(&self) -> usize {
        self.head_dim.div_ceil(LANES)
    }
}

/// Takes `x`, `[tokens]` of the inputs of all heads, `b` of all groups and `c` of all groups, through the state to `out`,
/// `[tokens][heads][head_dim]`. `steps` is `[tokens][heads]`; `rates` and `skips` are one number for each head.
///
/// # Errors
/// Lengths that do not fit each other.
pub fn selective_scan(
    pool: &Pool,
    shape: &ScanShape,
    x: &[f32],
    steps: &[f32],
    (rates, skips): (&[f32], &[f32]),
    state: &mut [f32],
    out: &mut [f32],
) -> Result<()> {
    let tokens = x.len() / shape.width().max(1);
    same("scan: input", x.len(), tokens * shape.width())?;
    same("scan: steps", steps.len(), tokens * shape.heads)?;
    same("scan: rates", rates.len(), shape.heads)?;
    same("scan: skips", skips.len(), shape.heads)?;
    same("scan: state", state.len(), shape.states())?;
    same("scan: output", out.len(), tokens * shape.inner())?;
    if tokens == 0 || state.is_empty() {
        return Ok(());
    }
    let tiles = shape.tiles();
    let mut made = vec![0f32; shape.heads * tiles * tokens * LANES];
    let work = state.chunks_exact_mut(shape.state * LANES).zip(made.chunks_exact_mut(tokens * LANES));
    share(pool, work.enumerate(), |(task, (state, made))| {
        let (head, tile) = (task / tiles, task % tiles);
        let rates = (rates[head], skips[head]);
        dispatch(pool.level(), Tile { shape, x, steps, rates, head, tile, state, made });
    });
    gather(pool, (shape.heads, shape.head_dim), &made, out);
    Ok(())
}

/// 16 columns of one head's state, through all tokens.
struct Tile<'a> {
    shape: &'a ScanShape,
    x: &'a [f32],
    steps: &'a [f32],
    /// The head's rate, and what its input is multiplied with beside the state.
    rates: (f32, f32),
    head: usize,
    tile: usize,
    /// `[state][16]`.
    state: &'a mut [f32],
    /// `[tokens][16]`.
    made: &'a mut [f32],
}

impl Op for Tile<'_> {
    type Output = ();
    #[inline(always)]
    fn call(self) {
        let Self { shape, x, steps, rates: (rate, skip), head, tile, state, made } = self;
        let (state, _) = state.as_chunks_mut::<LANES>();
        let (made, _) = made.as_chunks_mut::<LANES>();
        let group = head / (shape.heads / shape.groups).max(1);
        let first = head * shape.head_dim + tile * LANES;
        let columns = LANES.min(shape.head_dim - tile * LANES);
        let b_at = shape.inner() + group * shape.state;
        let c_at = b_at + shape.groups * shape.state;
        for (t, (row, out)) in x.chunks_exact(shape.width()).zip(made).enumerate() {
            let (b, c) = (&row[b_at..][..shape.state], &row[c_at..][..shape.state]);
            let mut input = [0f32; LANES];
            input[..columns].copy_from_slice(&row[first..first + columns]);
            let step = steps[t * shape.heads + head];
            let decay = (step * rate).exp();
            // Sums over even and odd rows: two chains of additions side by side.
            let mut read = [[0f32; LANES]; 2];
            for (i, ((s, b), c)) in state.iter_mut().zip(b).zip(c).enumerate() {
                let b = step * b;
                for l in 0..LANES {
                    s[l] = decay * s[l] + b * input[l];
                    read[i % 2][l] += c * s[l];
                }
            }
            for l in 0..LANES {
                out[l] = read[0][l] + read[1][l] + skip * input[l];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Random;

    /// The definition in f64.
    fn definition(shape: &ScanShape, x: &[f32], steps: &[f32], rates: &[f32], skips: &[f32]) -> Vec<f64> {
        let mut states = vec![vec![0f64; shape.state]; shape.inner()];
        let mut all = Vec::new();
        for (t, row) in x.chunks_exact(shape.width()).enumerate() {
            for (at, s) in states.iter_mut().enumerate() {
                let head = at / shape.head_dim;
                let group = head * shape.groups / shape.heads;
                let b = &row[shape.inner() + group * shape.state..][..shape.state];
                let c = &row[shape.inner() + (shape.groups + group) * shape.state..][..shape.state];
                let (step, input) = (f64::from(steps[t * shape.heads + head]), f64::from(row[at]));
                let decay = (step * f64::from(rates[head])).exp();
                let mut y = f64::from(skips[head]) * input;
                for ((s, &b), &c) in s.iter_mut().zip(b).zip(c) {
                    *s = decay * *s + step * f64::from(b) * input;
                    y += f64::from(c) * *s;
                }
                all.push(y);
            }
        }
        all
    }

    #[test]
    fn pieces_of_a_text_give_what_the_definition_gives() {
        let mut random = Random::new(7);
        for (heads, head_dim, groups, state) in [(4, 24, 2, 8), (6, 16, 1, 32), (3, 7, 3, 5)] {
            let shape = ScanShape { heads, head_dim, groups, state };
            let tokens = 33;
            let mut values = |n: usize| (0..n).map(|_| random.float()).collect::<Vec<f32>>();
            let x = values(tokens * shape.width());
            let steps: Vec<f32> = values(tokens * heads).iter().map(|v| v.abs()).collect();
            let rates: Vec<f32> = values(heads).iter().map(|v| -v.abs()).collect();
            let skips = values(heads);
            let expected = definition(&shape, &x, &steps, &rates, &skips);
            for (threads, piece) in [(1, tokens), (3, 10), (2, 1)] {
                let pool = Pool::new(threads);
                let mut state = vec![0.0; shape.states()];
                let mut out = vec![0.0; tokens * shape.inner()];
                for (at, out) in out.chunks_mut(piece * shape.inner()).enumerate() {
                    let own = at * piece..(at * piece + out.len() / shape.inner());
                    let x = &x[own.start * shape.width()..own.end * shape.width()];
                    let steps = &steps[own.start * heads..own.end * heads];
                    selective_scan(&pool, &shape, x, steps, (&rates, &skips), &mut state, out).unwrap();
                }
                for (found, expected) in out.iter().zip(&expected) {
                    assert!((f64::from(*found) - expected).abs() < 2e-5, "{shape:?}: {found} {expected}");
                }
            }
        }
    }
}
