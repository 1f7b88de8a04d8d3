//! 8-bit floats with scales times f32 activations.
//!
//! A code of e4m3, moved to the place of an f16's exponent and mantissa, is that f16 number, 2^8 times smaller: both
//! begin with the exponent, whose biases are 7 and 15. The factor is in the scale.

use std::arch::x86_64::*;

use super::{avx2, total};
use crate::float::f8_e4m3_to_f32;

/// What makes up for the biases.
const UNIT: f32 = 256.0;

avx2! {
    /// Eight codes as numbers, 2^8 times smaller.
    ///
    /// # Safety
    /// 8 bytes are readable.
    #[inline]
    unsafe fn load(p: *const u8) -> __m256 {
        // SAFETY: guaranteed by the caller.
        let codes = _mm_cvtepu8_epi16(unsafe { _mm_loadl_epi64(p.cast()) });
        let magnitude = _mm_and_si128(codes, _mm_set1_epi16(0x7f));
        let sign = _mm_slli_epi16::<8>(_mm_xor_si128(codes, magnitude));
        // The largest code is NaN, which f16 has in other places.
        let nan = _mm_and_si128(_mm_cmpeq_epi16(magnitude, _mm_set1_epi16(0x7f)), _mm_set1_epi16(0x7e00));
        let half = _mm_or_si128(_mm_slli_epi16::<7>(magnitude), sign);
        _mm256_cvtph_ps(_mm_or_si128(half, nan))
    }

    /// One row times `x`, `block` columns to a scale.
    pub(super) fn e4m3(weights: &[u8], x: &[f32], scales: &[f32], block: usize) -> f32 {
        assert_eq!(weights.len(), x.len());
        let mut all = _mm256_setzero_ps();
        let mut rest = 0.0;
        let blocks = weights.chunks(block).zip(x.chunks(block));
        for ((weights, x), scale) in blocks.zip(scales) {
            let mut sums = [_mm256_setzero_ps(); 4];
            let whole = x.len() / 8 * 8;
            for i in (0..whole).step_by(32) {
                for (k, sum) in sums.iter_mut().enumerate().take((whole - i) / 8) {
                    // SAFETY: values i + 8 k .. i + 8 k + 8 of the row and of x, below `whole`.
                    unsafe {
                        let w = load(weights.as_ptr().add(i + 8 * k));
                        *sum = _mm256_fmadd_ps(w, _mm256_loadu_ps(x.as_ptr().add(i + 8 * k)), *sum);
                    }
                }
            }
            let (a, b) = (_mm256_add_ps(sums[0], sums[1]), _mm256_add_ps(sums[2], sums[3]));
            all = _mm256_fmadd_ps(_mm256_add_ps(a, b), _mm256_set1_ps(scale * UNIT), all);
            let last = weights[whole..].iter().zip(&x[whole..]);
            rest += last.map(|(w, x)| f8_e4m3_to_f32(*w) * x).sum::<f32>() * scale;
        }
        total(all) + rest
    }
}
