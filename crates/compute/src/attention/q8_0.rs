//! The q8_0 cache: decodes rows and groups of keys to f32, and encodes rows.
//!
//! A block is 32 numbers along head_dim. Values have `layout::Q8_0`'s; keys have, for 16 positions side by side, the
//! scales and then the codes of each number.

use half::f16;
use quern_tensor_io::layout::{self, F16, Q8_0};

use super::cache::KEY_GROUP;
use crate::float::f16_to_f32;
use crate::simd::{Level, Op, dispatch};

/// Numbers in a block.
pub(super) const BLOCK: usize = quern_tensor_io::ElementType::Q8_0.block_elements();
/// Bytes of one.
pub(super) const BLOCK_BYTES: usize = size_of::<Q8_0>();
/// Bytes of the keys of 16 positions.
pub(super) const GROUP_BYTES: usize = KEY_GROUP * BLOCK_BYTES;

/// A group of q8_0 keys to columns of f32.
pub(super) struct DecodeKeys<'a> {
    pub(super) x: &'a [u8],
    pub(super) head_dim: usize,
    pub(super) out: &'a mut [f32],
    pub(super) stride: usize,
}

impl DecodeKeys<'_> {
    pub(super) fn run(self, level: Level) {
        assert!(self.x.len() >= self.head_dim.div_ceil(BLOCK) * KEY_GROUP * BLOCK_BYTES);
        assert!(self.out.len() >= (self.head_dim - 1) * self.stride + KEY_GROUP);
        #[cfg(target_arch = "x86_64")]
        match level.here() {
            // SAFETY: the CPU has the level, lengths are checked.
            Level::Avx512 | Level::Avx512Vnni | Level::Amx => return unsafe { self.avx512() },
            // SAFETY: as above.
            Level::Avx2 | Level::AvxVnni => return unsafe { self.avx2() },
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

/// q8_0 rows to f32.
pub(super) struct Decode<'a> {
    pub(super) x: &'a [u8],
    /// Bytes from a row to the next.
    pub(super) x_stride: usize,
    pub(super) count: usize,
    pub(super) width: usize,
    pub(super) out: &'a mut [f32],
    pub(super) stride: usize,
}

impl Decode<'_> {
    pub(super) fn run(self, level: Level) {
        let Self { x, x_stride, count, width, out, stride } = &self;
        assert!(*count == 0 || x.len() >= (count - 1) * x_stride + width.div_ceil(BLOCK) * BLOCK_BYTES);
        assert!(*count == 0 || out.len() >= (count - 1) * stride + width);
        #[cfg(target_arch = "x86_64")]
        match level.here() {
            // SAFETY: the CPU has the level, lengths are checked.
            Level::Avx512 | Level::Avx512Vnni | Level::Amx => return unsafe { self.avx512() },
            // SAFETY: as above.
            Level::Avx2 | Level::AvxVnni => return unsafe { self.avx2() },
            Level::Scalar => {}
        }
        let _ = level;
        self.scalar(0);
    }

    /// The definition, from value `from` of each row on.
    fn scalar(self, from: usize) {
        let Self { x, x_stride, count, width, out, stride } = self;
        for (row, out) in out.chunks_mut(stride).take(count).enumerate() {
            let blocks = layout::blocks::<Q8_0>(&x[row * x_stride..]).iter();
            let out = out[from..width].chunks_mut(BLOCK);
            for (block, out) in blocks.skip(from / BLOCK).zip(out) {
                let d = f16_to_f32(block.d.bits());
                out.iter_mut().zip(block.qs).for_each(|(out, code)| *out = d * f32::from(code));
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
pub fn encode_q8_0(level: Level, x: &[f32], out: &mut [u8]) {
    assert_eq!(out.len(), x.len().div_ceil(BLOCK) * BLOCK_BYTES, "encode_q8_0: lengths");
    dispatch(level, Encode(x, layout::blocks_mut(out)));
}

struct Encode<'a>(&'a [f32], &'a mut [Q8_0]);

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
            block.d = F16::from_bits(d.to_bits());
            for (v, code) in values.into_iter().zip(&mut block.qs) {
                // Adding 1.5 * 2^23 rounds half to even into the low mantissa bits.
                let scaled = (v * inverse).clamp(-127.0, 127.0);
                *code = (scaled + 12_582_912.0).to_bits() as i8;
            }
        }
    }
}
