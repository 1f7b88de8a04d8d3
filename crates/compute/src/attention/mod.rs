//! Causal attention over a key-value cache: grouped-query, optional sliding window.
//!
//! A task is one key-value head and a block of queries with all the query heads that share it. It walks the
//! keys in blocks of 64 with a running maximum and sum (the online softmax of Milakov and Gimelshein 2018,
//! as flash attention uses it), so memory does not grow with the context:
//!
//! ```text
//! 64 keys  -> f32 -> scores    few query rows: dot products; many: a product with the keys' columns
//! scores   -> e^(s - maximum)
//! 64 values -> f32 -> result += scores * values
//! ```
//!
//! One block of queries (generating text) over many keys is cut into spans of keys as well, so that every
//! thread has some, and the spans' results are joined in order. All cuts, and with them the order of
//! additions, depend on the shapes alone, never on the threads.

mod cache;
mod scores;
mod softmax;
#[cfg(test)]
mod tests;

use std::ops::Range;

use crate::aligned::Aligned;
use crate::fgemm::{LANES, Product, multiply_add};
use crate::gemm::transpose;
use crate::matmul::Shared;
use crate::ops;
use crate::simd::Level;
use crate::{Error, Pool, Result};

use cache::Ahead;
pub use cache::{Cache, CacheData, encode_q8_0};
use scores::{Scores, scores};
use softmax::{Online, merge, online};

/// Keys handled at a time.
const KEYS: usize = 64;
/// Query rows (tokens times heads of a group) a task aims at.
const ROWS: usize = 128;
/// From so many query rows on, computing takes long enough to ask for memory meanwhile; with fewer the processor
/// looks ahead well enough by itself.
const SPREAD: usize = 4;
/// Keys of a task where there is one block of queries.
const SPAN: usize = 512;

/// Shape of one layer's attention.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionShape {
    /// Query heads, a multiple of `kv_heads`.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Values in a head.
    pub head_dim: usize,
    /// What scores are multiplied with, usually `1 / sqrt(head_dim)`.
    pub scale: f32,
    /// A query sees only this many positions, its own included.
    pub window: Option<usize>,
    /// Scores `s` become `c tanh(s / c)` before they are compared (Gemma 2).
    pub softcap: Option<f32>,
}

/// Attention of `n` queries (`q` and `out`: `[n][heads][head_dim]`) at positions `first..first + n` over the
/// keys and values of positions `0..first + n`, which the cache already holds: query i sees the positions up
/// to its own.
///
/// # Errors
/// Lengths that do not fit the shape, a cache too short.
pub fn attention(
    pool: &Pool,
    shape: &AttentionShape,
    q: &[f32],
    first: usize,
    keys: Cache,
    values: Cache,
    out: &mut [f32],
) -> Result<()> {
    attention_at(Level::detect(), pool, shape, q, first, keys, values, out)
}

/// [`attention`] at a given level, for tests and benchmarks.
#[doc(hidden)]
#[allow(clippy::too_many_arguments)]
pub fn attention_at(
    level: Level,
    pool: &Pool,
    shape: &AttentionShape,
    q: &[f32],
    first: usize,
    keys: Cache,
    values: Cache,
    out: &mut [f32],
) -> Result<()> {
    let &AttentionShape { heads, kv_heads, head_dim, .. } = shape;
    let lengths = |what, expected, found| Error::Lengths { what, expected, found };
    if kv_heads == 0 || heads == 0 || !heads.is_multiple_of(kv_heads) || head_dim == 0 {
        return Err(lengths("attention: heads, a multiple of the key-value heads", kv_heads, heads));
    }
    let n = q.len() / (heads * head_dim);
    if q.len() != n * heads * head_dim || out.len() != q.len() {
        return Err(lengths("attention: output, and whole rows of queries", q.len(), out.len()));
    }
    if n == 0 {
        return Ok(());
    }
    for (what, cache) in [("attention: keys", &keys), ("attention: values", &values)] {
        cache.check(what, first + n - 1, kv_heads, head_dim)?;
    }
    let group = heads / kv_heads;
    let block = (ROWS / group).clamp(1, n);
    let blocks = n.div_ceil(block);
    let out = Shared::new(out);
    let put = |token: usize, head: usize, result: &[f32]| {
        // SAFETY: each (token, head) belongs to one task.
        unsafe { out.slice((token * heads + head) * head_dim, head_dim) }.copy_from_slice(result);
    };
    let job = Job { level, shape, q, first, keys, values };
    if blocks > 1 {
        pool.run(kv_heads * blocks, |task| {
            // Later blocks see more keys: begin with them, so that no long task is left for the end.
            let (kv_head, b) = (task % kv_heads, blocks - 1 - task / kv_heads);
            let task = Task { job: &job, kv_head, queries: b * block..n.min((b + 1) * block) };
            task.gather(task.keys()).finish(&task, put);
        });
        return Ok(());
    }
    let whole = Task { job: &job, kv_head: 0, queries: 0..n }.keys();
    let spans: Vec<_> = spans(whole).collect();
    if let [span] = &*spans {
        pool.run(kv_heads, |kv_head| {
            let task = Task { job: &job, kv_head, queries: 0..n };
            task.gather(span.clone()).finish(&task, put);
        });
        return Ok(());
    }
    // Of each head's spans: one after the other, then joined.
    let rows = group * n;
    let size = rows * Gathered::row(head_dim);
    let mut parts = vec![0f32; kv_heads * spans.len() * size];
    let shared = Shared::new(&mut parts);
    pool.run(kv_heads * spans.len(), |part| {
        let task = Task { job: &job, kv_head: part / spans.len(), queries: 0..n };
        let gathered = task.gather(spans[part % spans.len()].clone());
        // SAFETY: each part belongs to one task.
        gathered.store(unsafe { shared.slice(part * size, size) });
    });
    for (kv_head, parts) in parts.chunks_exact(spans.len() * size).enumerate() {
        let task = Task { job: &job, kv_head, queries: 0..n };
        let mut parts = parts.chunks_exact(size).map(|part| Gathered::load(part, rows));
        if let Some(first) = parts.next() {
            let all = parts.fold(first, |all, part| all.joined(&part));
            all.finish(&task, put);
        }
    }
    Ok(())
}

/// Up to so many query rows take dot products with the keys. Measured: where whole vectors multiply, turning
/// keys into columns pays late.
fn few(level: Level) -> usize {
    if level == Level::Scalar { 4 } else { 32 }
}

/// Cuts a run of keys at the multiples of [`SPAN`].
fn spans(keys: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    (keys.start / SPAN..keys.end.div_ceil(SPAN))
        .map(move |span| keys.start.max(span * SPAN)..keys.end.min((span + 1) * SPAN))
}

/// What all tasks share.
struct Job<'a> {
    level: Level,
    shape: &'a AttentionShape,
    q: &'a [f32],
    first: usize,
    keys: Cache<'a>,
    values: Cache<'a>,
}

/// A key-value head and some queries.
struct Task<'a> {
    job: &'a Job<'a>,
    kv_head: usize,
    queries: Range<usize>,
}

/// What rows of queries gathered from a run of keys.
struct Gathered {
    /// `[rows][width]`: the values, each times `e^(score - maximum)`.
    result: Aligned,
    /// Of each row: largest score, sum of the factors.
    sums: Vec<(f32, f32)>,
    width: usize,
}

impl Gathered {
    /// Numbers of a row that is stored.
    fn row(head_dim: usize) -> usize {
        head_dim.next_multiple_of(LANES) + 2
    }

    fn store(&self, out: &mut [f32]) {
        let rows = self.result.chunks_exact(self.width).zip(&self.sums);
        for (out, (result, &(largest, sum))) in out.chunks_exact_mut(self.width + 2).zip(rows) {
            out[..self.width].copy_from_slice(result);
            out[self.width..].copy_from_slice(&[largest, sum]);
        }
    }

    fn load(stored: &[f32], rows: usize) -> Self {
        let width = stored.len() / rows - 2;
        let mut result = Aligned::zeros(rows * width);
        let pairs = stored.chunks_exact(width + 2).zip(result.chunks_exact_mut(width));
        let sums = pairs.map(|(row, result)| {
            result.copy_from_slice(&row[..width]);
            (row[width], row[width + 1])
        });
        Self { sums: sums.collect(), result, width }
    }

    /// Together with what the same rows gathered from later keys.
    fn joined(mut self, later: &Self) -> Self {
        let width = self.width;
        for (row, sum) in self.sums.iter_mut().enumerate() {
            let at = row * width..(row + 1) * width;
            merge(sum, &mut self.result[at.clone()], later.sums[row], &later.result[at]);
        }
        self
    }

    /// Divides by the sums and hands each (token, head, result) to `put`.
    fn finish(mut self, task: &Task, put: impl Fn(usize, usize, &[f32])) {
        let head_dim = task.job.shape.head_dim;
        for (row, result) in self.result.chunks_exact_mut(self.width).enumerate() {
            let inverse = 1.0 / self.sums[row].1;
            result.iter_mut().for_each(|x| *x *= inverse);
            put(task.token(row), task.head(row), &result[..head_dim]);
        }
    }
}

impl Task<'_> {
    fn group(&self) -> usize {
        self.job.shape.heads / self.job.shape.kv_heads
    }

    fn token(&self, row: usize) -> usize {
        self.queries.start + row / self.group()
    }

    fn head(&self, row: usize) -> usize {
        self.kv_head * self.group() + row % self.group()
    }

    /// Positions that a token sees.
    fn visible(&self, token: usize) -> Range<usize> {
        let end = self.job.first + token + 1;
        self.job.shape.window.map_or(0, |w| end.saturating_sub(w.max(1)))..end
    }

    /// Positions that any of the queries sees.
    fn keys(&self) -> Range<usize> {
        self.visible(self.queries.start).start..self.visible(self.queries.end - 1).end
    }

    /// The queries times the scale into `q`, `[rows][width]`.
    fn scale_queries(&self, q: &mut [f32], width: usize) {
        let &AttentionShape { heads, head_dim, scale, .. } = self.job.shape;
        for (row, q) in q.chunks_exact_mut(width).enumerate() {
            let from = &self.job.q[(self.token(row) * heads + self.head(row)) * head_dim..][..head_dim];
            q.iter_mut().zip(from).for_each(|(q, x)| *q = x * scale);
        }
    }

    /// What the queries gather from a run of keys.
    fn gather(&self, span: Range<usize>) -> Gathered {
        let &Job { level, shape, keys, values, .. } = self.job;
        let head_dim = shape.head_dim;
        let rows = self.group() * self.queries.len();
        let width = head_dim.next_multiple_of(LANES);
        let few = rows <= few(level);
        // Few rows go a little way at a time, so that the memory brings what is next while they compute.
        let step = if few { LANES } else { KEYS };
        let mut sums = vec![(f32::NEG_INFINITY, 0f32); rows];
        let mut result = Aligned::zeros(rows * width);
        let turned = if few { 0 } else { head_dim * KEYS };
        let mut scratch = Aligned::zeros(rows * (width + KEYS) + step * width + turned);
        let (q, rest) = scratch.split_at_mut(rows * width);
        let (factors, rest) = rest.split_at_mut(rows * KEYS);
        // First keys, then values; and keys as columns.
        let (tile, columns) = rest.split_at_mut(step * width);
        self.scale_queries(q, width);

        for base in (span.start / KEYS * KEYS..span.end).step_by(KEYS) {
            let count = KEYS.min(span.end - base);
            let steps = (0..count).step_by(step).map(|at| (at, step.min(count - at)));
            for (at, count) in steps.clone() {
                keys.read(level, (base + at, count), self.kv_head, head_dim, tile, width);
                if few {
                    let next = |cache: &Cache| match rows >= SPREAD {
                        true => cache.ahead((base + KEYS + at, step), self.kv_head, head_dim),
                        false => Ahead::NONE,
                    };
                    let ahead = [next(&keys), next(&values)];
                    scores(level, Scores { q, keys: tile, width, out: factors, at, ahead });
                    continue;
                }
                for j in (0..count).step_by(16) {
                    let rows = std::array::from_fn(|r| &tile[(j + r) * width..][..head_dim]);
                    transpose::floats(level, &rows, &mut columns[j..], KEYS);
                }
                factors.fill(0.0);
                let (a, b, c) = (&*q, &*columns, &mut *factors);
                let (depth, a_stride, c_stride) = (head_dim, width, KEYS);
                multiply_add(level, Product { rows, depth, width: KEYS, a, a_stride, b, c, c_stride });
            }
            if let Some(cap) = shape.softcap {
                ops::softcap(factors, cap);
            }
            for (row, scores) in factors.chunks_exact_mut(KEYS).enumerate() {
                let seen = self.visible(self.token(row));
                let within = |p: usize| p.max(span.start).saturating_sub(base).min(count);
                let seen = within(seen.start)..within(seen.end);
                let result = &mut result[row * width..][..width];
                online(level, Online { scores, seen, sum: &mut sums[row], result });
            }
            for (at, depth) in steps {
                values.read(level, (base + at, depth), self.kv_head, head_dim, tile, width);
                let (a, b, c) = (&factors[at..], &*tile, &mut *result);
                let (a_stride, c_stride) = (KEYS, width);
                multiply_add(level, Product { rows, depth, width, a, a_stride, b, c, c_stride });
            }
        }
        Gathered { result, sums, width }
    }
}
