//! Causal attention over a key-value cache: grouped-query, optional sliding window.
//!
//! A task is one key-value head and a block of queries with all the query heads that share it. It takes the
//! keys in blocks of 64 with a running maximum and sum (the online softmax of Milakov and Gimelshein 2018,
//! as in flash attention), so memory does not grow with the context:
//!
//! ```text
//! scores = queries * the columns of 64 keys
//! scores -> e^(s - maximum)
//! result += scores * 64 values
//! ```
//!
//! Keys and values in f32, and those in f16 that many queries see, are brought into a piece of memory first; those in f16
//! that few queries see are widened where they are multiplied, and those in q8_0 are multiplied as integers.
//!
//! One block of queries (generating text) over many keys is also split into spans of keys, so that every thread
//! has work, and the spans' results are combined in order. The splits, and with them the order of additions, depend
//! on the shapes alone, never on the threads.
//!
//! A head may have a sink (gpt-oss): a score without a value, which takes its share of the sum that results are divided by.

mod backward;
mod cache;
mod gathered;
mod halves;
mod indexer;
mod integers;
mod latent;
mod q8_0;
mod softmax;
mod task;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::fgemm::LANES;
use crate::matmul::Shared;
use crate::simd::Level;
use crate::{Error, Pool, Result};

pub use backward::{Attended, attention_backward};
pub use cache::{CacheData, KEY_GROUP, Keys, Values, put_key_f16, put_key_f32, put_key_q8_0, put_value_q8_0};
use gathered::Gathered;
pub use indexer::{Chosen, IndexShape, choose_positions};
pub use latent::{LatentShape, LatentUp, latent_attention};
use task::Task;

/// Keys handled at a time.
const KEYS: usize = 64;
/// Query rows (tokens times heads of a group) a task aims at.
const ROWS: usize = 128;
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
    let out_width = match values {
        Of::Cache(Values { data: CacheData::Q8_0(_), .. }) => value_dim.next_multiple_of(q8_0::BLOCK),
        _ => value_dim.next_multiple_of(LANES),
    };
    let job = Job { level, shape, q, first, keys, values, value_dim, out_width, sinks, chosen };
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
    // Of each head's spans: one after the other. The task that is done last joins them.
    let rows = group * n;
    let size = rows * Gathered::row(out_width);
    let mut parts = vec![0f32; kv_heads * spans.len() * size];
    let shared = Shared::new(&mut parts);
    let done: Vec<AtomicUsize> = (0..kv_heads).map(|_| AtomicUsize::new(0)).collect();
    pool.run(kv_heads * spans.len(), |part| {
        let kv_head = part / spans.len();
        let task = Task { job: &job, kv_head, queries: 0..n };
        let gathered = task.gather(spans[part % spans.len()].clone());
        // SAFETY: each part belongs to one task.
        gathered.store(unsafe { shared.slice(part * size, size) });
        if done[kv_head].fetch_add(1, Ordering::AcqRel) + 1 == spans.len() {
            // SAFETY: all tasks of this head have stored their parts, and this one alone has seen that.
            let parts = unsafe { shared.slice(kv_head * spans.len() * size, spans.len() * size) };
            Gathered::joined(level, parts, rows, out_width).finish(&task, put);
        }
    });
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
    /// Numbers of a row of results, filling included.
    out_width: usize,
    sinks: &'a [f32],
    chosen: Option<&'a Chosen>,
}
