//! Gradients through causal attention over whole sequences, in f32.
//!
//! A task is one sequence and one key-value head with the query heads that share it. Queries are taken in blocks of 64;
//! their probabilities are computed again from queries and keys:
//!
//! ```text
//! P = softmax(scale Q Kᵀ)       dV += Pᵀ dO           dP = dO Vᵀ
//! dS = P (dP - sum(dO O))       dQ = scale dS K       dK += scale dSᵀ Q
//! ```
//!
//! A head's sink takes its share of each sum and has no value, so that it changes P alone.
//!
//! Keys are taken in tiles of 64 too, so that each product is one of small pieces that are stored one after the other.
//! Head sizes are padded with zeros to whole vectors.

use std::ops::Range;

use super::AttentionShape;
use crate::error::same;
use crate::fgemm::{LANES, Product, multiply_add};
use crate::matmul::Shared;
use crate::ops;
use crate::simd::Level;
use crate::{Pool, Result};

/// Queries of a block, and keys of a tile.
const TILE: usize = 64;

/// What attention was given and returned: queries and results `[tokens][heads][head_dim]`, keys and values
/// `[tokens][kv_heads][head_dim]`, as they are multiplied (normalized, rotated).
#[derive(Clone, Copy, Debug)]
pub struct Attended<'a> {
    /// Queries.
    pub q: &'a [f32],
    /// Keys.
    pub k: &'a [f32],
    /// Values.
    pub v: &'a [f32],
    /// Results.
    pub out: &'a [f32],
}

/// Gradients of queries, keys and values, written to `to` in this order, from those of the results, `d_out`. `sequences`
/// are the tokens of each sequence; a query sees the positions of its own sequence up to itself, within the window.
/// `sinks` are one score for each query head, or none at all.
///
/// # Errors
/// Lengths that do not fit the shape.
pub fn attention_backward(
    pool: &Pool,
    shape: &AttentionShape,
    sequences: &[Range<usize>],
    (attended, sinks): (Attended<'_>, &[f32]),
    d_out: &[f32],
    to: [&mut [f32]; 3],
) -> Result<()> {
    let &AttentionShape { heads, kv_heads, head_dim, .. } = shape;
    let tokens = sequences.iter().map(|s| s.end).max().unwrap_or(0);
    let (query, key) = (tokens * heads * head_dim, tokens * kv_heads * head_dim);
    let Attended { q, k, v, out } = attended;
    let [d_q, d_k, d_v] = to;
    for values in [q, out, d_out, d_q] {
        same("attention backward: queries", query, values.len())?;
    }
    for values in [k, v, d_k, d_v] {
        same("attention backward: keys and values", key, values.len())?;
    }
    if !sinks.is_empty() {
        same("attention backward: a sink for each head", heads, sinks.len())?;
    }
    let [d_q, d_k, d_v] = [d_q, d_k, d_v].map(Shared::new);
    pool.run(sequences.len() * kv_heads, |task| {
        let (sequence, kv_head) = (&sequences[task / kv_heads], task % kv_heads);
        let rows = |values: &[f32], heads: usize, head: usize| {
            Padded::read(&values[sequence.start * heads * head_dim..], heads, head, head_dim, sequence.len())
        };
        // SAFETY: tokens of different sequences and heads differ, and this task alone has these.
        let write = |to: &Shared, from: &Padded, heads: usize, head: usize| unsafe {
            for (i, row) in from.rows().take(sequence.len()).enumerate() {
                let at = ((sequence.start + i) * heads + head) * head_dim;
                to.slice(at, head_dim).copy_from_slice(&row[..head_dim]);
            }
        };
        let mut keys = KeyHead::new(rows(k, kv_heads, kv_head), rows(v, kv_heads, kv_head));
        let group = heads / kv_heads;
        for head in kv_head * group..(kv_head + 1) * group {
            let [q, out, d_out] = [q, out, d_out].map(|values| rows(values, heads, head));
            let sink = sinks.get(head).copied();
            let d = keys.add_query_head(pool.level(), (shape, sink), sequence.len(), &q, &out, &d_out);
            write(&d_q, &d, heads, head);
        }
        write(&d_k, &keys.d_k, kv_heads, kv_head);
        write(&d_v, &keys.d_v, kv_heads, kv_head);
    });
    Ok(())
}

/// The vectors of one head, `[tokens][width]`: tokens padded to whole tiles and numbers to whole vectors.
#[derive(Clone)]
struct Padded {
    values: Vec<f32>,
    width: usize,
}

impl Padded {
    fn zeros(tokens: usize, width: usize) -> Self {
        Self { values: vec![0.0; tokens * width], width }
    }

    fn read(from: &[f32], heads: usize, head: usize, dim: usize, tokens: usize) -> Self {
        let mut padded = Self::zeros(tokens.next_multiple_of(TILE), dim.next_multiple_of(LANES));
        let rows = padded.values.chunks_exact_mut(padded.width).take(tokens);
        for (row, from) in rows.zip(from.chunks_exact(heads * dim)) {
            row[..dim].copy_from_slice(&from[head * dim..][..dim]);
        }
        padded
    }

    fn rows(&self) -> impl Iterator<Item = &[f32]> {
        self.values.chunks_exact(self.width)
    }

    /// A tile of rows, `[64][width]`.
    fn tile(&self, tile: usize) -> &[f32] {
        &self.values[tile * TILE * self.width..][..TILE * self.width]
    }

    fn tile_mut(&mut self, tile: usize) -> &mut [f32] {
        &mut self.values[tile * TILE * self.width..][..TILE * self.width]
    }

    /// The same, tile by tile transposed: `[tile][width][64]`.
    fn transposed(&self) -> Self {
        let mut out = Self::zeros(self.values.len() / self.width, self.width);
        let tiles = self.values.chunks_exact(TILE * self.width);
        for (from, to) in tiles.zip(out.values.chunks_exact_mut(TILE * self.width)) {
            transpose(from, self.width, to);
        }
        out
    }
}

/// `to[j][i] = from[i][j]` for 64 rows of `width` numbers.
fn transpose(from: &[f32], width: usize, to: &mut [f32]) {
    for (i, row) in from.chunks_exact(width).enumerate() {
        for (j, &value) in row.iter().enumerate() {
            to[j * TILE + i] = value;
        }
    }
}

/// A key head of one sequence with the gradients collected so far.
struct KeyHead {
    k: Padded,
    k_transposed: Padded,
    v_transposed: Padded,
    d_k: Padded,
    d_v: Padded,
    /// Scores of a block of queries, then their probabilities, `[64][keys]`.
    scores: Vec<f32>,
    /// Derivatives of the scores by the products of queries and keys.
    slopes: Vec<f32>,
}

impl KeyHead {
    fn new(k: Padded, v: Padded) -> Self {
        let tokens = k.values.len() / k.width;
        let zeros = || Padded::zeros(tokens, k.width);
        Self {
            k_transposed: k.transposed(),
            v_transposed: v.transposed(),
            d_k: zeros(),
            d_v: zeros(),
            scores: vec![0.0; TILE * tokens],
            slopes: vec![0.0; TILE * tokens],
            k,
        }
    }

    /// Adds what one query head brings to the gradients of keys and values; returns that of its queries.
    fn add_query_head(
        &mut self,
        level: Level,
        (shape, sink): (&AttentionShape, Option<f32>),
        tokens: usize,
        q: &Padded,
        out: &Padded,
        d_out: &Padded,
    ) -> Padded {
        let (width, stride) = (q.width, self.scores.len() / TILE);
        let mut d_q = Padded::zeros(stride, width);
        let [mut p, mut d, mut turned] = [(); 3].map(|()| vec![0f32; TILE * TILE]);
        for block in 0..tokens.div_ceil(TILE) {
            let first = block * TILE;
            let rows = TILE.min(tokens - first);
            // The first tile that the block's first query sees.
            let seen = shape.first_seen(first) / TILE;
            let (q, d_out) = (q.tile(block), d_out.tile(block));
            self.scores.fill(0.0);
            for tile in seen..=block {
                let c = &mut self.scores[tile * TILE..];
                product(level, [rows, width, TILE], (q, width), self.k_transposed.tile(tile), (c, stride));
            }
            let lines = self.scores.chunks_exact_mut(stride).zip(self.slopes.chunks_exact_mut(stride));
            for (at, (scores, slopes)) in (first..first + rows).zip(lines) {
                softmax(level, (shape, sink), at, scores, slopes);
            }
            let pairs = out.tile(block).chunks_exact(width).zip(d_out.chunks_exact(width)).take(rows);
            let owed = pairs.map(|(out, d)| out.iter().zip(d).map(|(o, d)| o * d).sum::<f32>());
            let owed: Vec<f32> = owed.collect();
            for tile in seen..=block {
                d.fill(0.0);
                product(
                    level,
                    [rows, width, TILE],
                    (d_out, width),
                    self.v_transposed.tile(tile),
                    (&mut d, TILE),
                );
                let lines = p.chunks_exact_mut(TILE).zip(d.chunks_exact_mut(TILE));
                for ((r, owed), (p, d)) in owed.iter().enumerate().zip(lines) {
                    let from = r * stride + tile * TILE;
                    p.copy_from_slice(&self.scores[from..from + TILE]);
                    let slopes = &self.slopes[from..from + TILE];
                    for ((d, &p), &slope) in d.iter_mut().zip(&*p).zip(slopes) {
                        *d = p * (*d - owed) * slope;
                    }
                }
                let to = (d_q.tile_mut(block), width);
                product(level, [rows, TILE, width], (&d, TILE), self.k.tile(tile), to);
                transpose(&d, TILE, &mut turned);
                let to = (self.d_k.tile_mut(tile), width);
                product(level, [TILE, rows, width], (&turned, TILE), q, to);
                transpose(&p, TILE, &mut turned);
                let to = (self.d_v.tile_mut(tile), width);
                product(level, [TILE, rows, width], (&turned, TILE), d_out, to);
            }
        }
        d_q
    }
}

/// `c += a b`, where `a` is `[rows][depth]` and `b` `[depth][width]`; `a` and `c` with the lengths of their rows.
fn product(
    level: Level,
    [rows, depth, width]: [usize; 3],
    (a, a_stride): (&[f32], usize),
    b: &[f32],
    (c, c_stride): (&mut [f32], usize),
) {
    multiply_add(level, Product { rows, depth, width, a, a_stride, b, c, c_stride });
}

/// Turns the products of query `at` with all keys into probabilities, zero where it does not see; `slopes` become the
/// derivatives of the scores that are compared by the products.
fn softmax(
    level: Level,
    (shape, sink): (&AttentionShape, Option<f32>),
    at: usize,
    scores: &mut [f32],
    slopes: &mut [f32],
) {
    let first = shape.first_seen(at);
    scores[at + 1..].fill(0.0);
    scores[..first].fill(0.0);
    let seen = &mut scores[first..=at];
    seen.iter_mut().for_each(|score| *score *= shape.scale);
    match shape.softcap {
        None => slopes.fill(shape.scale),
        Some(cap) => {
            ops::softcap(level, seen, cap);
            let slopes = &mut slopes[first..=at];
            slopes
                .iter_mut()
                .zip(&*seen)
                .for_each(|(slope, s)| *slope = shape.scale * (1.0 - (s / cap).powi(2)));
        }
    }
    let largest = seen.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    ops::softmax(level, seen);
    if let Some(sink) = sink {
        // The largest probability is one over the sum of e^(score - largest).
        let most = seen.iter().copied().fold(0.0, f32::max);
        let share = 1.0 / (1.0 + (sink - largest).exp() * most);
        seen.iter_mut().for_each(|p| *p *= share);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Random;

    /// Attention of one sequence in f64: the sum of `d * result`.
    fn value(
        (shape, sinks): (&AttentionShape, &[f32]),
        q: &[f64],
        k: &[f64],
        v: &[f64],
        d: &[f64],
    ) -> (f64, Vec<f64>) {
        let (heads, kv_heads, dim) = (shape.heads, shape.kv_heads, shape.head_dim);
        let n = q.len() / (heads * dim);
        let mut out = vec![0f64; q.len()];
        for (i, h) in (0..n).flat_map(|i| (0..heads).map(move |h| (i, h))) {
            let q = &q[(i * heads + h) * dim..][..dim];
            let at = |j: usize| (j * kv_heads + h * kv_heads / heads) * dim;
            let window = shape.window.map_or(0, |w| (i + 1).saturating_sub(w));
            let first = window.max(shape.chunk.map_or(0, |chunk| i / chunk * chunk));
            let score = |j: usize| {
                let dot = q.iter().zip(&k[at(j)..]).map(|(q, k)| q * k).sum::<f64>() * f64::from(shape.scale);
                shape.softcap.map_or(dot, |c| f64::from(c) * (dot / f64::from(c)).tanh())
            };
            let weights: Vec<f64> = (first..=i).map(|j| score(j).exp()).collect();
            let sink = sinks.get(h).map_or(0.0, |&sink| f64::from(sink).exp());
            let sum = weights.iter().sum::<f64>() + sink;
            let out = &mut out[(i * heads + h) * dim..][..dim];
            for (j, w) in (first..=i).zip(weights) {
                out.iter_mut().zip(&v[at(j)..]).for_each(|(o, v)| *o += w / sum * v);
            }
        }
        (out.iter().zip(d).map(|(o, d)| o * d).sum(), out)
    }

    #[test]
    fn gradients_are_those_of_the_formula() {
        let plain = AttentionShape {
            heads: 4,
            kv_heads: 2,
            head_dim: 12,
            scale: 0.4,
            window: None,
            chunk: None,
            softcap: None,
        };
        let other =
            AttentionShape { window: Some(9), kv_heads: 1, softcap: Some(2.0), head_dim: 16, ..plain };
        let parts = AttentionShape { chunk: Some(13), ..plain };
        for (shape, sinks) in
            [(plain, &[][..]), (plain, &[0.5, -2.0, 3.0, 1.0]), (other, &[1.0, 2.0, 0.0, -1.0]), (parts, &[])]
        {
            let mut random = Random::new(5);
            let lengths = [70usize, 1, 5];
            let n: usize = lengths.iter().sum();
            let (query, key) = (shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim);
            let mut noise = |n: usize| -> Vec<f32> { (0..n).map(|_| random.float()).collect() };
            let [q, d] = [0; 2].map(|_| noise(n * query));
            let [k, v] = [0; 2].map(|_| noise(n * key));
            let wide = |v: &[f32]| -> Vec<f64> { v.iter().map(|&v| v.into()).collect() };
            let mut start = 0;
            let sequences = lengths.map(|n| {
                start += n;
                start - n..start
            });
            let mut out = vec![0f32; n * query];
            let part =
                |s: &Range<usize>, values: &[f32], width| wide(&values[s.start * width..s.end * width]);
            for s in &sequences {
                let [q, d] = [&q, &d].map(|x| part(s, x, query));
                let (_, made) = value((&shape, sinks), &q, &part(s, &k, key), &part(s, &v, key), &d);
                let to = &mut out[s.start * query..s.end * query];
                to.iter_mut().zip(made).for_each(|(to, made)| *to = made as f32);
            }
            let (mut d_q, mut d_k, mut d_v) =
                (vec![0f32; n * query], vec![0f32; n * key], vec![0f32; n * key]);
            let attended = Attended { q: &q, k: &k, v: &v, out: &out };
            let to = [&mut *d_q, &mut *d_k, &mut *d_v];
            attention_backward(&Pool::new(2), &shape, &sequences, (attended, sinks), &d, to).unwrap();
            for s in &sequences {
                let [q, d] = [&q, &d].map(|x| part(s, x, query));
                let [k, v] = [&k, &v].map(|x| part(s, x, key));
                for (which, got, width) in [(0, &d_q, query), (1, &d_k, key), (2, &d_v, key)] {
                    for i in (0..s.len() * width).step_by(7) {
                        let at = |step: f64| {
                            let mut all = [q.clone(), k.clone(), v.clone()];
                            all[which][i] += step;
                            value((&shape, sinks), &all[0], &all[1], &all[2], &d).0
                        };
                        let expected = (at(1e-5) - at(-1e-5)) / 2e-5;
                        let got = f64::from(got[s.start * width + i]);
                        assert!((got - expected).abs() < 1e-5, "{which} {i}: {got} {expected}");
                    }
                }
            }
        }
    }

    #[test]
    fn lengths_are_checked() {
        let shape = AttentionShape {
            heads: 2,
            kv_heads: 1,
            head_dim: 4,
            scale: 1.0,
            window: None,
            chunk: None,
            softcap: None,
        };
        let (q, k) = ([0f32; 16], [0f32; 8]);
        let (mut d_q, mut d_k, mut d_v) = ([0f32; 16], [0f32; 8], [0f32; 7]);
        let attended = Attended { q: &q, k: &k, v: &k, out: &q };
        let to = [&mut d_q[..], &mut d_k[..], &mut d_v[..]];
        let given = (attended, &[][..]);
        assert!(attention_backward(&Pool::new(1), &shape, &[0..1, 1..2], given, &q, to).is_err());
        let mut d_v = [0f32; 8];
        let to = [&mut d_q[..], &mut d_k[..], &mut d_v[..]];
        let given = (attended, &[1.0][..]);
        assert!(attention_backward(&Pool::new(1), &shape, &[0..1, 1..2], given, &q, to).is_err());
    }
}
