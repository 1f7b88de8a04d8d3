//! AVX2 with FMA and F16C: 32 values at a time.
//!
//! `vpmaddubsw` multiplies bytes without a sign by signed ones, two products to 16 bits. Codes that are not negative are
//! its first operand as they are, and the zero point is taken off sums over many values. Where codes are entries of a
//! table or of a grid, or have all eight bits, they become signed values `v`: `|v|` is multiplied with the activations
//! under the sign of `v` (two products of at most 128 * 127 fit 16 bits), and no zero point is left over.

mod f8;
mod float;
mod grid;
pub(super) mod large;
mod mid;
pub(super) mod small;

use std::arch::x86_64::*;

use quern_tensor_io::layout::F16;

use crate::block::tables;

/// Adds the features of [`crate::simd::Level::Avx2`] to functions.
macro_rules! avx2 {
    ($($item:item)*) => { $( #[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2")] $item )* };
}
use avx2;

super::kernel_tables!();

avx2! {
    /// Products of 32 values with 32 activations, added in pairs: 16 lanes of 16 bits.
    #[inline]
    fn pairs(v: __m256i, c: __m256i) -> __m256i {
        _mm256_maddubs_epi16(_mm256_abs_epi8(v), _mm256_sign_epi8(c, v))
    }

    /// # Safety
    /// 32 bytes are readable.
    #[inline]
    unsafe fn load32(p: *const u8) -> __m256i {
        // SAFETY: guaranteed by the caller.
        unsafe { _mm256_loadu_si256(p.cast()) }
    }

    /// 32 four-bit codes from 16 bytes: low nibbles, then high ones.
    #[inline]
    fn nibbles(x: &[u8; 16]) -> __m256i {
        // SAFETY: 16 bytes.
        let x = unsafe { _mm_loadu_si128(x.as_ptr().cast()) };
        let x = _mm256_set_m128i(_mm_srli_epi16::<4>(x), x);
        _mm256_and_si256(x, _mm256_set1_epi8(15))
    }

    /// Values of a table at 32 four-bit codes.
    #[inline]
    fn look_up(table: &[i8; 16], codes: __m256i) -> __m256i {
        // SAFETY: 16 bytes.
        let table = unsafe { _mm_loadu_si128(table.as_ptr().cast()) };
        _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(table), codes)
    }

    #[inline]
    fn iq4(codes: __m256i) -> __m256i {
        look_up(&tables::IQ4, codes)
    }

    /// Bit i of the word as byte i: all ones where it is set.
    #[inline]
    fn bits(word: i32) -> __m256i {
        let byte = _mm256_setr_epi64x(
            0, 0x0101_0101_0101_0101, 0x0202_0202_0202_0202, 0x0303_0303_0303_0303);
        let bit = _mm256_set1_epi64x(i64::from_le_bytes([1, 2, 4, 8, 16, 32, 64, 128]));
        let word = _mm256_shuffle_epi8(_mm256_set1_epi32(word), byte);
        _mm256_cmpeq_epi8(_mm256_and_si256(word, bit), bit)
    }

    /// The sum of 8 lanes.
    #[inline]
    pub(super) fn total(x: __m256) -> f32 {
        let x = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
        let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
        _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)))
    }

    /// A stored f16.
    #[inline]
    fn half(x: F16) -> f32 {
        _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(x.bits().into())))
    }
}
