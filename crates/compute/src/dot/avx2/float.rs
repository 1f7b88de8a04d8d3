//! Float weights times f32 activations, in four running sums of 8 lanes.

use std::arch::x86_64::*;

use super::{avx2, total};
use crate::dot::prefetch::Prefetch;
use crate::dot::rows_in_fours;
use crate::float::{bf16_to_f32, f16_to_f32};

avx2! {
    #[inline]
    unsafe fn load_f32(p: *const u8) -> __m256 {
        // SAFETY: the caller's 32 bytes.
        unsafe { _mm256_loadu_ps(p.cast()) }
    }

    #[inline]
    unsafe fn load_f16(p: *const u8) -> __m256 {
        // SAFETY: the caller's 16 bytes.
        _mm256_cvtph_ps(unsafe { _mm_loadu_si128(p.cast()) })
    }

    #[inline]
    unsafe fn load_bf16(p: *const u8) -> __m256 {
        // SAFETY: the caller's 16 bytes.
        let x = _mm256_cvtepu16_epi32(unsafe { _mm_loadu_si128(p.cast()) });
        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(x))
    }
}

macro_rules! rows {
    ($($name:ident: $load:ident, $bytes:literal bytes, $one:expr;)*) => { avx2! { $(
        /// `y[r]` = weight row r times `x`.
        pub(super) fn $name(weights: &[u8], x: &[f32], y: &mut [f32]) {
            assert_eq!(weights.len(), y.len() * x.len() * $bytes);
            let ahead = Prefetch::of($bytes, 1);
            let ((fours, y_of_fours), (weights, y)) = rows_in_fours(weights, x.len(), y);
            for (rows, y) in fours.chunks_exact((4 * x.len() * $bytes).max(1)).zip(y_of_fours) {
                let mut sums = [[_mm256_setzero_ps(); 2]; 4];
                let whole = x.len() / 32 * 32;
                for i in (0..whole).step_by(32) {
                    for r in 0..4 {
                        ahead.fetch(rows.as_ptr().wrapping_add((r * x.len() + i) * $bytes), 32 * $bytes);
                    }
                    for i in [i, i + 16] {
                        // SAFETY: values i .. i + 16 of each row and of x.
                        unsafe {
                            let values = [0, 8].map(|at| _mm256_loadu_ps(x.as_ptr().add(i + at)));
                            for (r, sums) in sums.iter_mut().enumerate() {
                                let w = rows.as_ptr().add((r * x.len() + i) * $bytes);
                                sums[0] = _mm256_fmadd_ps($load(w), values[0], sums[0]);
                                sums[1] = _mm256_fmadd_ps($load(w.add(8 * $bytes)), values[1], sums[1]);
                            }
                        }
                    }
                }
                for ((row, y), sums) in rows.chunks_exact(x.len() * $bytes).zip(y).zip(sums) {
                    let rest = row.as_chunks::<$bytes>().0[whole..].iter().zip(&x[whole..]);
                    let rest: f32 = rest.map(|(w, x)| $one(*w) * x).sum();
                    *y = total(_mm256_add_ps(sums[0], sums[1])) + rest;
                }
            }
            for (row, y) in weights.chunks_exact((x.len() * $bytes).max(1)).zip(y) {
                let mut sums = [_mm256_setzero_ps(); 4];
                let whole = x.len() / 32 * 32;
                for i in (0..whole).step_by(32) {
                    ahead.fetch(row.as_ptr().wrapping_add(i * $bytes), 32 * $bytes);
                    for (k, sum) in sums.iter_mut().enumerate() {
                        // SAFETY: values i + 8 k .. i + 8 k + 8 of the row and of x.
                        unsafe {
                            let w = $load(row.as_ptr().add((i + 8 * k) * $bytes));
                            *sum = _mm256_fmadd_ps(w, _mm256_loadu_ps(x.as_ptr().add(i + 8 * k)), *sum);
                        }
                    }
                }
                let rest = row.as_chunks::<$bytes>().0[whole..].iter().zip(&x[whole..]);
                let rest: f32 = rest.map(|(w, x)| $one(*w) * x).sum();
                let (a, b) = (_mm256_add_ps(sums[0], sums[1]), _mm256_add_ps(sums[2], sums[3]));
                *y = total(_mm256_add_ps(a, b)) + rest;
            }
        }
    )* } };
}

rows! {
    f32: load_f32, 4 bytes, f32::from_le_bytes;
    f16: load_f16, 2 bytes, |w| f16_to_f32(u16::from_le_bytes(w));
    bf16: load_bf16, 2 bytes, |w| bf16_to_f32(u16::from_le_bytes(w));
}
