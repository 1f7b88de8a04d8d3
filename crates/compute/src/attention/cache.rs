//! Keys and values as a cache holds them.
//!
//! ```text
//! f32, f16    head_dim numbers a row
//! q8_0        blocks of 32 numbers along head_dim, ggml's layout: d (f16), 32 codes (i8), value = d * code;
//!             a row whose head_dim is no multiple of 32 is filled up with zeros
//! ```

use half::f16;

use crate::float::{f16_to_f32, widen_f16_rows};
use crate::simd::{Level, Op, dispatch};
use crate::{Error, Result};

/// Numbers in a q8_0 block.
const BLOCK: usize = 32;
/// Bytes of one.
const BLOCK_BYTES: usize = 34;

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

/// Keys or values of one layer: head `h` of position `p` is the `head_dim` values from
/// `p * position_stride + h * head_stride` on.
#[derive(Clone, Copy, Debug)]
pub struct Cache<'a> {
    /// The numbers.
    pub data: CacheData<'a>,
    /// Distance from a position to the next, in values; for q8_0 a multiple of 32.
    pub position_stride: usize,
    /// Distance from a head to the next, likewise.
    pub head_stride: usize,
}

impl Cache<'_> {
    /// Checks that `heads` heads of `head_dim` values are there at position `last` and before.
    pub(super) fn check(&self, what: &'static str, last: usize, heads: usize, head_dim: usize) -> Result<()> {
        let (found, row) = match self.data {
            CacheData::F32(x) => (x.len(), head_dim),
            CacheData::F16(x) => (x.len(), head_dim),
            CacheData::Q8_0(x) => (x.len() / BLOCK_BYTES * BLOCK, head_dim.next_multiple_of(BLOCK)),
        };
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
}

impl Cache<'_> {
    /// The memory of `head` at `count` positions from `first` on, to be asked for beforehand: nothing where
    /// rows lie apart.
    pub(super) fn ahead(&self, (first, count): (usize, usize), head: usize, width: usize) -> Ahead {
        let at = first * self.position_stride + head * self.head_stride;
        let (start, row, bytes) = match self.data {
            CacheData::F32(x) => (x.as_ptr().wrapping_add(at).cast(), width, 4 * count * width),
            CacheData::F16(x) => (x.as_ptr().wrapping_add(at).cast(), width, 2 * count * width),
            CacheData::Q8_0(x) => {
                let row = width.next_multiple_of(BLOCK);
                let at = at / BLOCK * BLOCK_BYTES;
                (x.as_ptr().wrapping_add(at), row, count * row / BLOCK * BLOCK_BYTES)
            }
        };
        let lines = if row == self.position_stride { bytes.div_ceil(LINE) } else { 0 };
        Ahead { start, lines }
    }
}

/// Bytes of a cache line.
const LINE: usize = 64;

/// Memory that will be read soon. Asked for all at once it would hold up what is read now: the lines are
/// spread over the computation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ahead {
    start: *const u8,
    lines: usize,
}

impl Ahead {
    /// Nothing.
    pub const NONE: Self = Self { start: std::ptr::null(), lines: 0 };

    /// Asks for part `part` of `parts`.
    #[inline(always)]
    pub fn ask(&self, part: usize, parts: usize) {
        #[cfg(target_arch = "x86_64")]
        for line in self.lines * part / parts..self.lines * (part + 1) / parts {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            // SAFETY: a prefetch may point anywhere.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(self.start.wrapping_add(line * LINE).cast()) };
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (self.start, self.lines, part, parts);
    }
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

/// Encodes one row of keys or values: `d` is the largest magnitude of a block divided by 127, in f16, and a
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
