//! Which positions sparse attention reads (DeepSeek V3.2, arXiv 2512.02556): an indexer scores all of them with a few small
//! heads, and each query sees those with the largest scores.
//!
//! ```text
//! score(t, s) = sum over heads of  w_h(t) max(0, q_h(t) . k(s))      s <= t
//! seen by t     the `top_k` largest, of equals the first; all, where there are no more
//! ```
//!
//! Its keys, one head of them, are kept in a cache of their own. Scores of a few queries at a time are in memory, whatever
//! the length of the text.

use super::{KEYS, Keys};
use crate::aligned::Aligned;
use crate::error::same;
use crate::fgemm::{Product, multiply_add};
use crate::matmul::Shared;
use crate::{Error, Pool, Result};

/// Scores that are in memory at a time, about.
const SCORES: usize = 1 << 22;
/// Queries whose scores are computed together, at most.
const QUERIES: usize = 16;
/// Keys of a task.
const SPAN: usize = 16 * KEYS;

/// Sizes of an indexer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexShape {
    /// Heads of its queries.
    pub heads: usize,
    /// Numbers of a query and a key.
    pub dim: usize,
    /// Positions that a query sees, at most.
    pub top_k: usize,
}

/// The positions that each query of a batch sees, one bit each.
#[derive(Clone, Debug, Default)]
pub struct Chosen {
    /// Position of the first query.
    first: usize,
    /// Words of each query: one bit for each of [`KEYS`] positions.
    words: usize,
    bits: Vec<u64>,
}

impl Chosen {
    /// The positions that the query at `position` sees, ascending; none if it is not of the batch.
    pub fn positions(&self, position: usize) -> Vec<usize> {
        let row =
            position.checked_sub(self.first).and_then(|row| self.bits.chunks(self.words.max(1)).nth(row));
        let words = row.unwrap_or_default().iter().enumerate();
        words
            .flat_map(|(at, &word)| {
                (0..KEYS).filter(move |bit| word >> bit & 1 == 1).map(move |bit| at * KEYS + bit)
            })
            .collect()
    }

    /// The positions of queries from `first` on.
    #[cfg(test)]
    pub(super) fn of(first: usize, rows: &[Vec<usize>]) -> Self {
        let words = (first + rows.len()).div_ceil(KEYS);
        let mut bits = vec![0u64; words * rows.len()];
        for (row, positions) in bits.chunks_exact_mut(words).zip(rows) {
            positions.iter().for_each(|p| row[p / KEYS] |= 1 << (p % KEYS));
        }
        Self { first, words, bits }
    }

    /// Whether queries from `first` on see positions up to their own in it.
    pub(super) fn check(&self, first: usize, n: usize) -> Result<()> {
        let rows = self.bits.len() / self.words.max(1);
        if first < self.first || first + n > self.first + rows || self.words * KEYS < first + n {
            let what = "sparse attention: queries whose positions were chosen";
            return Err(Error::Lengths { what, expected: first + n, found: self.first + rows });
        }
        Ok(())
    }

    /// Takes the scores of what the query at `position` does not see away, of [`KEYS`] positions from `base` on, a
    /// multiple of [`KEYS`].
    pub(super) fn hide(&self, position: usize, base: usize, scores: &mut [f32]) {
        let word = self.bits[(position - self.first) * self.words + base / KEYS];
        if word == u64::MAX {
            return;
        }
        for (bit, score) in scores.iter_mut().enumerate() {
            if word >> bit & 1 == 0 {
                *score = f32::NEG_INFINITY;
            }
        }
    }
}

/// Chooses the positions that `n` queries at positions `first..first + n` see: `q` is `[n][heads][dim]`, `weights`
/// `[n][heads]`, and `keys` are one head of `dim` numbers of the positions `0..first + n`. Nothing is scored for queries
/// that see all positions.
///
/// # Errors
/// Lengths that do not fit the shape, a cache too short.
pub fn choose_positions(
    pool: &Pool,
    shape: &IndexShape,
    (q, weights): (&[f32], &[f32]),
    first: usize,
    keys: Keys,
    chosen: &mut Chosen,
) -> Result<()> {
    let &IndexShape { heads, dim, top_k } = shape;
    if heads == 0 || dim == 0 || top_k == 0 {
        let what = "indexer: heads, their numbers, and positions to choose";
        return Err(Error::Lengths { what, expected: 1, found: 0 });
    }
    let n = weights.len() / heads;
    same("indexer: a weight for each head", n * heads, weights.len())?;
    same("indexer: queries", n * heads * dim, q.len())?;
    if n == 0 {
        return Ok(());
    }
    keys.check("indexer: keys", first + n - 1, 1, dim)?;
    let words = (first + n).div_ceil(KEYS);
    chosen.first = first;
    chosen.words = words;
    chosen.bits.clear();
    chosen.bits.resize(n * words, 0);
    let whole = top_k.saturating_sub(first).min(n);
    for (token, bits) in chosen.bits.chunks_exact_mut(words).take(whole).enumerate() {
        (0..first + token + 1).for_each(|position| bits[position / KEYS] |= 1 << (position % KEYS));
    }
    let together = (SCORES / (words * KEYS)).clamp(1, QUERIES);
    let mut scores = vec![0f32; together * words * KEYS];
    for start in (whole..n).step_by(together) {
        let tokens = start..n.min(start + together);
        let end = first + tokens.end;
        let job = Job {
            pool,
            shape,
            q: &q[start * heads * dim..tokens.end * heads * dim],
            keys,
            stride: words * KEYS,
        };
        job.score(&weights[start * heads..tokens.end * heads], end, &mut scores);
        let rows = scores.chunks_exact(job.stride).zip(chosen.bits[start * words..].chunks_exact_mut(words));
        crate::parallel::share(pool, tokens.zip(rows), |(token, (scores, bits))| {
            largest(&scores[..first + token + 1], top_k, bits);
        });
    }
    Ok(())
}

/// Some queries, and what is the same for all.
struct Job<'a> {
    pool: &'a Pool,
    shape: &'a IndexShape,
    q: &'a [f32],
    keys: Keys<'a>,
    /// Scores from a query to the next.
    stride: usize,
}

impl Job<'_> {
    /// The scores of all positions before `end`, a row for each query.
    fn score(&self, weights: &[f32], end: usize, out: &mut [f32]) {
        let &Self { pool, shape: &IndexShape { heads, dim, .. }, q, keys, stride } = self;
        let (level, rows) = (pool.level(), weights.len());
        let out = Shared::new(out);
        pool.run(end.div_ceil(SPAN), |span| {
            let mut tile = Aligned::zeros(dim * KEYS);
            let mut products = Aligned::zeros(rows * KEYS);
            for base in (span * SPAN..end.min((span + 1) * SPAN)).step_by(KEYS) {
                keys.columns(level, (base, KEYS.min(end - base)), 0, dim, &mut tile, KEYS);
                products.fill(0.0);
                let (b, c) = (&tile[..], &mut products[..]);
                multiply_add(
                    level,
                    Product { rows, depth: dim, width: KEYS, a: q, a_stride: dim, b, c, c_stride: KEYS },
                );
                let each = products.chunks_exact(heads * KEYS).zip(weights.chunks_exact(heads));
                for (token, (products, weights)) in each.enumerate() {
                    // SAFETY: each (token, base) belongs to one task.
                    let to = unsafe { out.slice(token * stride + base, KEYS) };
                    to.fill(0.0);
                    for (products, weight) in products.chunks_exact(KEYS).zip(weights) {
                        to.iter_mut()
                            .zip(products)
                            .for_each(|(to, product)| *to += weight * product.max(0.0));
                    }
                }
            }
        });
    }
}

/// Sets the bits of the `top_k` largest scores, of equals the first.
fn largest(scores: &[f32], top_k: usize, bits: &mut [u64]) {
    let mut order: Vec<u32> = (0..scores.len() as u32).collect();
    if top_k < order.len() {
        let score = |at: u32| scores[at as usize];
        order.select_nth_unstable_by(top_k, |&a, &b| score(b).total_cmp(&score(a)).then(a.cmp(&b)));
        order.truncate(top_k);
    }
    for position in order {
        bits[position as usize / KEYS] |= 1 << (position as usize % KEYS);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{CacheData, put_key_f32};
    use super::*;

    const SHAPE: IndexShape = IndexShape { heads: 3, dim: 8, top_k: 40 };

    /// Numbers that no order of sums makes equal.
    fn numbers(count: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..count).map(|_| next()).collect()
    }

    fn cache(keys: &[f32], positions: usize) -> Vec<f32> {
        let mut stored = vec![0f32; positions.next_multiple_of(16) * SHAPE.dim];
        for (position, key) in keys.chunks_exact(SHAPE.dim).enumerate() {
            put_key_f32(key, position, &mut stored);
        }
        stored
    }

    /// The definition: all scores, sorted.
    fn expected(q: &[f32], weights: &[f32], keys: &[f32], position: usize) -> Vec<usize> {
        let score = |key: &[f32]| -> f64 {
            let heads = q.chunks_exact(SHAPE.dim).zip(weights);
            let product = |q: &[f32]| q.iter().zip(key).map(|(a, b)| f64::from(a * b)).sum::<f64>();
            heads.map(|(q, &w)| f64::from(w) * product(q).max(0.0)).sum()
        };
        let scores: Vec<f64> = keys.chunks_exact(SHAPE.dim).take(position + 1).map(score).collect();
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
        order.truncate(SHAPE.top_k);
        order.sort_unstable();
        order
    }

    #[test]
    fn the_largest_scores_are_chosen_in_prompts_and_behind_them() {
        let IndexShape { heads, dim, .. } = SHAPE;
        let all = if cfg!(miri) { 70 } else { 2300 };
        let (q, weights, keys) =
            (numbers(all * heads * dim, 1), numbers(all * heads, 2), numbers(all * dim, 3));
        let stored = cache(&keys, all);
        let of = Keys { data: CacheData::F32(&stored), head_stride: stored.len() };
        for threads in [1, 3] {
            let pool = Pool::new(threads);
            for (first, n) in [(0, 60), (20, 47), (all - 1, 1), (all - 40, 40)] {
                let mut chosen = Chosen::default();
                let own = first * heads..(first + n) * heads;
                let given = (&q[own.start * dim..own.end * dim], &weights[own]);
                choose_positions(&pool, &SHAPE, given, first, of, &mut chosen).unwrap();
                chosen.check(first, n).unwrap();
                for position in (first..first + n).step_by(if n > 50 { 1 } else { 13 }) {
                    let at = position * heads..(position + 1) * heads;
                    let wanted = expected(&q[at.start * dim..at.end * dim], &weights[at], &keys, position);
                    assert_eq!(chosen.positions(position), wanted, "{first} {position}");
                }
            }
        }
    }

    #[test]
    fn of_equal_scores_the_first_are_chosen() {
        let mut bits = [0u64; 2];
        largest(&[0.0, 3.0, 0.0, -1.0, 0.0, 2.0], 4, &mut bits);
        assert_eq!(bits, [0b10_0111, 0]);
        let mut bits = [0u64; 2];
        largest(&[1.0; 70], 66, &mut bits);
        assert_eq!(bits, [u64::MAX, 0b11]);
    }

    #[test]
    fn what_is_not_chosen_is_hidden_and_other_queries_are_refused() {
        let chosen = Chosen { first: 5, words: 2, bits: vec![u64::MAX, 1, 0b101, 0] };
        let mut scores = [1.0; KEYS];
        chosen.hide(5, 0, &mut scores);
        assert_eq!(scores, [1.0; KEYS]);
        chosen.hide(6, 0, &mut scores);
        let seen: Vec<usize> = (0..KEYS).filter(|&i| scores[i] == 1.0).collect();
        assert_eq!(seen, [0, 2]);
        assert_eq!(
            (chosen.positions(6), chosen.positions(4), chosen.positions(7)),
            (vec![0, 2], vec![], vec![])
        );
        assert!(chosen.check(5, 2).is_ok() && chosen.check(4, 1).is_err() && chosen.check(5, 3).is_err());
    }

    #[test]
    fn wrong_lengths_are_refused() {
        let (q, weights, keys) = (numbers(3 * 8, 1), numbers(3, 2), numbers(16 * 8, 3));
        let of = Keys { data: CacheData::F32(&keys), head_stride: keys.len() };
        let pool = Pool::new(1);
        let mut chosen = Chosen::default();
        let mut run = |q: &[f32], weights: &[f32], first: usize, shape: IndexShape| {
            choose_positions(&pool, &shape, (q, weights), first, of, &mut chosen).is_ok()
        };
        assert!(run(&q, &weights, 15, SHAPE));
        assert!(!run(&q, &weights, 16, SHAPE));
        assert!(!run(&q[1..], &weights, 0, SHAPE));
        assert!(!run(&q, &weights[1..], 0, SHAPE));
        assert!(!run(&q, &weights, 0, IndexShape { top_k: 0, ..SHAPE }));
    }
}
