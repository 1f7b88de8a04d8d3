//! 8-bit floats with scales times f32 activations.
//!
//! A code of e4m3, moved to the place of an f16's exponent and mantissa, is that f16 number, 2^8 times smaller: both
//! begin with the exponent, whose biases are 7 and 15. The factor is in the scale. The one code that is NaN would be a
//! number so; a row that has it is NaN.

use std::arch::x86_64::*;

use super::{avx2, total};
use crate::dot::prefetch::Prefetch;
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
        let codes = _mm_cvtepi8_epi16(unsafe { _mm_loadl_epi64(p.cast()) });
        // The sign was extended over the exponent's highest bit.
        _mm256_cvtph_ps(_mm_and_si128(_mm_slli_epi16::<7>(codes), _mm_set1_epi16(0xbfff_u16 as i16)))
    }

    /// One row times `x`, `block` columns to a scale.
    pub(super) fn e4m3(weights: &[u8], x: &[f32], scales: &[f32], block: usize) -> f32 {
        assert_eq!(weights.len(), x.len());
        let mut all = _mm256_setzero_ps();
        let mut nan = _mm256_setzero_si256();
        let ahead = Prefetch::of(1, 1);
        let mut rest = 0.0;
        for ((weights, x), scale) in weights.chunks(block).zip(x.chunks(block)).zip(scales) {
            let mut sums = [_mm256_setzero_ps(); 4];
            let whole = x.len() / 32 * 32;
            for i in (0..whole).step_by(32) {
                // SAFETY: values i .. i + 32 of the row and of x.
                unsafe {
                    let w = weights.as_ptr().add(i);
                    ahead.fetch(w, 32);
                    let magnitude = _mm256_and_si256(_mm256_loadu_si256(w.cast()), _mm256_set1_epi8(0x7f));
                    nan = _mm256_or_si256(nan, _mm256_cmpeq_epi8(magnitude, _mm256_set1_epi8(0x7f)));
                    for (k, sum) in sums.iter_mut().enumerate() {
                        let x = _mm256_loadu_ps(x.as_ptr().add(i + 8 * k));
                        *sum = _mm256_fmadd_ps(load(w.add(8 * k)), x, *sum);
                    }
                }
            }
            let (a, b) = (_mm256_add_ps(sums[0], sums[1]), _mm256_add_ps(sums[2], sums[3]));
            all = _mm256_fmadd_ps(_mm256_add_ps(a, b), _mm256_set1_ps(scale * UNIT), all);
            let last = weights[whole..].iter().zip(&x[whole..]);
            rest += last.map(|(w, x)| f8_e4m3_to_f32(*w) * x).sum::<f32>() * scale;
        }
        if _mm256_testz_si256(nan, nan) == 0 {
            return f32::NAN;
        }
        total(all) + rest
    }
}
