//! Multi-head latent attention (DeepSeek V2, arXiv 2405.04434): the cache holds one vector for each position, of which
//! every head's key and value are made.
//!
//! ```text
//! cache     c [rank], r [rope]                     of each position: the latent vector, and the rotated part of all keys
//! key       k = U_k c [nope], r                    of each head
//! value     v = U_v c [value]
//!
//! expanded  scores = q . (U_k c, r)                out = sum of p U_v c
//! absorbed  scores = (U_k^T q_nope, q_rope) . (c, r)    out = U_v (sum of p c)
//! ```
//!
//! Both give the same. Expanded, every position costs `rank * (nope + value)` products once, and each pair of a query and a
//! key `nope + rope + value`; absorbed, every query costs the former, and each pair `2 rank + rope`. The form with fewer
//! products is taken: the absorbed one for a few tokens behind a longer text, which then reads nothing but the cache and
//! the matrices; the expanded one for prompts. Keys and values of a head are expanded in pieces that stay in the cache
//! of a processor, and are never stored.

use std::ops::Range;

use quern_tensor_io::ElementType;
use zerocopy::IntoBytes;

use super::softmax::{Online, online};
use super::{AttentionShape, Beside, Chosen, KEYS, Keys, Of, ROWS, gather_all};
use crate::activations::Activations;
use crate::aligned::Aligned;
use crate::error::same;
use crate::fgemm::{LANES, Product, multiply_add};
use crate::matmul::{Shared, group};
use crate::simd::{Level, Op, dispatch};
use crate::{Error, Matrix, Pool, Result, dot, get_row};

/// Keys of a head that are expanded at a time.
const PIECE: usize = 16 * KEYS;
/// From this many queries on, decoding a head's matrices once for all of them pays.
const DECODED_FROM: usize = 8;
/// Heads that share a task's reading of the cache, at most.
const SHARING: usize = 16;

/// Sizes of latent attention.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LatentShape {
    /// Heads.
    pub heads: usize,
    /// Numbers of the latent vector.
    pub rank: usize,
    /// Numbers of a query and a key that are rotated; the last ones.
    pub rope: usize,
    /// Those in front of them.
    pub nope: usize,
    /// Numbers of a value.
    pub value: usize,
    /// What scores are multiplied with.
    pub scale: f32,
}

/// The matrices that make keys and values of a latent vector.
#[derive(Clone, Copy, Debug)]
pub enum LatentUp<'a> {
    /// As Hugging Face has them.
    Joined {
        /// `[heads][nope + value]` rows of `rank`: keys, then values of each head.
        both: Matrix<'a>,
        /// Which number of the latent vector each column multiplies, where that is not its own.
        order: Option<&'a [u32]>,
        /// Keys' rows once more, transposed: of each head `rank` rows of `nope`; none if they were not made.
        absorbed: &'a [Matrix<'a>],
    },
    /// As llama.cpp's files have them.
    Split {
        /// Of each head `rank` rows of `nope`.
        keys: &'a [Matrix<'a>],
        /// Of each head `value` rows of `rank`.
        values: &'a [Matrix<'a>],
    },
}

impl LatentShape {
    /// Numbers of a query.
    fn query(&self) -> usize {
        self.nope + self.rope
    }

    /// Numbers of a position in the cache.
    fn cached(&self) -> usize {
        self.rank + self.rope
    }

    /// Whether expanding keys and values takes fewer products than absorbing, for `n` queries behind `first` positions.
    fn expands(&self, n: usize, first: usize) -> bool {
        let up = self.rank * (self.nope + self.value);
        let pairs = n * first + n * (n + 1) / 2;
        let expanded = (first + n) * up + pairs * (self.query() + self.value);
        let absorbed = n * up + pairs * (self.cached() + self.rank);
        expanded <= absorbed
    }

    /// The heads of each task of the absorbed form: a divisor of all heads, of which there are several where possible.
    fn sharing(&self) -> usize {
        let most = SHARING.min(self.heads.div_ceil(2));
        (1..=most).rev().find(|&n| self.heads.is_multiple_of(n)).unwrap_or(1)
    }

    fn check(&self, up: &LatentUp, n: usize, out: usize) -> Result<()> {
        let &Self { heads, rank, nope, value, .. } = self;
        let shaped = |what, matrix: &Matrix, rows: usize, columns: usize| {
            same(what, rows, matrix.rows())?;
            same(what, columns, matrix.columns())
        };
        let each = |what, all: &[Matrix], rows: usize, columns: usize| {
            same(what, heads, all.len())?;
            all.iter().try_for_each(|matrix| shaped(what, matrix, rows, columns))
        };
        if heads == 0 || rank == 0 || nope == 0 || value == 0 {
            let what = "latent attention: heads, and numbers of latent vectors, keys and values";
            return Err(Error::Lengths { what, expected: 1, found: 0 });
        }
        match up {
            LatentUp::Joined { both, order, absorbed } => {
                shaped("latent attention: keys and values", both, heads * (nope + value), rank)?;
                if !absorbed.is_empty() {
                    each("latent attention: keys, transposed", absorbed, rank, nope)?;
                }
                if let Some(order) = order {
                    same("latent attention: order of columns", rank, order.len())?;
                    let most = order.iter().copied().max().unwrap_or(0) as usize;
                    if most >= rank {
                        let what = "latent attention: numbers of the order of columns";
                        return Err(Error::Lengths { what, expected: rank, found: most });
                    }
                }
            }
            LatentUp::Split { keys, values } => {
                each("latent attention: keys, transposed", keys, rank, nope)?;
                each("latent attention: values", values, value, rank)?;
            }
        }
        same("latent attention: output", n * heads * value, out)
    }
}

/// Attention of `n` queries (`q`: `[n][heads][nope + rope]`, rotated) at positions `first..first + n` over the positions
/// `0..first + n` of `keys`, one head of `rank + rope` numbers; `out` is `[n][heads][value]`. Of these each query sees
/// those that were `chosen` for it, or all.
///
/// # Errors
/// Lengths that do not fit the shape, a cache too short, queries that nothing was chosen for, matrices of a type that cannot be decoded.
pub fn latent_attention(
    pool: &Pool,
    shape: &LatentShape,
    up: &LatentUp,
    (q, first): (&[f32], usize),
    (keys, chosen): (Keys, Option<&Chosen>),
    out: &mut [f32],
) -> Result<()> {
    let width = shape.heads * shape.query();
    let n = q.len() / width.max(1);
    same("latent attention: whole rows of queries", n * width, q.len())?;
    shape.check(up, n, out.len())?;
    if n == 0 {
        return Ok(());
    }
    keys.check("latent attention: cache", first + n - 1, 1, shape.cached())?;
    if let Some(chosen) = chosen {
        chosen.check(first, n)?;
    }
    let job = Job { level: pool.level(), shape, up, q, n, first, keys, chosen };
    match shape.expands(n, first) {
        true => job.expanded(pool, out),
        false => job.absorbed(pool, out),
    }
    Ok(())
}

/// What all tasks share.
struct Job<'a> {
    level: Level,
    shape: &'a LatentShape,
    up: &'a LatentUp<'a>,
    q: &'a [f32],
    n: usize,
    first: usize,
    keys: Keys<'a>,
    chosen: Option<&'a Chosen>,
}

impl Job<'_> {
    /// The queries times the keys' matrices, attention over latent vectors, its result times the values' matrices.
    fn absorbed(&self, pool: &Pool, out: &mut [f32]) {
        let &LatentShape { heads, rank, rope, nope, value, scale } = self.shape;
        let (n, cached) = (self.n, self.shape.cached());
        let mut queries = vec![0f32; n * heads * cached];
        let shared = Shared::new(&mut queries);
        pool.run(heads, |head| {
            let mut made = vec![0f32; n * rank];
            self.absorb(head, &mut made);
            for (token, made) in made.chunks_exact(rank).enumerate() {
                // SAFETY: each (token, head) belongs to one task.
                let to = unsafe { shared.slice((token * heads + head) * cached, cached) };
                to[..rank].copy_from_slice(made);
                to[rank..].copy_from_slice(&self.query(token, head)[nope..][..rope]);
            }
        });
        let group = self.shape.sharing();
        let shape = AttentionShape {
            heads,
            kv_heads: heads / group,
            head_dim: cached,
            scale,
            window: None,
            chunk: None,
            softcap: None,
        };
        // All groups of heads read the same cache.
        let keys = Keys { head_stride: 0, ..self.keys };
        let mut gathered = vec![0f32; n * heads * rank];
        // Lengths were checked.
        let beside = Beside { chosen: self.chosen, ..Beside::default() };
        let done =
            gather_all(pool, &shape, (&queries, self.first), (keys, Of::Keys(rank)), beside, &mut gathered);
        debug_assert!(done.is_ok());
        let shared = Shared::new(out);
        pool.run(heads, |head| {
            let rows: Vec<&[f32]> = (0..n).map(|t| &gathered[(t * heads + head) * rank..][..rank]).collect();
            let mut made = vec![0f32; n * value];
            self.values_of(head, &rows, &mut made);
            for (token, made) in made.chunks_exact(value).enumerate() {
                // SAFETY: as above.
                unsafe { shared.slice((token * heads + head) * value, value) }.copy_from_slice(made);
            }
        });
    }

    /// Head by head: its keys and values of a piece of the cache, and all queries over them.
    fn expanded(&self, pool: &Pool, out: &mut [f32]) {
        let &LatentShape { heads, rank, nope, value, .. } = self.shape;
        let n = self.n;
        let shared = Shared::new(out);
        pool.run(heads, |head| {
            let up = HeadUp { keys: self.decoded_keys(head, rank), values: self.decoded_values(head) };
            debug_assert!(up.keys.len() == nope * rank && up.values.len() == value * rank);
            let mut state = State::new(self, head);
            let end = self.first + n;
            let mut piece = Piece::new(self.shape);
            for start in (0..end).step_by(PIECE) {
                piece.expand(self, &up, start..end.min(start + PIECE));
                state.add(self, &piece);
            }
            state.finish(value, |token, result| {
                // SAFETY: each (token, head) belongs to one task.
                unsafe { shared.slice((token * heads + head) * value, value) }.copy_from_slice(result);
            });
        });
    }

    fn query(&self, token: usize, head: usize) -> &[f32] {
        let width = self.shape.query();
        &self.q[(token * self.shape.heads + head) * width..][..width]
    }

    /// `U_k^T q` of all queries of a head, `[n][rank]`.
    fn absorb(&self, head: usize, out: &mut [f32]) {
        let &LatentShape { rank, nope, .. } = self.shape;
        let n = self.n;
        let transposed = match *self.up {
            LatentUp::Split { keys, .. } => keys.get(head),
            LatentUp::Joined { absorbed, .. } => absorbed.get(head),
        };
        if let Some(matrix) = transposed.filter(|_| n < DECODED_FROM) {
            let mut memory = Activations::default();
            for (token, out) in out.chunks_exact_mut(rank).enumerate() {
                let x = &self.query(token, head)[..nope];
                rows_times(self.level, matrix, 0..rank, x, out, &mut memory);
            }
            return;
        }
        let width = rank.next_multiple_of(LANES);
        let keys = self.decoded_keys(head, width);
        let mut made = Aligned::zeros(n * width);
        let (a, a_stride) = (&self.q[head * self.shape.query()..], self.shape.heads * self.shape.query());
        let (b, c, c_stride) = (&keys[..], &mut made[..], width);
        multiply_add(self.level, Product { rows: n, depth: nope, width, a, a_stride, b, c, c_stride });
        for (made, out) in made.chunks_exact(width).zip(out.chunks_exact_mut(rank)) {
            out.copy_from_slice(&made[..rank]);
        }
    }

    /// `U_v x` of some latent vectors, for a head: `[rows][value]`.
    fn values_of(&self, head: usize, rows: &[&[f32]], out: &mut [f32]) {
        let &LatentShape { rank, value, .. } = self.shape;
        if rows.len() < DECODED_FROM {
            let (matrix, own, order) = self.value_rows(head);
            let (mut memory, mut permuted) = (Activations::default(), Vec::new());
            for (x, out) in rows.iter().zip(out.chunks_exact_mut(value)) {
                let x = match order {
                    None => x,
                    Some(order) => {
                        permuted.clear();
                        permuted.extend(order.iter().map(|&from| x[from as usize]));
                        &permuted[..]
                    }
                };
                rows_times(self.level, matrix, own.clone(), x, out, &mut memory);
            }
            return;
        }
        let values = self.decoded_values(head);
        let width = value.next_multiple_of(LANES);
        let mut columns = Aligned::zeros(rank * width);
        for (at, row) in values.chunks_exact(rank).enumerate() {
            row.iter().enumerate().for_each(|(i, &v)| columns[i * width + at] = v);
        }
        let mut a = Aligned::zeros(rows.len() * rank);
        a.chunks_exact_mut(rank).zip(rows).for_each(|(a, row)| a.copy_from_slice(row));
        let mut made = Aligned::zeros(rows.len() * width);
        let (a, b, c) = (&a[..], &columns[..], &mut made[..]);
        let (rows, depth, a_stride, c_stride) = (rows.len(), rank, rank, width);
        multiply_add(self.level, Product { rows, depth, width, a, a_stride, b, c, c_stride });
        for (made, out) in made.chunks_exact(width).zip(out.chunks_exact_mut(value)) {
            out.copy_from_slice(&made[..value]);
        }
    }

    /// The rows of a matrix that make a head's values, and the order of its columns.
    fn value_rows(&self, head: usize) -> (&Matrix<'_>, Range<usize>, Option<&[u32]>) {
        let &LatentShape { nope, value, .. } = self.shape;
        match self.up {
            LatentUp::Joined { both, order, .. } => {
                let start = head * (nope + value) + nope;
                (both, start..start + value, *order)
            }
            LatentUp::Split { values, .. } => (&values[head], 0..value, None),
        }
    }

    /// A head's `U_k` in f32: `nope` rows of `rank` numbers, `width` apart.
    fn decoded_keys(&self, head: usize, width: usize) -> Aligned {
        let &LatentShape { rank, nope, value, .. } = self.shape;
        let mut out = Aligned::zeros(nope * width);
        match self.up {
            LatentUp::Joined { both, order, .. } => {
                let start = head * (nope + value);
                decoded(both, start..start + nope, *order, |row, column, v| out[row * width + column] = v);
            }
            LatentUp::Split { keys, .. } => {
                decoded(&keys[head], 0..rank, None, |row, column, v| out[column * width + row] = v);
            }
        }
        out
    }

    /// A head's `U_v` in f32: `value` rows of `rank` numbers.
    fn decoded_values(&self, head: usize) -> Aligned {
        let &LatentShape { rank, value, .. } = self.shape;
        let mut out = Aligned::zeros(value * rank);
        let (matrix, rows, order) = self.value_rows(head);
        decoded(matrix, rows, order, |row, column, v| out[row * rank + column] = v);
        out
    }
}

/// Passes every number of some rows to `put`: row, counted from the first of these, column and value.
fn decoded(
    matrix: &Matrix,
    rows: Range<usize>,
    order: Option<&[u32]>,
    mut put: impl FnMut(usize, usize, f32),
) {
    let mut values = vec![0f32; matrix.columns()];
    for (at, row) in rows.enumerate() {
        // Types without decoder were refused when the matrix was made.
        let known = get_row(matrix, row, &mut values);
        debug_assert!(known.is_ok());
        match order {
            None => values.iter().enumerate().for_each(|(column, &v)| put(at, column, v)),
            Some(order) => values.iter().zip(order).for_each(|(&v, &column)| put(at, column as usize, v)),
        }
    }
}

/// Some rows of a matrix times a vector.
fn rows_times(
    level: Level,
    matrix: &Matrix,
    rows: Range<usize>,
    x: &[f32],
    out: &mut [f32],
    memory: &mut Activations,
) {
    let (element_type, bytes) = (matrix.element_type(), matrix.row_bytes());
    if matrix.scales().is_some() {
        // Codes with scales beside them (FP8).
        let mut values = vec![0f32; x.len()];
        for (row, out) in rows.zip(out.chunks_exact_mut(1)) {
            let known = get_row(matrix, row, &mut values);
            debug_assert!(known.is_ok());
            dot::float_rows(level, ElementType::F32, values.as_bytes(), x, out);
        }
        return;
    }
    let data = &matrix.data()[rows.start * bytes..rows.end * bytes];
    let Some(group) = group(matrix) else { return dot::float_rows(level, element_type, data, x, out) };
    memory.resize(group, x.len(), 1);
    memory.quantize(level, group, x.len(), 0, x);
    dot::rows(level, element_type, data, memory.row(group, x.len(), 0), out);
}

/// The matrices of a head, decoded.
struct HeadUp {
    /// `[nope][rank]`.
    keys: Aligned,
    /// `[value][rank]`.
    values: Aligned,
}

/// A head's keys and values of some positions, in blocks of [`KEYS`].
struct Piece {
    at: Range<usize>,
    /// Of each block `[nope + rope][KEYS]`.
    keys: Aligned,
    /// Of each block `[KEYS][value]`, rows padded.
    values: Aligned,
    /// A block of the cache, `[rank + rope][KEYS]`.
    tile: Aligned,
    /// Values as columns, `[value][KEYS]`.
    columns: Aligned,
}

impl Piece {
    fn new(shape: &LatentShape) -> Self {
        Self {
            at: 0..0,
            keys: Aligned::zeros(PIECE * shape.query()),
            values: Aligned::zeros(PIECE * shape.value.next_multiple_of(LANES)),
            tile: Aligned::zeros(KEYS * shape.cached()),
            columns: Aligned::zeros(KEYS * shape.value),
        }
    }

    /// Takes the positions `at`, which begin at a multiple of [`PIECE`].
    fn expand(&mut self, job: &Job, up: &HeadUp, at: Range<usize>) {
        let &LatentShape { rank, rope, nope, value, .. } = job.shape;
        let (level, query, width) = (job.level, job.shape.query(), value.next_multiple_of(LANES));
        let Self { keys, values, tile, columns, .. } = self;
        let blocks = keys.chunks_exact_mut(query * KEYS).zip(values.chunks_exact_mut(KEYS * width));
        for ((keys, values), base) in blocks.zip(at.clone().step_by(KEYS)) {
            let count = KEYS.min(at.end - base);
            job.keys.columns(level, (base, count), 0, job.shape.cached(), tile, KEYS);
            let (plain, rotated) = keys.split_at_mut(nope * KEYS);
            plain.fill(0.0);
            let times = |rows, a: &[f32], c: &mut [f32]| {
                let (depth, a_stride, b, c_stride) = (rank, rank, &tile[..], KEYS);
                multiply_add(level, Product { rows, depth, width: KEYS, a, a_stride, b, c, c_stride });
            };
            times(nope, &up.keys, plain);
            rotated.copy_from_slice(&tile[rank * KEYS..][..rope * KEYS]);
            columns.fill(0.0);
            times(value, &up.values, columns);
            transpose(level, columns, value, values, width);
        }
        self.at = at;
    }
}

/// The queries of a head, and what they have gathered so far.
struct State {
    /// `[n][nope + rope]`, times the scale.
    q: Aligned,
    /// `[n][value]`, rows padded.
    result: Aligned,
    /// Of each query: largest score, sum of the factors.
    sums: Vec<(f32, f32)>,
    factors: Aligned,
}

impl State {
    fn new(job: &Job, head: usize) -> Self {
        let (n, query) = (job.n, job.shape.query());
        let mut q = Aligned::zeros(n * query);
        for (token, q) in q.chunks_exact_mut(query).enumerate() {
            q.iter_mut().zip(job.query(token, head)).for_each(|(q, x)| *q = x * job.shape.scale);
        }
        Self {
            q,
            result: Aligned::zeros(n * job.shape.value.next_multiple_of(LANES)),
            sums: vec![(f32::NEG_INFINITY, 0.0); n],
            factors: Aligned::zeros(ROWS.min(n) * KEYS),
        }
    }

    /// All queries over the keys of a piece.
    fn add(&mut self, job: &Job, piece: &Piece) {
        let (query, width) = (job.shape.query(), job.shape.value.next_multiple_of(LANES));
        let level = job.level;
        for start in (0..job.n).step_by(ROWS) {
            let tokens = start..job.n.min(start + ROWS);
            let rows = tokens.len();
            let end = piece.at.end.min(job.first + tokens.end);
            let q = &self.q[tokens.start * query..][..rows * query];
            for base in (piece.at.start..end).step_by(KEYS) {
                let block = (base - piece.at.start) / KEYS;
                let factors = &mut self.factors[..rows * KEYS];
                factors.fill(0.0);
                let (depth, a_stride, c_stride) = (query, query, KEYS);
                let (a, b, c) = (q, &piece.keys[block * KEYS * query..], &mut *factors);
                multiply_add(level, Product { rows, depth, width: KEYS, a, a_stride, b, c, c_stride });
                for (token, scores) in tokens.clone().zip(factors.chunks_exact_mut(KEYS)) {
                    let seen = 0..(job.first + token + 1).saturating_sub(base).min(KEYS);
                    let result = &mut self.result[token * width..][..width];
                    if let Some(chosen) = job.chosen {
                        chosen.hide(job.first + token, base, scores);
                    }
                    online(level, Online { scores, seen, sum: &mut self.sums[token], result });
                }
                let depth = KEYS.min(piece.at.end - base);
                let (a_stride, c_stride) = (KEYS, width);
                let (a, b) = (&*factors, &piece.values[block * KEYS * width..]);
                let c = &mut self.result[tokens.start * width..][..rows * width];
                multiply_add(level, Product { rows, depth, width, a, a_stride, b, c, c_stride });
            }
        }
    }

    /// Divides by the sums and passes each (token, result) to `put`.
    fn finish(mut self, value: usize, put: impl Fn(usize, &[f32])) {
        let width = value.next_multiple_of(LANES);
        for (token, (result, sum)) in self.result.chunks_exact_mut(width).zip(&self.sums).enumerate() {
            let inverse = 1.0 / sum.1;
            result.iter_mut().for_each(|x| *x *= inverse);
            put(token, &result[..value]);
        }
    }
}

/// `out[i * stride + d] = columns[d * KEYS + i]` for `d < width`.
pub(super) fn transpose(level: Level, columns: &[f32], width: usize, out: &mut [f32], stride: usize) {
    assert!(columns.len() >= width * KEYS && width <= stride && out.len() >= KEYS * stride);
    dispatch(level, Transpose { columns, width, out, stride });
}

struct Transpose<'a> {
    columns: &'a [f32],
    width: usize,
    out: &'a mut [f32],
    stride: usize,
}

impl Op for Transpose<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { columns, width, out, stride } = self;
        // Sixteen columns at a time stay in the first cache.
        for start in (0..width).step_by(LANES) {
            let own = start..width.min(start + LANES);
            for (i, out) in out.chunks_exact_mut(stride).take(KEYS).enumerate() {
                for (d, out) in own.clone().zip(&mut out[own.clone()]) {
                    *out = columns[d * KEYS + i];
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attention::{CacheData, KEY_GROUP, put_key_f32};
    use crate::testing::{Random, random_row};

    const SHAPE: LatentShape = LatentShape { heads: 6, rank: 64, rope: 8, nope: 32, value: 24, scale: 0.17 };

    /// Matrices of one type, and the numbers they hold: both, transposed keys, values.
    struct Up {
        both: Vec<u8>,
        keys: Vec<u8>,
        values: Vec<u8>,
    }

    fn f32s(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|v| v.to_le_bytes()).collect()
    }

    fn numbers(random: &mut Random, count: usize) -> Vec<f32> {
        (0..count).map(|_| random.float()).collect()
    }

    fn up(s: &LatentShape, both: &[f32]) -> Up {
        let head = (s.nope + s.value) * s.rank;
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        for both in both.chunks_exact(head) {
            for c in 0..s.rank {
                keys.extend((0..s.nope).map(|i| both[i * s.rank + c]));
            }
            values.extend_from_slice(&both[s.nope * s.rank..]);
        }
        Up { both: f32s(both), keys: f32s(&keys), values: f32s(&values) }
    }

    /// Straight from the definition, in f64.
    fn reference(
        s: &LatentShape,
        both: &[f32],
        (q, first): (&[f32], usize),
        cache: &[f32],
        chosen: Option<&Chosen>,
    ) -> Vec<f64> {
        let (query, cached) = (s.nope + s.rope, s.rank + s.rope);
        let n = q.len() / s.heads / query;
        let mut out = Vec::new();
        for i in 0..n {
            for h in 0..s.heads {
                let up = &both[h * (s.nope + s.value) * s.rank..];
                let row = |r: usize, p: usize| -> f64 {
                    let (up, c) = (&up[r * s.rank..][..s.rank], &cache[p * cached..][..s.rank]);
                    up.iter().zip(c).map(|(u, c)| f64::from(*u) * f64::from(*c)).sum()
                };
                let q = &q[(i * s.heads + h) * query..][..query];
                let score = |p: usize| {
                    let plain: f64 = (0..s.nope).map(|r| f64::from(q[r]) * row(r, p)).sum();
                    let rope = &cache[p * cached + s.rank..][..s.rope];
                    let rotated = q[s.nope..].iter().zip(rope).map(|(q, r)| f64::from(*q) * f64::from(*r));
                    ((plain + rotated.sum::<f64>()) * f64::from(s.scale)).exp()
                };
                let seen = chosen.map(|chosen| chosen.positions(first + i));
                let sees = |p: &usize| seen.as_ref().is_none_or(|seen| seen.contains(p));
                let e: Vec<f64> = (0..first + i + 1).map(|p| if sees(&p) { score(p) } else { 0.0 }).collect();
                let total: f64 = e.iter().sum();
                out.extend((0..s.value).map(|v| {
                    let sum: f64 = e.iter().enumerate().map(|(p, e)| e * row(s.nope + v, p)).sum();
                    sum / total
                }));
            }
        }
        out
    }

    /// A cache in f32 with these positions.
    fn cache_of(cached: usize, cache: &[f32]) -> Vec<f32> {
        let positions = cache.len() / cached;
        let mut stored = vec![0f32; positions.next_multiple_of(KEY_GROUP) * cached];
        for (position, row) in cache.chunks_exact(cached).enumerate() {
            put_key_f32(row, position, &mut stored);
        }
        stored
    }

    fn matrix(rows: usize, columns: usize, data: &[u8]) -> Matrix<'_> {
        Matrix::new(ElementType::F32, rows, columns, data).unwrap()
    }

    /// The matrices of each head.
    fn heads_of(rows: usize, columns: usize, data: &[u8]) -> Vec<Matrix<'_>> {
        data.chunks_exact(rows * columns * 4).map(|data| matrix(rows, columns, data)).collect()
    }

    #[test]
    fn both_forms_are_the_definition() {
        let s = &SHAPE;
        let mut random = Random::new(3);
        let both: Vec<f32> =
            numbers(&mut random, s.heads * (s.nope + s.value) * s.rank).iter().map(|x| x * 0.2).collect();
        let made = up(s, &both);
        let order: Vec<u32> = (0..s.rank as u32).map(|c| c * 5 % s.rank as u32).collect();
        let sorted: Vec<f32> =
            both.chunks_exact(s.rank).flat_map(|row| order.iter().map(|&c| row[c as usize])).collect();
        let sorted = f32s(&sorted);
        let rows = s.heads * (s.nope + s.value);
        let (whole, permuted) = (matrix(rows, s.rank, &made.both), matrix(rows, s.rank, &sorted));
        let (keys, values) =
            (&*heads_of(s.rank, s.nope, &made.keys), &*heads_of(s.value, s.rank, &made.values));
        let ups = [
            LatentUp::Joined { both: whole, order: None, absorbed: &[] },
            LatentUp::Joined { both: whole, order: None, absorbed: keys },
            LatentUp::Joined { both: permuted, order: Some(&order), absorbed: &[] },
            LatentUp::Split { keys, values },
        ];
        let mut seen = [0; 2];
        for (n, first) in [(1, 0), (1, 200), (5, 130), (9, 150), (70, 0), (140, 30), (3, 1100)] {
            let cache = numbers(&mut random, (first + n) * (s.rank + s.rope));
            let stored = cache_of(s.rank + s.rope, &cache);
            let q = numbers(&mut random, n * s.heads * (s.nope + s.rope));
            let some = (first..first + n).map(|position| {
                let own = (0..=position).filter(|p| (p * 31 + position * 17) % 7 < 2 || *p == position);
                own.filter(|p| p / 64 != 1).chain([0]).collect()
            });
            let some = Chosen::of(first, &some.collect::<Vec<Vec<usize>>>());
            for chosen in [None, Some(&some)] {
                let wanted = reference(s, &both, (&q, first), &cache, chosen);
                seen[usize::from(s.expands(n, first))] += 1;
                for level in Level::available() {
                    for up in &ups {
                        let mut results = Vec::new();
                        for threads in [1, 3] {
                            let keys = Keys { data: CacheData::F32(&stored), head_stride: 0 };
                            let mut out = vec![f32::NAN; n * s.heads * s.value];
                            let pool = Pool::with_level(threads, level);
                            latent_attention(&pool, s, up, (&q, first), (keys, chosen), &mut out).unwrap();
                            results.push(out);
                        }
                        assert!(results[0] == results[1], "threads change the result");
                        for (found, wanted) in results[0].iter().zip(&wanted) {
                            assert!(
                                (f64::from(*found) - wanted).abs() < 2e-5,
                                "{n} {first} {level:?} {found} {wanted}"
                            );
                        }
                    }
                }
            }
        }
        assert!(seen[0] >= 2 && seen[1] >= 2, "{seen:?}");
    }

    #[test]
    fn block_types_are_near_what_they_hold() {
        let s = &LatentShape { nope: 64, ..SHAPE };
        let mut random = Random::new(5);
        let row = |random: &mut Random, columns| random_row(random, ElementType::Q8_0, columns, false);
        let keys: Vec<u8> = (0..s.heads * s.rank).flat_map(|_| row(&mut random, s.nope)).collect();
        let values: Vec<u8> = (0..s.heads * s.value).flat_map(|_| row(&mut random, s.rank)).collect();
        let each = |data: &'static [u8], rows: usize, columns: usize| -> Vec<Matrix<'static>> {
            let own = data.chunks_exact(data.len() / s.heads);
            own.map(|data| Matrix::new(ElementType::Q8_0, rows, columns, data).unwrap()).collect()
        };
        let (keys, values) = (&*each(keys.leak(), s.rank, s.nope), &*each(values.leak(), s.value, s.rank));
        let mut both = vec![0f32; s.heads * (s.nope + s.value) * s.rank];
        for (head, both) in both.chunks_exact_mut((s.nope + s.value) * s.rank).enumerate() {
            decoded(&keys[head], 0..s.rank, None, |c, i, v| both[i * s.rank + c] = v);
            decoded(&values[head], 0..s.value, None, |v, c, x| both[(s.nope + v) * s.rank + c] = x);
        }
        let (n, first) = (2, 300);
        // Small, so that scores are.
        let largest = both.iter().fold(0f32, |m, v| m.max(v.abs()));
        let cache: Vec<f32> =
            numbers(&mut random, (first + n) * (s.rank + s.rope)).iter().map(|x| x / largest).collect();
        let stored = cache_of(s.rank + s.rope, &cache);
        let q = numbers(&mut random, n * s.heads * (s.nope + s.rope));
        let wanted = reference(s, &both, (&q, first), &cache, None);
        assert!(!s.expands(n, first));
        let keys_of = Keys { data: CacheData::F32(&stored), head_stride: 0 };
        let mut out = vec![f32::NAN; wanted.len()];
        let up = LatentUp::Split { keys, values };
        latent_attention(&Pool::new(2), s, &up, (&q, first), (keys_of, None), &mut out).unwrap();
        let size = wanted.iter().fold(0f64, |m, v| m.max(v.abs()));
        for (found, wanted) in out.iter().zip(&wanted) {
            assert!((f64::from(*found) - wanted).abs() < 0.03 * size, "{found} {wanted} {size}");
        }
    }

    #[test]
    fn wrong_lengths_are_refused() {
        let s = &SHAPE;
        let made = up(s, &vec![0.1; s.heads * (s.nope + s.value) * s.rank]);
        let (keys, values) =
            (&*heads_of(s.rank, s.nope, &made.keys), &*heads_of(s.value, s.rank, &made.values));
        let stored = vec![0f32; 16 * (s.rank + s.rope)];
        let of = Keys { data: CacheData::F32(&stored), head_stride: 0 };
        let q = vec![0f32; s.heads * (s.nope + s.rope)];
        let mut out = vec![0f32; s.heads * s.value];
        let pool = Pool::new(1);
        let split = LatentUp::Split { keys, values };
        assert!(latent_attention(&pool, s, &split, (&q, 0), (of, None), &mut out).is_ok());
        assert!(latent_attention(&pool, s, &split, (&q, 16), (of, None), &mut out).is_err());
        assert!(latent_attention(&pool, s, &split, (&q[1..], 0), (of, None), &mut out).is_err());
        assert!(latent_attention(&pool, s, &split, (&q, 0), (of, None), &mut out[1..]).is_err());
        let wrong = LatentUp::Split { keys: values, values };
        assert!(latent_attention(&pool, s, &wrong, (&q, 0), (of, None), &mut out).is_err());
        let chosen = Chosen::of(1, &[vec![0]]);
        assert!(latent_attention(&pool, s, &split, (&q, 1), (of, Some(&chosen)), &mut out).is_ok());
        assert!(latent_attention(&pool, s, &split, (&q, 2), (of, Some(&chosen)), &mut out).is_err());
    }
}
