//! Float weights times f32 activations, in four running sums of 16 lanes.

use std::arch::x86_64::*;

use super::vnni;
use crate::dot::prefetch::Prefetch;
use crate::dot::rows_in_fours;

vnni! {
    #[inline]
    unsafe fn load_f32(p: *const u8, mask: u16) -> __m512 {
        // SAFETY: guaranteed by the caller, for the lanes of the mask.
        unsafe { _mm512_maskz_loadu_ps(mask, p.cast()) }
    }

    #[inline]
    unsafe fn load_f16(p: *const u8, mask: u16) -> __m512 {
        // SAFETY: guaranteed by the caller, for the lanes of the mask.
        _mm512_cvtph_ps(unsafe { _mm256_maskz_loadu_epi16(mask, p.cast()) })
    }

    #[inline]
    unsafe fn load_bf16(p: *const u8, mask: u16) -> __m512 {
        // SAFETY: guaranteed by the caller, for the lanes of the mask.
        let x = _mm512_cvtepu16_epi32(unsafe { _mm256_maskz_loadu_epi16(mask, p.cast()) });
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(x))
    }
}

macro_rules! rows {
    ($($name:ident: $load:ident, $bytes:literal bytes;)*) => { vnni! { $(
        /// `y[r]` = weight row r times `x`.
        pub(super) fn $name(weights: &[u8], x: &[f32], y: &mut [f32]) {
            assert_eq!(weights.len(), y.len() * x.len() * $bytes);
            let ahead = Prefetch::of($bytes, 1);
            let ((fours, y_of_fours), (weights, y)) = rows_in_fours(weights, x.len(), y);
            for (rows, y) in fours.chunks_exact((4 * x.len() * $bytes).max(1)).zip(y_of_fours) {
                let mut sums = [[_mm512_setzero_ps(); 2]; 4];
                let whole = x.len() / 32 * 32;
                for i in (0..whole).step_by(32) {
                    // SAFETY: values i .. i + 32 of each row and of x.
                    unsafe {
                        let values = [0, 16].map(|at| _mm512_loadu_ps(x.as_ptr().add(i + at)));
                        for (r, sums) in sums.iter_mut().enumerate() {
                            let w = rows.as_ptr().add((r * x.len() + i) * $bytes);
                            ahead.fetch(w, 32 * $bytes);
                            sums[0] = _mm512_fmadd_ps($load(w, !0), values[0], sums[0]);
                            sums[1] = _mm512_fmadd_ps($load(w.add(16 * $bytes), !0), values[1], sums[1]);
                        }
                    }
                }
                for i in (whole..x.len()).step_by(16) {
                    let mask = 0xffffu16 >> (16 - (x.len() - i).min(16));
                    // SAFETY: the mask keeps to the values that each row and x have.
                    unsafe {
                        let values = _mm512_maskz_loadu_ps(mask, x.as_ptr().add(i));
                        for (r, sums) in sums.iter_mut().enumerate() {
                            let w = rows.as_ptr().add((r * x.len() + i) * $bytes);
                            sums[0] = _mm512_fmadd_ps($load(w, mask), values, sums[0]);
                        }
                    }
                }
                for (y, sums) in y.iter_mut().zip(sums) {
                    *y = _mm512_reduce_add_ps(_mm512_add_ps(sums[0], sums[1]));
                }
            }
            for (row, y) in weights.chunks_exact((x.len() * $bytes).max(1)).zip(y) {
                let mut sums = [_mm512_setzero_ps(); 4];
                let whole = x.len() / 64 * 64;
                for i in (0..whole).step_by(64) {
                    // SAFETY: values i .. i + 64 of the row and of x.
                    unsafe {
                        let w = row.as_ptr().add(i * $bytes);
                        ahead.fetch(w, 64 * $bytes);
                        for (k, sum) in sums.iter_mut().enumerate() {
                            let x = _mm512_loadu_ps(x.as_ptr().add(i + 16 * k));
                            *sum = _mm512_fmadd_ps($load(w.add(16 * k * $bytes), !0), x, *sum);
                        }
                    }
                }
                for i in (whole..x.len()).step_by(16) {
                    let mask = 0xffffu16 >> (16 - (x.len() - i).min(16));
                    // SAFETY: the mask keeps to the values that row and x have.
                    unsafe {
                        let x = _mm512_maskz_loadu_ps(mask, x.as_ptr().add(i));
                        sums[0] = _mm512_fmadd_ps($load(row.as_ptr().add(i * $bytes), mask), x, sums[0]);
                    }
                }
                let (a, b) = (_mm512_add_ps(sums[0], sums[1]), _mm512_add_ps(sums[2], sums[3]));
                *y = _mm512_reduce_add_ps(_mm512_add_ps(a, b));
            }
        }
    )* } };
}

rows! {
    f32: load_f32, 4 bytes;
    f16: load_f16, 2 bytes;
    bf16: load_bf16, 2 bytes;
}
