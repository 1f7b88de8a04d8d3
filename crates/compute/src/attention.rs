//! Causal attention over a key-value cache: grouped-query, optional sliding window.
//!
//! A task is one key-value head and a block of queries with all the query heads that share it. It walks the
//! keys in blocks of 64 with a running maximum and sum (the online softmax of Milakov and Gimelshein 2018,
//! as flash attention uses it), so memory does not grow with the context. The order of additions depends on
//! the shapes alone, never on the threads.

use half::f16;

use crate::fgemm::{LANES, Product, multiply_add};
use crate::float::widen_f16_rows;
use crate::gemm::transpose;
use crate::matmul::Shared;
use crate::ops::{self, exp, join, larger};
use crate::simd::{Level, Op, dispatch};
use crate::{Error, Pool, Result};

/// Keys handled at a time.
const KEYS: usize = 64;
/// Query rows (tokens times heads of a group) a task aims at.
const ROWS: usize = 128;

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

/// The numbers of a cache.
#[derive(Clone, Copy, Debug)]
pub enum CacheData<'a> {
    /// Full precision.
    F32(&'a [f32]),
    /// Half the memory.
    F16(&'a [f16]),
}

/// Keys or values of one layer: head `h` of position `p` is the `head_dim` values from
/// `p * position_stride + h * head_stride` on.
#[derive(Clone, Copy, Debug)]
pub struct Cache<'a> {
    /// The numbers.
    pub data: CacheData<'a>,
    /// Distance from a position to the next.
    pub position_stride: usize,
    /// Distance from a head to the next.
    pub head_stride: usize,
}

impl Cache<'_> {
    fn len(&self) -> usize {
        match self.data {
            CacheData::F32(x) => x.len(),
            CacheData::F16(x) => x.len(),
        }
    }

    /// Reads `width` values of `head` at `count` positions from `first` on, into rows `stride` apart.
    #[allow(clippy::too_many_arguments)]
    fn read(
        &self,
        level: Level,
        first: usize,
        count: usize,
        head: usize,
        width: usize,
        out: &mut [f32],
        stride: usize,
    ) {
        let at = first * self.position_stride + head * self.head_stride;
        match self.data {
            CacheData::F32(x) => {
                for (j, out) in out.chunks_mut(stride).take(count).enumerate() {
                    out[..width].copy_from_slice(&x[at + j * self.position_stride..][..width]);
                }
            }
            CacheData::F16(x) => {
                widen_f16_rows(level, count, width, (&x[at..], self.position_stride), (out, stride));
            }
        }
    }
}

/// Attention of `n` queries (`q` and `out`: `[n][heads][head_dim]`) at positions `first..first + n` over the
/// keys and values of positions `0..first + n`, which the cache already holds: query i sees the positions up
/// to its own.
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
        let last = (first + n - 1).saturating_mul(cache.position_stride);
        let last = last.saturating_add((kv_heads - 1).saturating_mul(cache.head_stride));
        if last.saturating_add(head_dim) > cache.len() {
            return Err(lengths(what, last.saturating_add(head_dim), cache.len()));
        }
    }
    let group = heads / kv_heads;
    let block = (ROWS / group).clamp(1, n);
    let blocks = n.div_ceil(block);
    let out = Shared::new(out);
    pool.run(kv_heads * blocks, |task| {
        // Later blocks see more keys: begin with them, so that no long task is left for the end.
        let (kv_head, b) = (task % kv_heads, blocks - 1 - task / kv_heads);
        let queries = b * block..n.min((b + 1) * block);
        let task = Task { level, shape, q, first, keys, values, kv_head, queries };
        task.run(|token, head, result| {
            // SAFETY: each (token, head) belongs to one task.
            unsafe { out.slice((token * heads + head) * head_dim, head_dim) }.copy_from_slice(result);
        });
    });
    Ok(())
}

struct Task<'a> {
    level: Level,
    shape: &'a AttentionShape,
    q: &'a [f32],
    first: usize,
    keys: Cache<'a>,
    values: Cache<'a>,
    kv_head: usize,
    queries: std::ops::Range<usize>,
}

impl Task<'_> {
    /// Computes the block and hands each (token, head, result) to `put`.
    fn run(&self, put: impl Fn(usize, usize, &[f32])) {
        let &AttentionShape { heads, kv_heads, head_dim, scale, window, softcap } = self.shape;
        let group = heads / kv_heads;
        let rows = group * self.queries.len();
        let width = head_dim.next_multiple_of(LANES);
        let token = |row: usize| self.queries.start + row / group;
        let head = |row: usize| self.kv_head * group + row % group;

        let mut q = vec![0f32; rows * head_dim];
        for (row, q) in q.chunks_exact_mut(head_dim).enumerate() {
            let from = &self.q[(token(row) * heads + head(row)) * head_dim..][..head_dim];
            q.iter_mut().zip(from).for_each(|(q, x)| *q = x * scale);
        }
        let mut sums = vec![(f32::NEG_INFINITY, 0f32); rows];
        let mut result = vec![0f32; rows * width];
        let mut scores = vec![0f32; rows * KEYS];
        let mut key_rows = vec![0f32; KEYS * head_dim];
        let mut keys = vec![0f32; head_dim * KEYS];
        let mut values = vec![0f32; KEYS * width];

        let visible = |token: usize| {
            let end = self.first + token + 1;
            window.map_or(0, |w| end.saturating_sub(w.max(1)))..end
        };
        let begin = visible(self.queries.start).start / KEYS * KEYS;
        let end = visible(self.queries.end - 1).end;
        for base in (begin..end).step_by(KEYS) {
            let count = KEYS.min(end - base);
            let (level, head) = (self.level, self.kv_head);
            self.keys.read(level, base, count, head, head_dim, &mut key_rows, head_dim);
            self.values.read(level, base, count, head, head_dim, &mut values, width);
            for j in (0..count).step_by(16) {
                let rows = std::array::from_fn(|r| &key_rows[(j + r) * head_dim..][..head_dim]);
                transpose::floats(self.level, &rows, &mut keys[j..], KEYS);
            }
            scores.fill(0.0);
            multiply_add(
                self.level,
                Product {
                    rows,
                    depth: head_dim,
                    width: KEYS,
                    a: &q,
                    a_stride: head_dim,
                    b: &keys,
                    c: &mut scores,
                    c_stride: KEYS,
                },
            );
            if let Some(cap) = softcap {
                ops::softcap(&mut scores, cap);
            }
            for (row, scores) in scores.chunks_exact_mut(KEYS).enumerate() {
                let seen = visible(token(row));
                let seen =
                    seen.start.saturating_sub(base).min(count)..seen.end.saturating_sub(base).min(count);
                let result = &mut result[row * width..][..width];
                dispatch(self.level, Online { scores, seen, sum: &mut sums[row], result });
            }
            multiply_add(
                self.level,
                Product {
                    rows,
                    depth: count,
                    width,
                    a: &scores,
                    a_stride: KEYS,
                    b: &values,
                    c: &mut result,
                    c_stride: width,
                },
            );
        }
        for (row, result) in result.chunks_exact_mut(width).enumerate() {
            let inverse = 1.0 / sums[row].1;
            result.iter_mut().for_each(|x| *x *= inverse);
            put(token(row), head(row), &result[..head_dim]);
        }
    }
}

/// One row's step of the online softmax: scores outside `seen` become 0, those inside `e^(s - max)`; sum
/// and result so far are scaled to the new maximum.
struct Online<'a> {
    scores: &'a mut [f32],
    seen: std::ops::Range<usize>,
    sum: &'a mut (f32, f32),
    result: &'a mut [f32],
}

impl Op for Online<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { scores, seen, sum, result } = self;
        scores[..seen.start].fill(f32::NEG_INFINITY);
        scores[seen.end..].fill(f32::NEG_INFINITY);
        let mut lanes = [f32::NEG_INFINITY; LANES];
        for chunk in scores.chunks_exact(LANES) {
            for l in 0..LANES {
                lanes[l] = larger(chunk[l], lanes[l]);
            }
        }
        let largest = join(lanes, larger).max(sum.0);
        if largest == f32::NEG_INFINITY {
            scores.fill(0.0); // nothing seen yet
            return;
        }
        if largest > sum.0 {
            let scale = exp(sum.0 - largest);
            sum.1 *= scale;
            result.iter_mut().for_each(|x| *x *= scale);
            sum.0 = largest;
        }
        let mut lanes = [0f32; LANES];
        for chunk in scores.chunks_exact_mut(LANES) {
            for l in 0..LANES {
                chunk[l] = exp(chunk[l] - largest);
                lanes[l] += chunk[l];
            }
        }
        sum.1 += join(lanes, |a, b| a + b);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(seed: u32, len: usize) -> Vec<f32> {
        let mut s = seed;
        let next = || {
            s = s.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (s >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        std::iter::repeat_with(next).take(len).collect()
    }

    /// Softmax attention in f64, straight from the definition.
    fn reference(s: &AttentionShape, q: &[f32], first: usize, k: &[f32], v: &[f32]) -> Vec<f64> {
        let (d, n) = (s.head_dim, q.len() / s.heads / s.head_dim);
        let mut out = vec![0f64; q.len()];
        for i in 0..n {
            for h in 0..s.heads {
                let kv = h / (s.heads / s.kv_heads);
                let end = first + i + 1;
                let begin = s.window.map_or(0, |w| end.saturating_sub(w));
                let at = |p: usize| (p * s.kv_heads + kv) * d;
                let q = &q[(i * s.heads + h) * d..][..d];
                let dot = |p: usize| (0..d).map(|c| f64::from(q[c]) * f64::from(k[at(p) + c])).sum::<f64>();
                let score = |p: usize| match s.softcap.map(f64::from) {
                    None => dot(p) * f64::from(s.scale),
                    Some(cap) => cap * (dot(p) * f64::from(s.scale) / cap).tanh(),
                };
                let e: Vec<f64> = (begin..end).map(|p| score(p).exp()).collect();
                let total: f64 = e.iter().sum();
                for c in 0..d {
                    let sum: f64 = (begin..end).zip(&e).map(|(p, e)| e * f64::from(v[at(p) + c])).sum();
                    out[(i * s.heads + h) * d + c] = sum / total;
                }
            }
        }
        out
    }

    #[test]
    fn matches_the_definition() {
        for (heads, kv_heads, head_dim, n, first, window, softcap) in [
            (4, 2, 16, 1, 0, None, None),
            (4, 2, 20, 7, 60, None, Some(2.0)),
            (6, 1, 64, 150, 3, None, None),
            (2, 2, 32, 1, 200, None, None),
            (2, 1, 32, 90, 100, Some(50), Some(1.5)),
            (2, 1, 8, 5, 300, Some(1), None),
        ] {
            let shape = AttentionShape { heads, kv_heads, head_dim, scale: 0.7, window, softcap };
            let q = noise(1, n * heads * head_dim);
            let halves = |seed| -> Vec<f16> {
                noise(seed, (first + n) * kv_heads * head_dim).into_iter().map(f16::from_f32).collect()
            };
            let (k, v) = (halves(2), halves(3));
            let (kf, vf): (Vec<f32>, Vec<f32>) =
                (k.iter().map(|x| x.to_f32()).collect(), v.iter().map(|x| x.to_f32()).collect());
            let expected = reference(&shape, &q, first, &kf, &vf);
            let cache = |data| Cache { data, position_stride: kv_heads * head_dim, head_stride: head_dim };
            for level in Level::available() {
                let mut results = Vec::new();
                for threads in [1, 3] {
                    let pool = Pool::new(threads);
                    for (k, v) in
                        [(CacheData::F16(&k), CacheData::F16(&v)), (CacheData::F32(&kf), CacheData::F32(&vf))]
                    {
                        let mut out = vec![0f32; q.len()];
                        let (k, v) = (cache(k), cache(v));
                        attention_at(level, &pool, &shape, &q, first, k, v, &mut out).unwrap();
                        for (a, b) in out.iter().zip(&expected) {
                            assert!((f64::from(*a) - b).abs() < 2e-6, "{shape:?} {level:?}: {a} {b}");
                        }
                        results.push(out);
                    }
                }
                assert!(results.iter().all(|r| *r == results[0]), "threads or cache type changed the result");
            }
        }
    }

    #[test]
    fn short_caches_are_refused() {
        let shape =
            AttentionShape { heads: 2, kv_heads: 1, head_dim: 4, scale: 1.0, window: None, softcap: None };
        let data = [0f32; 11];
        let cache = Cache { data: CacheData::F32(&data), position_stride: 4, head_stride: 4 };
        let mut out = [0f32; 8];
        let pool = Pool::new(1);
        assert!(attention(&pool, &shape, &[0.0; 8], 2, cache, cache, &mut out).is_err());
        assert!(attention(&pool, &shape, &[0.0; 8], 1, cache, cache, &mut out).is_ok());
        assert!(attention(&pool, &shape, &[0.0; 7], 1, cache, cache, &mut out).is_err());
    }
}
