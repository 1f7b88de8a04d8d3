//! The q8_0 cache: encodes rows, and decodes groups of keys to f32 where they are needed as numbers.
//!
//! A block is 32 numbers along head_dim. Keys and values have, for 16 positions side by side, the scales and then the
//! codes in pairs: two numbers of each position's key, two positions of each number of values.

use half::f16;
use quern_tensor_io::layout::{F16, Q8_0};

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
            let pairs = &block.as_chunks::<2>().0[KEY_GROUP + d % BLOCK / 2 * KEY_GROUP..];
            for ((out, scale), pair) in out.iter_mut().zip(block.as_chunks().0).zip(&pairs[..KEY_GROUP]) {
                *out = f16_to_f32(u16::from_le_bytes(*scale)) * f32::from(pair[d % 2] as i8);
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
                    let pairs = _mm256_loadu_si256(block.add((2 + i / 2 * 2) * KEY_GROUP).cast());
                    let pairs = if i % 2 == 0 { _mm256_slli_epi16::<8>(pairs) } else { pairs };
                    let codes = _mm256_srai_epi16::<8>(pairs);
                    let numbers = _mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(codes));
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
                        let pairs = block.add((2 + i / 2 * 2) * KEY_GROUP + 2 * half);
                        let pairs = _mm_loadu_si128(pairs.cast());
                        let pairs = if i % 2 == 0 { _mm_slli_epi16::<8>(pairs) } else { pairs };
                        let codes = _mm_srai_epi16::<8>(pairs);
                        let numbers = _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(codes));
                        let out = self.out.as_mut_ptr().add((first + i) * self.stride + half);
                        _mm256_storeu_ps(out, _mm256_mul_ps(numbers, scales));
                    }
                }
            }
        }
    }
}

/// Encodes one block: `d` is the largest magnitude divided by 127, in f16, and a code the nearest whole number to
/// `x / d`. A block with a NaN becomes NaN as a whole, so that it shows. What is missing of 32 numbers is zero.
pub(super) fn encode(level: Level, x: &[f32], block: &mut Q8_0) {
    dispatch(level, Encode(x, block));
}

struct Encode<'a>(&'a [f32], &'a mut Q8_0);

impl Op for Encode<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self(x, block) = self;
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
