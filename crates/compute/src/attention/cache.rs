//! The layout of keys and values in the cache.
//!
//! ```text
//! values   a row for each position:  [position][head_dim]
//! keys     transposed, 16 by 16:     [position / 16][head_dim][position % 16]
//!
//! f32, f16    the numbers
//! q8_0        32 numbers along head_dim in 34 bytes, value = d * code (d is f16, a code i8); where head_dim is no
//!             multiple of 32 it is padded with zeros. Blocks of 16 positions are together:
//!     keys    [position / 16][head_dim / 32]  d [16 positions], codes [16 pairs of numbers][16 positions][2 numbers]
//!     values  [position / 16][head_dim / 32]  d [16 positions], codes [8 pairs of positions][32 numbers][2 positions]
//! ```
//!
//! Scores are sums along head_dim. With 16 positions side by side a vector holds 16 such sums: no sum across its
//! lanes is needed, and no transposition for the many queries of a prompt. Integer instructions add up pairs of products,
//! which q8_0 has side by side: of scores along head_dim, of results along the positions.

use half::f16;
use quern_tensor_io::layout::{Block as _, Q8_0};
use zerocopy::IntoBytes;

use super::integers::Groups;
use super::q8_0::{BLOCK, BLOCK_BYTES, DecodeKeys, GROUP_BYTES, encode};
use crate::fgemm::Ahead;
use crate::float::{narrow_f16, widen_f16_rows, widen_f16_sixteens};
use crate::simd::Level;
use crate::{Error, Result};

/// Positions whose keys are stored together.
pub const KEY_GROUP: usize = 16;

/// The numbers of a cache.
#[derive(Clone, Copy, Debug)]
pub enum CacheData<'a> {
    /// Full precision.
    F32(&'a [f32]),
    /// Half the memory.
    F16(&'a [f16]),
    /// 17/64 of it: blocks of 32 numbers in 34 bytes, as [`put_key_q8_0`] and [`put_value_q8_0`] make them.
    Q8_0(&'a [u8]),
}

/// Values of one layer: head `h` of position `p` is the `head_dim` numbers from
/// `p * position_stride + h * head_stride` on. With q8_0 the values of 16 positions are together, laid out as the module
/// says and made by [`put_value_q8_0`]: groups are whole, and what positions that are not yet there hold is not looked at.
#[derive(Clone, Copy, Debug)]
pub struct Values<'a> {
    /// The numbers.
    pub data: CacheData<'a>,
    /// Distance from a position to the next, in numbers; for q8_0 the next multiple of 32 to head_dim.
    pub position_stride: usize,
    /// Distance from a head to the next, likewise; for q8_0 a multiple of 16 positions.
    pub head_stride: usize,
}

impl Values<'_> {
    /// Checks that `heads` heads of `head_dim` values are there at position `last` and before.
    pub(super) fn check(&self, what: &'static str, last: usize, heads: usize, head_dim: usize) -> Result<()> {
        let (found, row) = (numbers(self.data), row(self.data, head_dim));
        let grouped = matches!(self.data, CacheData::Q8_0(_));
        let whole =
            !grouped || self.position_stride == row && self.head_stride.is_multiple_of(KEY_GROUP * row);
        // The last group is there as a whole.
        let last = if grouped { last / KEY_GROUP * KEY_GROUP + KEY_GROUP - 1 } else { last };
        let end = last.saturating_mul(self.position_stride);
        let end = end.saturating_add((heads - 1).saturating_mul(self.head_stride)).saturating_add(row);
        match whole && end <= found {
            true => Ok(()),
            false => Err(Error::Lengths { what, expected: end, found }),
        }
    }

    /// The blocks of `head` at `count` positions from `first`, a multiple of 16, on, and whether those that follow are
    /// to be prefetched.
    ///
    /// # Panics
    /// If these are no blocks of q8_0.
    pub(super) fn groups(&self, at: (usize, usize), ask: bool, head: usize, width: usize) -> Groups<'_> {
        groups(self.data, at, ask, head * self.head_stride, width)
    }

    /// Reads `width` values of `head` at `count` positions from `first` on, into rows `stride` apart.
    ///
    /// # Panics
    /// If these are blocks of q8_0, which are never needed as numbers.
    pub(super) fn read(
        &self,
        level: Level,
        (first, count): (usize, usize),
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
            CacheData::Q8_0(_) => unreachable!("values of q8_0 are multiplied as integers"),
        }
    }

    /// The memory of `head` at `count` positions from `first` on, to be prefetched: nothing where
    /// rows are stored apart.
    pub(super) fn ahead(&self, (first, count): (usize, usize), head: usize, width: usize) -> Ahead {
        let at = first * self.position_stride + head * self.head_stride;
        match row(self.data, width) == self.position_stride {
            true => ahead(self.data, at, count * self.position_stride),
            false => Ahead::NONE,
        }
    }
}

/// Keys of one layer: 16 positions from `p` (a multiple of 16) on of head `h` are the numbers from
/// `p * row + h * head_stride` on, laid out as the module says; `row` is head_dim, for q8_0 its next multiple of 32.
#[derive(Clone, Copy, Debug)]
pub struct Keys<'a> {
    /// The numbers, made by [`put_key_f32`], [`put_key_f16`] and [`put_key_q8_0`]. Groups are whole; what positions
    /// that are not yet there hold is not looked at.
    pub data: CacheData<'a>,
    /// Distance from a head to the next, in numbers, a multiple of 16 rows.
    pub head_stride: usize,
}

impl Keys<'_> {
    /// Checks that `heads` heads of `head_dim` numbers are there at position `last` and before.
    pub(super) fn check(&self, what: &'static str, last: usize, heads: usize, head_dim: usize) -> Result<()> {
        let (found, row) = (numbers(self.data), row(self.data, head_dim));
        let end = (last / KEY_GROUP + 1).saturating_mul(KEY_GROUP).saturating_mul(row);
        let end = end.saturating_add((heads - 1).saturating_mul(self.head_stride));
        match self.head_stride.is_multiple_of(KEY_GROUP * row) && end <= found {
            true => Ok(()),
            false => Err(Error::Lengths { what, expected: end, found }),
        }
    }

    /// The memory of `head` at `count` positions from `first`, a multiple of 16, on.
    pub(super) fn ahead(&self, (first, count): (usize, usize), head: usize, head_dim: usize) -> Ahead {
        let row = row(self.data, head_dim);
        ahead(self.data, first * row + head * self.head_stride, count * row)
    }

    /// As [`Values::groups`].
    pub(super) fn groups(&self, at: (usize, usize), ask: bool, head: usize, head_dim: usize) -> Groups<'_> {
        groups(self.data, at, ask, head * self.head_stride, head_dim)
    }

    /// Keys as columns: number `d` of position `first + i` goes to `out[d * stride + i]`, for `count` positions and
    /// the rest of the last group; `first` is a multiple of 16.
    pub(super) fn columns(
        &self,
        level: Level,
        (first, count): (usize, usize),
        head: usize,
        head_dim: usize,
        out: &mut [f32],
        stride: usize,
    ) {
        let row = row(self.data, head_dim);
        for group in 0..count.div_ceil(KEY_GROUP) {
            let at = (first + group * KEY_GROUP) * row + head * self.head_stride;
            let out = &mut out[group * KEY_GROUP..];
            match self.data {
                CacheData::F32(x) => {
                    let rows = x[at..][..head_dim * KEY_GROUP].as_chunks::<KEY_GROUP>().0;
                    rows.iter()
                        .zip(out.chunks_mut(stride))
                        .for_each(|(x, out)| out[..KEY_GROUP].copy_from_slice(x));
                }
                CacheData::F16(x) => widen_f16_sixteens(level, &x[at..][..head_dim * KEY_GROUP], out, stride),
                CacheData::Q8_0(x) => {
                    let x = &x[at / BLOCK * BLOCK_BYTES..][..row * KEY_GROUP / BLOCK * BLOCK_BYTES];
                    DecodeKeys { x, head_dim, out, stride }.run(level);
                }
            }
        }
    }
}

/// Blocks of a head that begins at number `head`.
fn groups(
    data: CacheData<'_>,
    (first, count): (usize, usize),
    ask: bool,
    head: usize,
    head_dim: usize,
) -> Groups<'_> {
    let CacheData::Q8_0(x) = data else { unreachable!("numbers are no blocks") };
    let blocks = head_dim.div_ceil(BLOCK);
    let start = head / BLOCK * BLOCK_BYTES + first / KEY_GROUP * blocks * GROUP_BYTES;
    let bytes = &x[start..][..count.div_ceil(KEY_GROUP) * blocks * GROUP_BYTES];
    Groups { bytes, blocks, ask }
}

/// The memory of this many numbers from number `at` on.
fn ahead(data: CacheData, at: usize, numbers: usize) -> Ahead {
    match data {
        CacheData::F32(x) => Ahead::new(x.as_ptr().wrapping_add(at).cast(), 4 * numbers),
        CacheData::F16(x) => Ahead::new(x.as_ptr().wrapping_add(at).cast(), 2 * numbers),
        CacheData::Q8_0(x) => {
            Ahead::new(x.as_ptr().wrapping_add(at / BLOCK * BLOCK_BYTES), numbers / BLOCK * BLOCK_BYTES)
        }
    }
}

/// Numbers that are there.
fn numbers(data: CacheData) -> usize {
    match data {
        CacheData::F32(x) => x.len(),
        CacheData::F16(x) => x.len(),
        CacheData::Q8_0(x) => x.len() / BLOCK_BYTES * BLOCK,
    }
}

/// Numbers that a row of `width` takes up.
fn row(data: CacheData, width: usize) -> usize {
    match data {
        CacheData::Q8_0(_) => width.next_multiple_of(BLOCK),
        CacheData::F32(_) | CacheData::F16(_) => width,
    }
}

/// Puts one position's key into `head`, the groups of its head.
///
/// # Panics
/// If the head ends before the position's group.
pub fn put_key_f32(x: &[f32], position: usize, head: &mut [f32]) {
    put(x, 0, position, &mut head[position / KEY_GROUP * KEY_GROUP * x.len()..]);
}

/// As [`put_key_f32`], rounded half to even.
///
/// # Panics
/// If the head ends before the position's group.
pub fn put_key_f16(x: &[f32], position: usize, head: &mut [f16]) {
    let group = &mut head[position / KEY_GROUP * KEY_GROUP * x.len()..];
    for (i, x) in x.chunks(64).enumerate() {
        let mut halves = [f16::ZERO; 64];
        narrow_f16(x, &mut halves[..x.len()]);
        put(&halves[..x.len()], i * 64, position, group);
    }
}

/// As [`put_key_f32`], in blocks: the scale `d` is the largest magnitude of 32 numbers divided by 127, in f16, and a
/// code the nearest whole number to `x / d`. A block with a NaN becomes NaN as a whole, so that it shows.
///
/// # Panics
/// If the head ends before the position's group.
pub fn put_key_q8_0(level: Level, x: &[f32], position: usize, head: &mut [u8]) {
    put_blocks(level, x, position, head, |i, lane| (i / 2 * KEY_GROUP + lane) * 2 + i % 2);
}

/// Puts one position's values into `head`, the groups of its head, in blocks as [`put_key_q8_0`] makes them.
///
/// # Panics
/// If the head ends before the position's group.
pub fn put_value_q8_0(level: Level, x: &[f32], position: usize, head: &mut [u8]) {
    put_blocks(level, x, position, head, |i, lane| (lane / 2 * BLOCK + i) * 2 + lane % 2);
}

/// The blocks of a position into its group, where code `i` of position `lane` of a group goes to place `at(i, lane)`.
#[inline(always)]
fn put_blocks(level: Level, x: &[f32], position: usize, head: &mut [u8], at: impl Fn(usize, usize) -> usize) {
    let lane = position % KEY_GROUP;
    let group = &mut head[position / KEY_GROUP * x.len().div_ceil(BLOCK) * GROUP_BYTES..];
    for (x, place) in x.chunks(BLOCK).zip(group.as_chunks_mut::<GROUP_BYTES>().0) {
        let mut block = Q8_0::ZERO;
        encode(level, x, &mut block);
        place[2 * lane..][..2].copy_from_slice(block.d.as_bytes());
        for (i, code) in block.qs.iter().enumerate() {
            place[2 * KEY_GROUP + at(i, lane)] = *code as u8;
        }
    }
}

/// Numbers from `first` on of a position into its group.
fn put<T: Copy>(x: &[T], first: usize, position: usize, group: &mut [T]) {
    let group = &mut group[first * KEY_GROUP..][..x.len() * KEY_GROUP];
    let places = group.as_chunks_mut::<KEY_GROUP>().0.iter_mut();
    x.iter().zip(places).for_each(|(x, place)| place[position % KEY_GROUP] = *x);
}
