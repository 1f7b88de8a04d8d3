//! 8-bit floats with scales times f32 activations: as the AVX2 kernel, 32 values at a time.

use std::arch::x86_64::*;

use super::vnni;
use crate::dot::prefetch::Prefetch;

/// What makes up for the biases of e4m3 and f16.
const UNIT: f32 = 256.0;

vnni! {
    /// 32 codes as numbers, 2^8 times smaller.
    #[inline]
    fn numbers(codes: __m256i) -> [__m512; 2] {
        // The sign was extended over the exponent's highest bit.
        let bits = _mm512_slli_epi16::<7>(_mm512_cvtepi8_epi16(codes));
        let halves = _mm512_and_si512(bits, _mm512_set1_epi16(0xbfff_u16 as i16));
        let (low, high) = (_mm512_castsi512_si256(halves), _mm512_extracti64x4_epi64::<1>(halves));
        [_mm512_cvtph_ps(low), _mm512_cvtph_ps(high)]
    }

    /// One row times `x`, `block` columns to a scale.
    pub(super) fn e4m3(weights: &[u8], x: &[f32], scales: &[f32], block: usize) -> f32 {
        assert_eq!(weights.len(), x.len());
        let mut all = _mm512_setzero_ps();
        let ahead = Prefetch::of(1, 1);
        let mut nan = 0;
        for ((weights, x), scale) in weights.chunks(block).zip(x.chunks(block)).zip(scales) {
            let mut sums = [_mm512_setzero_ps(); 4];
            let whole = x.len() / 64 * 64;
            for i in (0..whole).step_by(64) {
                // SAFETY: values i .. i + 64 of the row and of x.
                unsafe {
                    let w = weights.as_ptr().add(i);
                    ahead.fetch(w, 64);
                    let magnitude = _mm512_and_si512(_mm512_loadu_si512(w.cast()), _mm512_set1_epi8(0x7f));
                    nan |= _mm512_cmpeq_epi8_mask(magnitude, _mm512_set1_epi8(0x7f));
                    for (k, sums) in sums.as_chunks_mut::<2>().0.iter_mut().enumerate() {
                        let x = x.as_ptr().add(i + 32 * k);
                        let [low, high] = numbers(_mm256_loadu_si256(w.add(32 * k).cast()));
                        sums[0] = _mm512_fmadd_ps(low, _mm512_loadu_ps(x), sums[0]);
                        sums[1] = _mm512_fmadd_ps(high, _mm512_loadu_ps(x.add(16)), sums[1]);
                    }
                }
            }
            for i in (whole..x.len()).step_by(16) {
                let mask = 0xffffu16 >> (16 - (x.len() - i).min(16));
                // SAFETY: the mask keeps to the values that row and x have.
                unsafe {
                    let codes = _mm_maskz_loadu_epi8(mask, weights.as_ptr().add(i).cast());
                    let magnitude = _mm_and_si128(codes, _mm_set1_epi8(0x7f));
                    nan |= u64::from(_mm_cmpeq_epi8_mask(magnitude, _mm_set1_epi8(0x7f)));
                    let x = _mm512_maskz_loadu_ps(mask, x.as_ptr().add(i));
                    let [numbers, _] = numbers(_mm256_castsi128_si256(codes));
                    sums[0] = _mm512_fmadd_ps(numbers, x, sums[0]);
                }
            }
            let (a, b) = (_mm512_add_ps(sums[0], sums[1]), _mm512_add_ps(sums[2], sums[3]));
            all = _mm512_fmadd_ps(_mm512_add_ps(a, b), _mm512_set1_ps(scale * UNIT), all);
        }
        if nan != 0 { f32::NAN } else { _mm512_reduce_add_ps(all) }
    }
}
