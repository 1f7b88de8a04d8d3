//! 8-bit floats with scales times f32 activations: as the AVX2 kernel, 16 values at a time.

use std::arch::x86_64::*;

use super::{AHEAD, vnni};

/// What makes up for the biases of e4m3 and f16.
const UNIT: f32 = 256.0;

vnni! {
    /// Sixteen codes as numbers, 2^8 times smaller.
    ///
    /// # Safety
    /// The bytes of the mask's lanes are readable.
    #[inline]
    unsafe fn load(p: *const u8, mask: u16) -> __m512 {
        // SAFETY: guaranteed by the caller, for the lanes of the mask.
        let codes = _mm256_cvtepu8_epi16(unsafe { _mm_maskz_loadu_epi8(mask, p.cast()) });
        let magnitude = _mm256_and_si256(codes, _mm256_set1_epi16(0x7f));
        let sign = _mm256_slli_epi16::<8>(_mm256_xor_si256(codes, magnitude));
        let half = _mm256_or_si256(_mm256_slli_epi16::<7>(magnitude), sign);
        // The largest code is NaN, which f16 has in other places.
        let nan = _mm256_cmpeq_epi16_mask(magnitude, _mm256_set1_epi16(0x7f));
        _mm512_cvtph_ps(_mm256_mask_mov_epi16(half, nan, _mm256_set1_epi16(0x7e00)))
    }

    /// One row times `x`, `block` columns to a scale.
    pub(super) fn e4m3(weights: &[u8], x: &[f32], scales: &[f32], block: usize) -> f32 {
        assert_eq!(weights.len(), x.len());
        let mut all = _mm512_setzero_ps();
        for ((weights, x), scale) in weights.chunks(block).zip(x.chunks(block)).zip(scales) {
            let mut sums = [_mm512_setzero_ps(); 4];
            let whole = x.len() / 64 * 64;
            for i in (0..whole).step_by(64) {
                // SAFETY: values i .. i + 64 of the row and of x; a prefetch may point anywhere.
                unsafe {
                    let w = weights.as_ptr().add(i);
                    _mm_prefetch::<_MM_HINT_T0>(w.wrapping_add(AHEAD).cast());
                    for (k, sum) in sums.iter_mut().enumerate() {
                        let x = _mm512_loadu_ps(x.as_ptr().add(i + 16 * k));
                        *sum = _mm512_fmadd_ps(load(w.add(16 * k), !0), x, *sum);
                    }
                }
            }
            for i in (whole..x.len()).step_by(16) {
                let mask = 0xffffu16 >> (16 - (x.len() - i).min(16));
                // SAFETY: the mask keeps to the values that row and x have.
                unsafe {
                    let x = _mm512_maskz_loadu_ps(mask, x.as_ptr().add(i));
                    sums[0] = _mm512_fmadd_ps(load(weights.as_ptr().add(i), mask), x, sums[0]);
                }
            }
            let (a, b) = (_mm512_add_ps(sums[0], sums[1]), _mm512_add_ps(sums[2], sums[3]));
            all = _mm512_fmadd_ps(_mm512_add_ps(a, b), _mm512_set1_ps(scale * UNIT), all);
        }
        _mm512_reduce_add_ps(all)
    }
}
