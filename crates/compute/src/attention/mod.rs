//! Causal attention over a key-value cache: grouped-query, optional sliding window.
//!
//! A task is one key-value head and a block of queries with all the query heads that share it. It takes the
//! keys in blocks of 64 with a running maximum and sum (the online softmax of Milakov and Gimelshein 2018,
//! as in flash attention), so memory does not grow with the context:
//!
//! ```text
//! 64 keys  -> f32 -> scores = queries * the keys' columns
//! scores   -> e^(s - maximum)
//! 64 values -> f32 -> result += scores * values
//! ```
//!
//! One block of queries (generating text) over many keys is also split into spans of keys, so that every thread
//! has work, and the spans' results are combined in order. The splits, and with them the order of additions, depend
//! on the shapes alone, never on the threads.
//!
//! A head may have a sink (gpt-oss): a score without a value, which takes its share of the sum that results are divided by.

mod backward;
mod cache;
mod indexer;
mod latent;
mod q8_0;
mod softmax;
#[cfg(test)]
mod tests;

use std::ops::Range;

use crate::aligned::Aligned;
use crate::fgemm::{Ahead, LANES, Product, multiply_add_and_ask};
use crate::matmul::Shared;
use crate::ops;
use crate::simd::Level;
use crate::{Error, Pool, Result};

pub use backward::{Attended, attention_backward};
pub use cache::{CacheData, KEY_GROUP, Keys, Values, put_key_f16, put_key_f32, put_key_q8_0};
pub use indexer::{Chosen, IndexShape, choose_positions};
pub use latent::{LatentShape, LatentUp, latent_attention};
pub use q8_0::encode_q8_0;
use softmax::{Online, merge, online, share};

/// Keys handled at a time.
const KEYS: usize = 64;
/// Query rows (tokens times heads of a group) a task aims at.
const ROWS: usize = 128;
/// Up to this many query rows, memory is prefetched a block ahead; more rows compute too long for it to matter.
const ASKING: usize = 32;
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
    /// The text is cut at the multiples of this, and a query sees positions of its own part alone (Llama 4).
    pub chunk: Option<usize>,
    /// Scores `s` become `c tanh(s / c)` before they are compared (Gemma 2).
    pub softcap: Option<f32>,
}

impl AttentionShape {
    /// The first position that the query at `position` sees.
    pub(crate) fn first_seen(&self, position: usize) -> usize {
        let window = self.window.map_or(0, |window| (position + 1).saturating_sub(window.max(1)));
        let chunk = self.chunk.map_or(0, |chunk| position - position % chunk.max(1));
        window.max(chunk)
    }
}

/// Attention of `n` queries (`q` and `out`: `[n][heads][head_dim]`) at positions `first..first + n` over the
/// keys and values of positions `0..first + n`, which the cache already holds: query i sees the positions up
/// to its own. `sinks` are one score for each query head, or none at all: they are compared with the scores as they are,
/// after scale and soft cap.
///
/// # Errors
/// Lengths that do not fit the shape, a cache too short.
pub fn attention(
    pool: &Pool,
    shape: &AttentionShape,
    (q, first): (&[f32], usize),
    (keys, values): (Keys, Values),
    sinks: &[f32],
    out: &mut [f32],
) -> Result<()> {
    gather_all(pool, shape, (q, first), (keys, Of::Cache(values)), Beside { sinks, chosen: None }, out)
}

/// What some attention has beside queries, keys and values.
#[derive(Clone, Copy, Default)]
struct Beside<'a> {
    /// A score for each query head, or none at all.
    sinks: &'a [f32],
    /// The positions that queries see, if not all.
    chosen: Option<&'a Chosen>,
}

/// Where the values are.
#[derive(Clone, Copy)]
enum Of<'a> {
    /// In a part of the cache of their own, as wide as keys.
    Cache(Values<'a>),
    /// They are the first so many numbers of the keys (latent attention).
    Keys(usize),
}

/// As [`attention`], with values of another width where they are those of the keys; `out` is
/// `[n][heads][their width]`.
fn gather_all(
    pool: &Pool,
    shape: &AttentionShape,
    (q, first): (&[f32], usize),
    (keys, values): (Keys, Of),
    Beside { sinks, chosen }: Beside,
    out: &mut [f32],
) -> Result<()> {
    let level = pool.level();
    let &AttentionShape { heads, kv_heads, head_dim, .. } = shape;
    let lengths = |what, expected, found| Error::Lengths { what, expected, found };
    if kv_heads == 0 || heads == 0 || !heads.is_multiple_of(kv_heads) || head_dim == 0 {
        return Err(lengths("attention: heads, a multiple of the key-value heads", kv_heads, heads));
    }
    let value_dim = match values {
        Of::Cache(_) => head_dim,
        Of::Keys(width) => width,
    };
    let n = q.len() / (heads * head_dim);
    if q.len() != n * heads * head_dim || out.len() != n * heads * value_dim {
        return Err(lengths(
            "attention: output, and whole rows of queries",
            n * heads * value_dim,
            out.len(),
        ));
    }
    if !sinks.is_empty() && sinks.len() != heads {
        return Err(lengths("attention: a sink for each head", heads, sinks.len()));
    }
    if n == 0 {
        return Ok(());
    }
    keys.check("attention: keys", first + n - 1, kv_heads, head_dim)?;
    match values {
        Of::Cache(values) => values.check("attention: values", first + n - 1, kv_heads, head_dim)?,
        Of::Keys(width) if width == 0 || width > head_dim => {
            return Err(lengths("attention: values that are part of the keys", head_dim, width));
        }
        Of::Keys(_) => {}
    }
    let group = heads / kv_heads;
    let block = (ROWS / group).clamp(1, n);
    let blocks = n.div_ceil(block);
    let out = Shared::new(out);
    let put = |token: usize, head: usize, result: &[f32]| {
        // SAFETY: each (token, head) belongs to one task.
        unsafe { out.slice((token * heads + head) * value_dim, value_dim) }.copy_from_slice(result);
    };
    let job = Job { level, shape, q, first, keys, values, value_dim, sinks, chosen };
    if blocks > 1 {
        pool.run(kv_heads * blocks, |task| {
            // Later blocks see more keys: start with them, so that no long task remains at the end.
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
    let size = rows * Gathered::row(value_dim);
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
    keys: Keys<'a>,
    values: Of<'a>,
    /// Numbers of a value.
    value_dim: usize,
    sinks: &'a [f32],
    chosen: Option<&'a Chosen>,
}

/// A key-value head and some queries.
struct Task<'a> {
    job: &'a Job<'a>,
    kv_head: usize,
    queries: Range<usize>,
}

/// The partial result of rows of queries over a run of keys.
struct Gathered {
    /// `[rows][width]`: the values, each times `e^(score - maximum)`.
    result: Aligned,
    /// Of each row: largest score, sum of the factors.
    sums: Vec<(f32, f32)>,
    width: usize,
}

impl Gathered {
    /// Numbers of a row that is stored.
    fn row(value_dim: usize) -> usize {
        value_dim.next_multiple_of(LANES) + 2
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

    /// Combines it with the partial result of the same rows over later keys.
    fn joined(mut self, later: &Self) -> Self {
        let width = self.width;
        for (row, sum) in self.sums.iter_mut().enumerate() {
            let at = row * width..(row + 1) * width;
            merge(sum, &mut self.result[at.clone()], later.sums[row], &later.result[at]);
        }
        self
    }

    /// Divides by the sums, those of the sinks included, and passes each (token, head, result) to `put`.
    fn finish(mut self, task: &Task, put: impl Fn(usize, usize, &[f32])) {
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
        let position = self.job.first + token;
        self.job.shape.first_seen(position)..position + 1
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

    /// Computes the partial result of the queries over a run of keys.
    fn gather(&self, span: Range<usize>) -> Gathered {
        let &Job { level, shape, keys, values, value_dim, .. } = self.job;
        let head_dim = shape.head_dim;
        let rows = self.group() * self.queries.len();
        let width = head_dim.next_multiple_of(LANES);
        // Of values and results.
        let out_width = value_dim.next_multiple_of(LANES);
        let mut sums = vec![(f32::NEG_INFINITY, 0f32); rows];
        let mut result = Aligned::zeros(rows * out_width);
        let beside = if matches!(values, Of::Keys(_)) { KEYS * out_width } else { 0 };
        let mut scratch = Aligned::zeros(rows * (width + KEYS) + KEYS * width + beside);
        let (q, rest) = scratch.split_at_mut(rows * width);
        let (factors, rest) = rest.split_at_mut(rows * KEYS);
        // First keys as columns, then values; those that are part of the keys beside them.
        let (tile, beside) = rest.split_at_mut(KEYS * width);
        self.scale_queries(q, width);
        let asks = rows <= ASKING;

        for base in (span.start / KEYS * KEYS..span.end).step_by(KEYS) {
            let count = KEYS.min(span.end - base);
            // Meanwhile the next block's keys, then its values.
            let next = (base + KEYS, if asks && base + KEYS < self.keys().end { KEYS } else { 0 });
            keys.columns(level, (base, count), self.kv_head, head_dim, tile, KEYS);
            factors.fill(0.0);
            let (a, b, c) = (&*q, &*tile, &mut *factors);
            let (depth, a_stride, c_stride) = (head_dim, width, KEYS);
            let scores = Product { rows, depth, width: KEYS, a, a_stride, b, c, c_stride };
            multiply_add_and_ask(level, scores, keys.ahead(next, self.kv_head, head_dim));
            if let Some(cap) = shape.softcap {
                ops::softcap(level, factors, cap);
            }
            for (row, scores) in factors.chunks_exact_mut(KEYS).enumerate() {
                let seen = self.visible(self.token(row));
                let within = |p: usize| p.max(span.start).saturating_sub(base).min(count);
                let seen = within(seen.start)..within(seen.end);
                if let Some(chosen) = self.job.chosen {
                    chosen.hide(self.job.first + self.token(row), base, scores);
                }
                let result = &mut result[row * out_width..][..out_width];
                online(level, Online { scores, seen, sum: &mut sums[row], result });
            }
            let (b, next): (&[f32], _) = match values {
                Of::Cache(values) => {
                    values.read(level, (base, count), self.kv_head, head_dim, tile, width);
                    (tile, values.ahead(next, self.kv_head, head_dim))
                }
                Of::Keys(_) => {
                    latent::transpose(level, tile, value_dim, beside, out_width);
                    (beside, Ahead::NONE)
                }
            };
            let (a, c) = (&*factors, &mut *result);
            let (depth, a_stride, c_stride) = (count, KEYS, out_width);
            let sums = Product { rows, depth, width: out_width, a, a_stride, b, c, c_stride };
            multiply_add_and_ask(level, sums, next);
        }
        Gathered { result, sums, width: out_width }
    }
}
