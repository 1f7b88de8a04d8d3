//! One task of attention: a key-value head and some queries, over a run of keys.

use std::ops::Range;

use super::cache::{CacheData, Keys, Values};
use super::gathered::Gathered;
use super::halves::{HalfProduct, multiplies_halves, multiply_halves};
use super::integers::{Queries, Weights};
use super::softmax::{Online, online};
use super::{Job, KEYS, Of, latent};
use crate::aligned::Aligned;
use crate::fgemm::{Ahead, LANES, Product, multiply_add_and_ask};
use crate::ops;

/// Up to this many query rows, memory is prefetched a block ahead, and halves are widened where they are multiplied;
/// more rows compute too long for either to matter.
const FEW: usize = 32;

/// A key-value head and some queries.
pub(super) struct Task<'a> {
    pub job: &'a Job<'a>,
    pub kv_head: usize,
    pub queries: Range<usize>,
}

/// A block of at most [`KEYS`] positions.
#[derive(Clone, Copy)]
struct Block {
    /// A multiple of [`KEYS`].
    base: usize,
    count: usize,
    /// Positions of the next that are worth prefetching.
    next: usize,
}

impl Task<'_> {
    fn group(&self) -> usize {
        self.job.shape.heads / self.job.shape.kv_heads
    }

    fn rows(&self) -> usize {
        self.group() * self.queries.len()
    }

    pub fn token(&self, row: usize) -> usize {
        self.queries.start + row / self.group()
    }

    pub fn head(&self, row: usize) -> usize {
        self.kv_head * self.group() + row % self.group()
    }

    /// Positions that a token sees.
    fn visible(&self, token: usize) -> Range<usize> {
        let position = self.job.first + token;
        self.job.shape.first_seen(position)..position + 1
    }

    /// Positions that any of the queries sees.
    pub fn keys(&self) -> Range<usize> {
        self.visible(self.queries.start).start..self.visible(self.queries.end - 1).end
    }

    /// Whether keys or values of a cache are brought into memory as f32 before they are multiplied.
    fn brings(&self, data: CacheData) -> bool {
        match data {
            CacheData::Q8_0(_) => false,
            CacheData::F16(_) => {
                let whole = self.job.shape.head_dim.is_multiple_of(LANES);
                !(self.rows() <= FEW && whole && multiplies_halves(self.job.level))
            }
            CacheData::F32(_) => true,
        }
    }

    /// The queries times the scale into `q`, `[rows][width]`.
    fn scale_queries(&self, q: &mut [f32], width: usize) {
        let &super::AttentionShape { heads, head_dim, scale, .. } = self.job.shape;
        for (row, q) in q.chunks_exact_mut(width).enumerate() {
            let from = &self.job.q[(self.token(row) * heads + self.head(row)) * head_dim..][..head_dim];
            q.iter_mut().zip(from).for_each(|(q, x)| *q = x * scale);
        }
    }

    /// Computes the partial result of the queries over a run of keys.
    pub fn gather(&self, span: Range<usize>) -> Gathered {
        let &Job { shape, out_width: width, .. } = self.job;
        let rows = self.rows();
        let seen: Vec<_> = (0..rows).map(|row| self.visible(self.token(row))).collect();
        let mut sums = vec![(f32::NEG_INFINITY, 0f32); rows];
        let mut result = Aligned::zeros(rows * width);
        let mut factors = Aligned::zeros(rows * KEYS);
        let mut tile = Tile::new(self);
        let scores = Scores::new(self);
        let mut weights = Weights::default();
        let end = self.keys().end;
        for base in (span.start / KEYS * KEYS..span.end).step_by(KEYS) {
            let next = if rows <= FEW && base + KEYS < end { KEYS } else { 0 };
            let block = Block { base, count: KEYS.min(span.end - base), next };
            scores.compute(self, block, &mut tile, &mut factors);
            if let Some(cap) = shape.softcap {
                ops::softcap(self.job.level, &mut factors, cap);
            }
            let results = result.chunks_exact_mut(width).zip(&mut sums);
            for (row, (scores, (result, sum))) in factors.chunks_exact_mut(KEYS).zip(results).enumerate() {
                let within = |p: usize| p.max(span.start).saturating_sub(base).min(block.count);
                let seen = within(seen[row].start)..within(seen[row].end);
                if let Some(chosen) = self.job.chosen {
                    chosen.hide(self.job.first + self.token(row), base, scores);
                }
                online(self.job.level, Online { scores, seen, sum, result });
            }
            self.add_values(block, &factors, (&mut tile, &mut weights), &mut result);
        }
        Gathered { result, sums, width }
    }

    /// Adds the values of a block, each times its factor, to the result.
    fn add_values(
        &self,
        block: Block,
        factors: &[f32],
        (tile, weights): (&mut Tile, &mut Weights),
        result: &mut [f32],
    ) {
        let &Job { level, values, value_dim, out_width, .. } = self.job;
        let Block { base, count, next } = block;
        let (rows, then) = (self.rows(), (base + KEYS, next));
        let (b, ahead) = match values {
            Of::Cache(values @ Values { data: CacheData::Q8_0(_), .. }) => {
                let groups = values.groups((base, count), next > 0, self.kv_head, value_dim);
                return weights.add_values(level, (factors, count), groups, (result, out_width));
            }
            Of::Cache(values @ Values { data: CacheData::F16(x), .. }) if !self.brings(values.data) => {
                let b = &x[base * values.position_stride + self.kv_head * values.head_stride..];
                let (b_row, b_sixteen, sixteens) = (values.position_stride, LANES, value_dim / LANES);
                let (a, a_stride, c, c_stride, depth) = (factors, KEYS, result, out_width, count);
                let p = HalfProduct { rows, depth, sixteens, a, a_stride, b, b_row, b_sixteen, c, c_stride };
                return multiply_halves(level, p, values.ahead(then, self.kv_head, value_dim));
            }
            Of::Cache(values) => {
                values.read(level, (base, count), self.kv_head, value_dim, &mut tile.numbers, tile.width);
                (&tile.numbers, values.ahead(then, self.kv_head, value_dim))
            }
            Of::Keys(_) => {
                latent::transpose(level, &tile.numbers, value_dim, &mut tile.beside, out_width);
                (&tile.beside, Ahead::NONE)
            }
        };
        let (a, a_stride, c, c_stride, depth) = (factors, KEYS, result, out_width, count);
        let sums = Product { rows, depth, width: out_width, a, a_stride, b, c, c_stride };
        multiply_add_and_ask(level, sums, ahead);
    }
}

/// Memory for a block of keys or values as f32.
struct Tile {
    /// First keys as columns, `[head_dim][KEYS]`, then values, `[KEYS][width]`.
    numbers: Aligned,
    width: usize,
    /// Values that are part of the keys.
    beside: Aligned,
}

impl Tile {
    fn new(task: &Task) -> Self {
        let width = task.job.shape.head_dim.next_multiple_of(LANES);
        let (numbers, beside) = match task.job.values {
            Of::Keys(_) => (KEYS * width, KEYS * task.job.out_width),
            Of::Cache(values) => {
                let needed = task.brings(task.job.keys.data) || task.brings(values.data);
                (if needed { KEYS * width } else { 0 }, 0)
            }
        };
        Self { numbers: Aligned::zeros(numbers), width, beside: Aligned::zeros(beside) }
    }
}

/// Queries, in the form in which they are multiplied with keys.
enum Scores {
    /// `[rows][width]`
    Floats {
        q: Aligned,
        width: usize,
    },
    Integers(Queries),
}

impl Scores {
    fn new(task: &Task) -> Self {
        let &Job { level, shape, keys, values, .. } = task.job;
        let width = shape.head_dim.next_multiple_of(LANES);
        let mut q = Aligned::zeros(task.rows() * width);
        task.scale_queries(&mut q, width);
        match (keys.data, values) {
            // Where values are part of the keys, both are needed as numbers.
            (CacheData::Q8_0(_), Of::Cache(_)) => {
                Self::Integers(Queries::new(level, &q, width, shape.head_dim))
            }
            _ => Self::Floats { q, width },
        }
    }

    /// The scores of a block of keys, `[rows][KEYS]`; those beyond its count are any numbers.
    fn compute(&self, task: &Task, block: Block, tile: &mut Tile, out: &mut [f32]) {
        let &Job { level, shape, keys, values, .. } = task.job;
        let Block { base, count, next } = block;
        let (rows, depth) = (task.rows(), shape.head_dim);
        let (q, a_stride) = match self {
            Self::Integers(queries) => {
                let groups = keys.groups((base, count), next > 0, task.kv_head, depth);
                return queries.scores(level, groups, out);
            }
            Self::Floats { q, width } => (q, *width),
        };
        let ahead = keys.ahead((base + KEYS, next), task.kv_head, depth);
        out.fill(0.0);
        let (a, c, c_stride) = (&q[..], out, KEYS);
        if let (Keys { data: CacheData::F16(x), head_stride }, Of::Cache(_)) = (keys, values)
            && !task.brings(keys.data)
        {
            let b = &x[base * depth + task.kv_head * head_stride..];
            let (b_row, b_sixteen, sixteens) = (LANES, LANES * depth, count.div_ceil(LANES));
            let p = HalfProduct { rows, depth, sixteens, a, a_stride, b, b_row, b_sixteen, c, c_stride };
            return multiply_halves(level, p, ahead);
        }
        keys.columns(level, (base, count), task.kv_head, depth, &mut tile.numbers, KEYS);
        let b = &tile.numbers[..];
        multiply_add_and_ask(level, Product { rows, depth, width: KEYS, a, a_stride, b, c, c_stride }, ahead);
    }
}
