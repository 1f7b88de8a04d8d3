//! The cache of keys and values of all positions so far.
//!
//! ```text
//! per layer   values  [kv_heads][context][head_dim]
//!             keys    [kv_heads][context / 16][head_dim][16]      f16 or f32; q8_0: blocks of 16 positions together
//! ```
//!
//! The context is padded to a multiple of 16. [`crate::attention`], which reads them, explains how keys and q8_0 blocks
//! are stored, and why.
//!
//! q8_0 stores 32 numbers in 34 bytes; a head whose size is no multiple of 32 is padded.
//!
//! A head's positions are adjacent, so attention reads memory sequentially. The pages of positions that were never
//! used are never touched: a large context costs address space, not memory.

use half::f16;
use half::vec::HalfBitsVecExt;

use crate::attention::{
    AttentionShape, CacheData, KEY_GROUP, Keys, Values, put_key_f16, put_key_f32, put_key_q8_0,
    put_value_q8_0,
};
use crate::executor::{CacheShape, KvType};
use crate::float;
use crate::parallel::{part_of, share};
use crate::{Error, Pool, Result};

/// Numbers in a q8_0 block, and its bytes.
const BLOCK: (usize, usize) = (32, 34);

/// Numbers a head's row takes up, filling included.
pub(in crate::executor) fn row(kv: KvType, head_dim: usize) -> usize {
    match kv {
        KvType::Q8_0 => head_dim.next_multiple_of(BLOCK.0),
        KvType::F16 | KvType::F32 => head_dim,
    }
}

/// Bytes of this many numbers, whole rows.
pub(in crate::executor) fn bytes(kv: KvType, numbers: usize) -> Option<usize> {
    match kv {
        KvType::Q8_0 => (numbers / BLOCK.0).checked_mul(BLOCK.1),
        KvType::F16 => numbers.checked_mul(2),
        KvType::F32 => numbers.checked_mul(4),
    }
}

/// All keys or all values.
#[derive(Debug)]
enum Numbers {
    F32(Vec<f32>),
    F16(Vec<f16>),
    Q8_0(Vec<u8>),
}

impl Numbers {
    /// `length` zeros.
    fn new(length: usize, kv: KvType) -> Self {
        // Zeroed by the system page by page when first touched; a vector of f16 would be written through.
        match kv {
            KvType::F32 => Self::F32(vec![0f32; length]),
            KvType::F16 => Self::F16(vec![0u16; length].reinterpret_into()),
            KvType::Q8_0 => Self::Q8_0(vec![0u8; length / BLOCK.0 * BLOCK.1]),
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Self::F32(values) => values.is_empty(),
            Self::F16(values) => values.is_empty(),
            Self::Q8_0(blocks) => blocks.is_empty(),
        }
    }

    fn data(&self, from: usize, length: usize) -> CacheData<'_> {
        match self {
            Self::F32(values) => CacheData::F32(&values[from..from + length]),
            Self::F16(values) => CacheData::F16(&values[from..from + length]),
            Self::Q8_0(blocks) => {
                let [from, length] = [from, length].map(|n| n / BLOCK.0 * BLOCK.1);
                CacheData::Q8_0(&blocks[from..from + length])
            }
        }
    }
}

/// The cache of one session.
#[derive(Debug)]
pub(in crate::executor) struct Cache {
    context: usize,
    kv: KvType,
    /// Numbers that a layer's keys take up.
    layer: usize,
    keys: Numbers,
    values: Numbers,
}

impl Cache {
    /// Zeros.
    ///
    /// # Errors
    /// [`Error::CacheMemory`] if the system cannot allocate it.
    pub fn new(shape: CacheShape) -> Result<Self> {
        let CacheShape { layers, kv_heads, head_dim, context, kv, keys_only } = shape;
        let row = row(kv, head_dim);
        let context = context.checked_next_multiple_of(KEY_GROUP).ok_or(Error::CacheMemory { context })?;
        let length = [layers, kv_heads, context, row].into_iter().try_fold(1, usize::checked_mul);
        let fits = |&length: &usize| {
            // Asks before allocating for good: a vector that cannot be allocated would end the process.
            let mut trial = Vec::<u8>::new();
            let total = bytes(kv, length).and_then(|bytes| bytes.checked_mul(2));
            total.is_some_and(|total| trial.try_reserve_exact(total).is_ok())
        };
        let length = length.filter(fits).ok_or(Error::CacheMemory { context })?;
        Ok(Self {
            context,
            kv,
            layer: kv_heads * context * row,
            keys: Numbers::new(length, kv),
            values: Numbers::new(if keys_only { 0 } else { length }, kv),
        })
    }

    /// Makes all of it resident: what is counted cannot grow.
    pub fn touch(&mut self) {
        // The compiler knows that the memory is zero: it must not see that zeros are written.
        for values in [&mut self.keys, &mut self.values] {
            match std::hint::black_box(values) {
                Numbers::F32(values) => values.fill(0.0),
                Numbers::F16(values) => values.fill(f16::ZERO),
                Numbers::Q8_0(blocks) => blocks.fill(0),
            }
        }
    }

    /// Where the keys of a layer with such heads are, and the numbers that a row of theirs takes up. Layers may have other
    /// heads than the cache was made for, if they need no more room.
    fn place(&self, layer: usize, shape: &AttentionShape) -> Result<(std::ops::Range<usize>, usize)> {
        let row = row(self.kv, shape.head_dim);
        let length = shape.kv_heads * self.context * row;
        if length > self.layer {
            return Err(Error::Lengths {
                what: "attend: keys of a layer, in the cache",
                expected: self.layer,
                found: length,
            });
        }
        Ok((layer * self.layer..layer * self.layer + length, row))
    }

    /// Keys and values of one layer.
    pub fn layer(&self, layer: usize, shape: &AttentionShape) -> Result<(Keys<'_>, Values<'_>)> {
        let (at, row) = self.place(layer, shape)?;
        let keys = self.keys.data(at.start, at.len());
        // None, where they are made of the keys.
        let values = match self.values.is_empty() {
            true => self.values.data(0, 0),
            false => self.values.data(at.start, at.len()),
        };
        let head_stride = self.context * row;
        Ok((Keys { data: keys, head_stride }, Values { data: values, position_stride: row, head_stride }))
    }

    /// Stores keys and values (`[n][kv_heads][head_dim]`) of positions from `first` on; `v` is empty where values are
    /// made of keys.
    pub fn store(
        &mut self,
        pool: &Pool,
        (layer, shape): (usize, &AttentionShape),
        first: usize,
        k: &[f32],
        v: &[f32],
    ) -> Result<()> {
        let (kv_heads, dim, level) = (shape.kv_heads, shape.head_dim, pool.level());
        let (at, _) = self.place(layer, shape)?;
        let target = HeadRows { pool, kv_heads, dim, first };
        let [start, end] = [at.start, at.end].map(|n| n / BLOCK.0 * BLOCK.1);
        match &mut self.keys {
            Numbers::F32(to) => target.scatter(k, &mut to[at.clone()], put_key_f32),
            Numbers::F16(to) => target.scatter(k, &mut to[at.clone()], put_key_f16),
            Numbers::Q8_0(to) => target.scatter(k, &mut to[start..end], |x, position, head: &mut [u8]| {
                put_key_q8_0(level, x, position, head);
            }),
        }
        if self.values.is_empty() {
            return Ok(());
        }
        match &mut self.values {
            Numbers::F32(to) => {
                target.scatter(v, &mut to[at], in_rows(dim, |x, to: &mut [f32]| to.copy_from_slice(x)))
            }
            Numbers::F16(to) => target.scatter(v, &mut to[at], in_rows(dim, float::narrow_f16)),
            Numbers::Q8_0(to) => target.scatter(v, &mut to[start..end], |x, position, head: &mut [u8]| {
                put_value_q8_0(level, x, position, head);
            }),
        }
        Ok(())
    }
}

/// Puts a position's numbers into a row of its own, `row` long.
fn in_rows<T>(row: usize, put: impl Fn(&[f32], &mut [T])) -> impl Fn(&[f32], usize, &mut [T]) {
    move |x, position, head| put(x, &mut head[position * row..][..row])
}

/// The rows of a layer's heads to which new positions are written.
struct HeadRows<'a> {
    pool: &'a Pool,
    kv_heads: usize,
    dim: usize,
    first: usize,
}

impl HeadRows<'_> {
    /// Puts `from` (`[n][kv_heads][dim]`) into `to`, equal parts for each head: each position's numbers by `put`,
    /// with the position and the head's part.
    fn scatter<T: Send>(&self, from: &[f32], to: &mut [T], put: impl Fn(&[f32], usize, &mut [T]) + Sync) {
        let &Self { pool, kv_heads, dim, first } = self;
        let head_length = to.len() / kv_heads;
        let one = |(head, to): (usize, &mut [T])| {
            let rows = from.chunks_exact(kv_heads * dim).map(|row| &row[head * dim..][..dim]);
            rows.zip(first..).for_each(|(row, position)| put(row, position, to));
        };
        let heads = to.chunks_exact_mut(head_length).enumerate();
        if part_of(pool, from.len(), dim) >= from.len() {
            heads.for_each(one);
        } else {
            share(pool, heads, one);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_written_at_their_head_and_position() {
        let pool = Pool::new(2);
        for n in [3usize, if cfg!(miri) { 200 } else { 2000 }] {
            let (kv_heads, dim, first, context) = (2, 4, 5, n + 8);
            let from: Vec<f32> = (0..n * kv_heads * dim).map(|i| i as f32).collect();
            let mut to = vec![-1.0; kv_heads * context * dim];
            HeadRows { pool: &pool, kv_heads, dim, first }.scatter(
                &from,
                &mut to,
                in_rows(dim, |row, to: &mut [f32]| to.copy_from_slice(row)),
            );
            for head in 0..kv_heads {
                for position in 0..context {
                    let got = &to[(head * context + position) * dim..][..dim];
                    match position.checked_sub(first).filter(|&row| row < n) {
                        Some(row) => assert_eq!(got, &from[(row * kv_heads + head) * dim..][..dim]),
                        None => assert_eq!(got, [-1.0; 4]),
                    }
                }
            }
        }
    }
}
