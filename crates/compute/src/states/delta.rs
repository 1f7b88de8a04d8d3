//! The gated delta rule (Yang et al., arXiv 2412.06464). Each value head has a matrix `S`, `[key_dim][value_dim]`; for each
//! token, with its key `k`, query `q`, value `v`, decay `g` and step `b`:
//!
//! ```text
//! S = g S;   d = b (v - k S);   S = S + k d;   out = q S
//! ```
//!
//! The columns of `S` never meet: a thread takes 16 columns of one head through all tokens, and what it reads and writes
//! of `S` (8 KiB for heads of 128) stays in its first cache. Groups of tokens as products of matrices, which GPUs need to
//! use all of their units, would compute more and save nothing here.

use crate::error::same;
use crate::ops::LANES;
use crate::parallel::{part_of, share};
use crate::simd::{Level, Op, dispatch};
use crate::{Pool, Result};

use super::tiles::gather;

/// The least sum of squares that keys and queries are divided by, as the models were trained with.
const EPSILON: f32 = 1e-6;

/// The heads of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeltaShape {
    /// Heads of keys and queries; divides `value_heads`.
    pub key_heads: usize,
    /// Heads of values, of the state and of the results.
    pub value_heads: usize,
    /// Values in a key or query head.
    pub key_dim: usize,
    /// Values in a value head.
    pub value_dim: usize,
    /// Value head `h` has key head `h % key_heads`; otherwise those of one key head follow each other.
    pub tiled: bool,
}

impl DeltaShape {
    /// Queries, keys and values of a token.
    pub fn width(&self) -> usize {
        2 * self.keys() + self.values()
    }

    /// Keys, or queries, of a token.
    pub fn keys(&self) -> usize {
        self.key_heads * self.key_dim
    }

    /// Values, or results, of a token.
    pub fn values(&self) -> usize {
        self.value_heads * self.value_dim
    }

    /// Values of a state, `[value head][tile][key_dim][16]`: a tile is 16 columns of `S`, the last filled up with zeros.
    pub fn state(&self) -> usize {
        self.value_heads * self.tiles() * self.key_dim * LANES
    }

    fn tiles(&self) -> usize {
        self.value_dim.div_ceil(LANES)
    }

    fn key_head(&self, value_head: usize) -> usize {
        match self.tiled {
            true => value_head % self.key_heads,
            false => value_head / (self.value_heads / self.key_heads).max(1),
        }
    }
}

/// Takes `x`, `[tokens]` of all queries, all keys and all values, through the state to `out`,
/// `[tokens][value heads][value_dim]`. `decays` and `steps` are `[tokens][value heads]`. Queries and keys of each head are
/// divided by their length first, and queries by the root of it.
///
/// # Errors
/// Lengths that do not fit each other.
pub fn delta_rule(
    pool: &Pool,
    shape: &DeltaShape,
    x: &mut [f32],
    (decays, steps): (&[f32], &[f32]),
    state: &mut [f32],
    out: &mut [f32],
) -> Result<()> {
    let width = shape.width().max(1);
    let tokens = x.len() / width;
    same("delta rule: input", x.len(), tokens * width)?;
    same("delta rule: decays", decays.len(), tokens * shape.value_heads)?;
    same("delta rule: steps", steps.len(), tokens * shape.value_heads)?;
    same("delta rule: state", state.len(), shape.state())?;
    same("delta rule: output", out.len(), tokens * shape.values())?;
    if tokens == 0 || state.is_empty() {
        return Ok(());
    }
    let part = part_of(pool, x.len(), width);
    share(pool, x.chunks_mut(part), |x| {
        for row in x.chunks_exact_mut(width) {
            normalize(pool.level(), shape, row);
        }
    });
    let x = &*x;
    let products = products(shape, x);
    let tiles = shape.tiles();
    let mut made = vec![0f32; shape.value_heads * tiles * tokens * LANES];
    let work = state.chunks_exact_mut(shape.key_dim * LANES).zip(made.chunks_exact_mut(tokens * LANES));
    share(pool, work.enumerate(), |(task, (state, made))| {
        let (head, tile) = (task / tiles, task % tiles);
        dispatch(
            pool.level(),
            Tile { shape, x, decays, steps, products: &products, head, tile, state, made },
        );
    });
    gather(pool, (shape.value_heads, shape.value_dim), &made, out);
    Ok(())
}

/// Queries and keys of a token, divided by their lengths.
fn normalize(level: Level, shape: &DeltaShape, row: &mut [f32]) {
    struct Unit<'a>(&'a mut [f32], f32);
    impl Op for Unit<'_> {
        type Output = ();
        #[inline(always)]
        fn call(self) {
            let factor = self.1 / (dot(self.0, self.0) + EPSILON).sqrt();
            self.0.iter_mut().for_each(|x| *x *= factor);
        }
    }
    let (queries, rest) = row.split_at_mut(shape.keys());
    let scale = (shape.key_dim as f32).sqrt().recip();
    queries.chunks_exact_mut(shape.key_dim).for_each(|head| dispatch(level, Unit(head, scale)));
    let keys = &mut rest[..shape.keys()];
    keys.chunks_exact_mut(shape.key_dim).for_each(|head| dispatch(level, Unit(head, 1.0)));
}

/// Query times key, `[tokens][key heads]`.
fn products(shape: &DeltaShape, x: &[f32]) -> Vec<f32> {
    let rows = x.chunks_exact(shape.width());
    let heads = rows.flat_map(|row| {
        let (queries, rest) = row.split_at(shape.keys());
        queries.chunks_exact(shape.key_dim).zip(rest.chunks_exact(shape.key_dim))
    });
    heads.map(|(q, k)| dot(q, k)).collect()
}

#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0f32; LANES];
    let (a, b) = (a.chunks(LANES), b.chunks(LANES));
    for (a, b) in a.zip(b) {
        for ((sum, a), b) in lanes.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    crate::ops::join(lanes, |a, b| a + b)
}

/// 16 columns of one head's state, through all tokens.
struct Tile<'a> {
    shape: &'a DeltaShape,
    x: &'a [f32],
    decays: &'a [f32],
    steps: &'a [f32],
    products: &'a [f32],
    head: usize,
    tile: usize,
    /// `[key_dim][16]`.
    state: &'a mut [f32],
    /// `[tokens][16]`.
    made: &'a mut [f32],
}

impl Op for Tile<'_> {
    type Output = ();
    #[inline(always)]
    fn call(self) {
        let Self { shape, x, decays, steps, products, head, tile, state, made } = self;
        let (state, _) = state.as_chunks_mut::<LANES>();
        let (made, _) = made.as_chunks_mut::<LANES>();
        let (keys, dim) = (shape.keys(), shape.key_dim);
        let key_head = shape.key_head(head);
        let first = 2 * keys + head * shape.value_dim + tile * LANES;
        let columns = LANES.min(shape.value_dim - tile * LANES);
        for (t, (row, out)) in x.chunks_exact(shape.width()).zip(made).enumerate() {
            let q = &row[key_head * dim..][..dim];
            let k = &row[keys + key_head * dim..][..dim];
            let mut v = [0f32; LANES];
            v[..columns].copy_from_slice(&row[first..first + columns]);
            let (g, step) = (decays[t * shape.value_heads + head], steps[t * shape.value_heads + head]);
            // Sums over even and odd rows: two chains of additions side by side.
            let (mut recalled, mut read) = ([[0f32; LANES]; 2], [[0f32; LANES]; 2]);
            for (i, ((s, k), q)) in state.iter().zip(k).zip(q).enumerate() {
                for l in 0..LANES {
                    recalled[i % 2][l] += k * s[l];
                    read[i % 2][l] += q * s[l];
                }
            }
            let product = products[t * shape.key_heads + key_head];
            let mut d = [0f32; LANES];
            for l in 0..LANES {
                d[l] = step * (v[l] - g * (recalled[0][l] + recalled[1][l]));
                // q (g S + k d)
                out[l] = g * (read[0][l] + read[1][l]) + product * d[l];
            }
            for (s, k) in state.iter_mut().zip(k) {
                for l in 0..LANES {
                    s[l] = g * s[l] + k * d[l];
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Random;

    /// The definition in f64, one head and token after the other.
    fn definition(shape: &DeltaShape, x: &[f32], decays: &[f32], steps: &[f32]) -> Vec<f64> {
        let (dk, dv) = (shape.key_dim, shape.value_dim);
        let mut states = vec![vec![vec![0f64; dv]; dk]; shape.value_heads];
        let mut all = Vec::new();
        let unit = |part: &[f32]| -> Vec<f64> {
            let square: f64 = part.iter().map(|&x| f64::from(x).powi(2)).sum();
            part.iter().map(|&x| f64::from(x) / (square + 1e-6).sqrt()).collect()
        };
        for (t, row) in x.chunks_exact(shape.width()).enumerate() {
            for (h, s) in states.iter_mut().enumerate() {
                let kh =
                    if shape.tiled { h % shape.key_heads } else { h * shape.key_heads / shape.value_heads };
                let q = unit(&row[kh * dk..][..dk]);
                let k = unit(&row[shape.keys() + kh * dk..][..dk]);
                let v = &row[2 * shape.keys() + h * dv..][..dv];
                let (g, b) = (decays[t * shape.value_heads + h], steps[t * shape.value_heads + h]);
                for j in 0..dv {
                    s.iter_mut().for_each(|row| row[j] *= f64::from(g));
                    let recalled: f64 = s.iter().zip(&k).map(|(row, k)| row[j] * k).sum();
                    let d = f64::from(b) * (f64::from(v[j]) - recalled);
                    s.iter_mut().zip(&k).for_each(|(row, k)| row[j] += k * d);
                    let out: f64 = s.iter().zip(&q).map(|(row, q)| row[j] * q).sum();
                    all.push(out / (dk as f64).sqrt());
                }
            }
        }
        all
    }

    #[test]
    fn pieces_of_a_text_give_what_the_definition_gives() {
        let mut random = Random::new(5);
        let shapes = [(2, 4, 8, 24, false), (2, 6, 32, 16, true), (3, 3, 5, 7, false)];
        for (key_heads, value_heads, key_dim, value_dim, tiled) in shapes {
            let shape = DeltaShape { key_heads, value_heads, key_dim, value_dim, tiled };
            let tokens = 41;
            let mut values = |n: usize| (0..n).map(|_| random.float()).collect::<Vec<f32>>();
            let x = values(tokens * shape.width());
            let decays: Vec<f32> =
                values(tokens * value_heads).iter().map(|v| (-v.abs() / 8.0).exp()).collect();
            let steps: Vec<f32> =
                values(tokens * value_heads).iter().map(|v| 1.0 / (1.0 + v.exp())).collect();
            let expected = definition(&shape, &x, &decays, &steps);
            for (threads, piece) in [(1, tokens), (3, 10), (2, 1)] {
                let pool = Pool::new(threads);
                let mut state = vec![0.0; shape.state()];
                let mut out = vec![0.0; tokens * shape.values()];
                for (at, out) in out.chunks_mut(piece * shape.values()).enumerate() {
                    let own = at * piece..(at * piece + out.len() / shape.values());
                    let mut x = x[own.start * shape.width()..own.end * shape.width()].to_vec();
                    let gates = own.start * value_heads..own.end * value_heads;
                    let gates = (&decays[gates.clone()], &steps[gates]);
                    delta_rule(&pool, &shape, &mut x, gates, &mut state, out).unwrap();
                }
                for (found, expected) in out.iter().zip(&expected) {
                    assert!((f64::from(*found) - expected).abs() < 2e-5, "{shape:?}: {found} {expected}");
                }
            }
        }
    }

    #[test]
    fn lengths_that_do_not_fit_are_errors() {
        let shape = DeltaShape { key_heads: 1, value_heads: 1, key_dim: 4, value_dim: 4, tiled: false };
        let (mut x, mut state, mut out) = (vec![0.0; 12], vec![0.0; shape.state()], vec![0.0; 8]);
        let pool = Pool::new(1);
        assert!(delta_rule(&pool, &shape, &mut x, (&[1.0], &[1.0]), &mut state, &mut out).is_err());
    }
}
