//! Keys and values as a cache holds them.
//!
//! ```text
//! values   a row for each position:  [position][head_dim]
//! keys     turned in groups of 16:   [position / 16][head_dim][position % 16]
//!
//! f32, f16    the numbers
//! q8_0        32 numbers along head_dim in 34 bytes, value = d * code (d is f16, a code i8); where head_dim is no
//!             multiple of 32 it is filled up with zeros
//!     values  d, 32 codes: ggml's blocks
//!     keys    d of the 16 positions, then the 16 positions' codes of each of the 32 numbers
//! ```
//!
//! Scores are sums along head_dim. With 16 positions side by side a vector holds 16 such sums, and nothing has to
//! be added across its lanes, nor turned for the many queries of a prompt.

use half::f16;

use crate::fgemm::Ahead;
use crate::float::{f16_to_f32, narrow_f16, widen_f16_rows, widen_f16_sixteens};
use crate::simd::{Level, Op, dispatch};
use crate::{Error, Result};

/// Numbers in a q8_0 block.
const BLOCK: usize = 32;
/// Bytes of one.
const BLOCK_BYTES: usize = 34;
/// Positions whose keys lie together.
pub const KEY_GROUP: usize = 16;

/// The numbers of a cache.
#[derive(Clone, Copy, Debug)]
pub enum CacheData<'a> {
    /// Full precision.
    F32(&'a [f32]),
    /// Half the memory.
    F16(&'a [f16]),
    /// 17/64 of it: blocks of 32 numbers in 34 bytes, as [`encode_q8_0`] makes them. Rows are whole blocks.
    Q8_0(&'a [u8]),
}

/// Values of one layer: head `h` of position `p` is the `head_dim` numbers from
/// `p * position_stride + h * head_stride` on.
#[derive(Clone, Copy, Debug)]
pub struct Values<'a> {
    /// The numbers.
    pub data: CacheData<'a>,
    /// Distance from a position to the next, in values; for q8_0 a multiple of 32.
    pub position_stride: usize,
    /// Distance from a head to the next, likewise.
    pub head_stride: usize,
}

impl Values<'_> {
    /// Checks that `heads` heads of `head_dim` values are there at position `last` and before.
    pub(super) fn check(&self, what: &'static str, last: usize, heads: usize, head_dim: usize) -> Result<()> {
        let (found, row) = (numbers(self.data), row(self.data, head_dim));
        let whole = !matches!(self.data, CacheData::Q8_0(_))
            || self.position_stride.is_multiple_of(BLOCK) && self.head_stride.is_multiple_of(BLOCK);
        let end = last.saturating_mul(self.position_stride);
        let end = end.saturating_add((heads - 1).saturating_mul(self.head_stride)).saturating_add(row);
        match whole && end <= found {
            true => Ok(()),
            false => Err(Error::Lengths { what, expected: end, found }),
        }
    }

    /// Reads `width` values of `head` at `count` positions from `first` on, into rows `stride` apart.
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
            CacheData::Q8_0(x) => {
                let x = &x[at / BLOCK * BLOCK_BYTES..];
                let x_stride = self.position_stride / BLOCK * BLOCK_BYTES;
                Decode { x, x_stride, count, width, out, stride }.run(level);
            }
        }
    }

    /// The memory of `head` at `count` positions from `first` on, to be asked for beforehand: nothing where
    /// rows lie apart.
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

/// The memory of so many numbers from number `at` on.
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

/// A group of q8_0 keys to columns of f32.
struct DecodeKeys<'a> {
    x: &'a [u8],
    head_dim: usize,
    out: &'a mut [f32],
    stride: usize,
}

impl DecodeKeys<'_> {
    fn run(self, level: Level) {
        assert!(self.x.len() >= self.head_dim.div_ceil(BLOCK) * KEY_GROUP * BLOCK_BYTES);
        assert!(self.out.len() >= (self.head_dim - 1) * self.stride + KEY_GROUP);
        #[cfg(target_arch = "x86_64")]
        match level.min(Level::best()) {
            // SAFETY: the CPU has the level, lengths are checked.
            Level::Avx512 | Level::Avx512Vnni => return unsafe { self.avx512() },
            // SAFETY: as above.
            Level::Avx2 => return unsafe { self.avx2() },
            Level::Scalar => {}
        }
        let _ = level;
        let Self { x, head_dim, out, stride } = self;
        for (d, out) in (0..head_dim).zip(out.chunks_mut(stride)) {
            let block = &x[d / BLOCK * KEY_GROUP * BLOCK_BYTES..];
            let (scales, codes) = (block.as_chunks::<2>().0, &block[(2 + d % BLOCK) * KEY_GROUP..]);
            for ((out, scale), &code) in out.iter_mut().zip(&scales[..KEY_GROUP]).zip(codes) {
                *out = f16_to_f32(u16::from_le_bytes(*scale)) * f32::from(code as i8);
            }
        }
    }

    /// # Safety
    /// Lengths are as [`DecodeKeys::run`] checks them.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,f16c,avx512f")]
    unsafe fn avx512(self) {
        use std::arch::x86_64::*;
        for first in (0..self.head_dim).step_by(BLOCK) {
            // SAFETY: the block's scales and codes, and its columns' places.
            unsafe {
                let block = self.x.as_ptr().add(first * KEY_GROUP / BLOCK * BLOCK_BYTES);
                let scales = _mm512_cvtph_ps(_mm256_loadu_si256(block.cast()));
                for i in 0..BLOCK.min(self.head_dim - first) {
                    let codes = _mm_loadu_si128(block.add((2 + i) * KEY_GROUP).cast());
                    let numbers = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(codes));
                    let out = self.out.as_mut_ptr().add((first + i) * self.stride);
                    _mm512_storeu_ps(out, _mm512_mul_ps(numbers, scales));
                }
            }
        }
    }

    /// # Safety
    /// As above.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn avx2(self) {
        use std::arch::x86_64::*;
        for first in (0..self.head_dim).step_by(BLOCK) {
            for half in [0, 8] {
                // SAFETY: half of the block's scales and codes, and their places.
                unsafe {
                    let block = self.x.as_ptr().add(first * KEY_GROUP / BLOCK * BLOCK_BYTES);
                    let scales = _mm256_cvtph_ps(_mm_loadu_si128(block.add(2 * half).cast()));
                    for i in 0..BLOCK.min(self.head_dim - first) {
                        let codes = _mm_loadl_epi64(block.add((2 + i) * KEY_GROUP + half).cast());
                        let numbers = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(codes));
                        let out = self.out.as_mut_ptr().add((first + i) * self.stride + half);
                        _mm256_storeu_ps(out, _mm256_mul_ps(numbers, scales));
                    }
                }
            }
        }
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

/// As [`put_key_f32`], encoded as [`encode_q8_0`] does.
///
/// # Panics
/// If the head ends before the position's group.
pub fn put_key_q8_0(x: &[f32], position: usize, head: &mut [u8]) {
    const GROUP_BYTES: usize = KEY_GROUP * BLOCK_BYTES;
    let lane = position % KEY_GROUP;
    let group = &mut head[position / KEY_GROUP * x.len().div_ceil(BLOCK) * GROUP_BYTES..];
    for (x, place) in x.chunks(BLOCK).zip(group.chunks_exact_mut(GROUP_BYTES)) {
        let mut block = [0; BLOCK_BYTES];
        encode_q8_0(x, &mut block);
        place[2 * lane..][..2].copy_from_slice(&block[..2]);
        put(&block[2..], 0, lane, &mut place[2 * KEY_GROUP..]);
    }
}

/// Numbers from `first` on of a position into its group.
fn put<T: Copy>(x: &[T], first: usize, position: usize, group: &mut [T]) {
    let group = &mut group[first * KEY_GROUP..][..x.len() * KEY_GROUP];
    let places = group.as_chunks_mut::<KEY_GROUP>().0.iter_mut();
    x.iter().zip(places).for_each(|(x, place)| place[position % KEY_GROUP] = *x);
}

/// q8_0 rows to f32.
struct Decode<'a> {
    x: &'a [u8],
    /// Bytes from a row to the next.
    x_stride: usize,
    count: usize,
    width: usize,
    out: &'a mut [f32],
    stride: usize,
}

impl Decode<'_> {
    fn run(self, level: Level) {
        let Self { x, x_stride, count, width, out, stride } = &self;
        assert!(*count == 0 || x.len() >= (count - 1) * x_stride + width.div_ceil(BLOCK) * BLOCK_BYTES);
        assert!(*count == 0 || out.len() >= (count - 1) * stride + width);
        #[cfg(target_arch = "x86_64")]
        match level.min(Level::best()) {
            // SAFETY: the CPU has the level, lengths are checked.
            Level::Avx512 | Level::Avx512Vnni => return unsafe { self.avx512() },
            // SAFETY: as above.
            Level::Avx2 => return unsafe { self.avx2() },
            Level::Scalar => {}
        }
        let _ = level;
        self.scalar(0);
    }

    /// The definition, from value `from` of each row on.
    fn scalar(self, from: usize) {
        let Self { x, x_stride, count, width, out, stride } = self;
        for (row, out) in out.chunks_mut(stride).take(count).enumerate() {
            let blocks = x[row * x_stride..].as_chunks::<BLOCK_BYTES>().0.iter();
            let out = out[from..width].chunks_mut(BLOCK);
            for (block, out) in blocks.skip(from / BLOCK).zip(out) {
                let d = f16_to_f32(u16::from_le_bytes([block[0], block[1]]));
                out.iter_mut().zip(&block[2..]).for_each(|(out, &code)| *out = d * f32::from(code as i8));
            }
        }
    }

    /// Sixteen codes at a time: the compiler would take them one by one.
    ///
    /// # Safety
    /// Lengths are as [`Decode::run`] checks them.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,f16c,avx512f")]
    unsafe fn avx512(self) {
        use std::arch::x86_64::*;
        let whole = self.width / BLOCK;
        for row in 0..self.count {
            for b in 0..whole {
                // SAFETY: block b of the row, and its 32 values.
                unsafe {
                    let block = self.x.as_ptr().add(row * self.x_stride + b * BLOCK_BYTES);
                    let out = self.out.as_mut_ptr().add(row * self.stride + b * BLOCK);
                    let d = _mm_cvtsi32_si128(block.cast::<u16>().read_unaligned().into());
                    let d = _mm512_broadcastss_ps(_mm_cvtph_ps(d));
                    for i in [0, 16] {
                        let codes = _mm512_cvtepi8_epi32(_mm_loadu_si128(block.add(2 + i).cast()));
                        _mm512_storeu_ps(out.add(i), _mm512_mul_ps(_mm512_cvtepi32_ps(codes), d));
                    }
                }
            }
        }
        if whole * BLOCK < self.width {
            self.scalar(whole * BLOCK);
        }
    }

    /// The same, eight at a time.
    ///
    /// # Safety
    /// As above.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn avx2(self) {
        use std::arch::x86_64::*;
        let whole = self.width / BLOCK;
        for row in 0..self.count {
            for b in 0..whole {
                // SAFETY: block b of the row, and its 32 values.
                unsafe {
                    let block = self.x.as_ptr().add(row * self.x_stride + b * BLOCK_BYTES);
                    let out = self.out.as_mut_ptr().add(row * self.stride + b * BLOCK);
                    let d = _mm_cvtsi32_si128(block.cast::<u16>().read_unaligned().into());
                    let d = _mm256_broadcastss_ps(_mm_cvtph_ps(d));
                    for i in [0, 8, 16, 24] {
                        let codes = _mm256_cvtepi8_epi32(_mm_loadl_epi64(block.add(2 + i).cast()));
                        _mm256_storeu_ps(out.add(i), _mm256_mul_ps(_mm256_cvtepi32_ps(codes), d));
                    }
                }
            }
        }
        if whole * BLOCK < self.width {
            self.scalar(whole * BLOCK);
        }
    }
}

/// Encodes one row of values: `d` is the largest magnitude of a block divided by 127, in f16, and a
/// code the nearest whole number to `x / d`. A block with a NaN becomes NaN as a whole, so that it shows.
///
/// # Panics
/// If `out` is not as long as the blocks that `x` fills (34 bytes for 32 values, the last block padded).
pub fn encode_q8_0(x: &[f32], out: &mut [u8]) {
    assert_eq!(out.len(), x.len().div_ceil(BLOCK) * BLOCK_BYTES, "encode_q8_0: lengths");
    dispatch(Level::detect(), Encode(x, out.as_chunks_mut().0));
}

struct Encode<'a>(&'a [f32], &'a mut [[u8; BLOCK_BYTES]]);

impl Op for Encode<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        for (x, block) in self.0.chunks(BLOCK).zip(self.1) {
            let mut values = [0f32; BLOCK];
            values[..x.len()].copy_from_slice(x);
            let mut largest = 0f32;
            let mut nan = false;
            for v in values {
                largest = if v.abs() > largest { v.abs() } else { largest };
                nan |= v.is_nan();
            }
            let d = f16::from_f32(if nan { f32::NAN } else { largest / 127.0 });
            // Of the rounded scale: where that is a subnormal half, the other would be far off.
            let inverse = if d > f16::ZERO { 1.0 / d.to_f32() } else { 0.0 };
            block[..2].copy_from_slice(&d.to_le_bytes());
            for (v, code) in values.into_iter().zip(&mut block[2..]) {
                // Adding 1.5 * 2^23 rounds half to even into the low mantissa bits.
                let scaled = (v * inverse).clamp(-127.0, 127.0);
                *code = (scaled + 12_582_912.0).to_bits() as u8;
            }
        }
    }
}
