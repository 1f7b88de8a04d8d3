//! The inner loop: eight columns of one panel with the 48 columns of another, over up to 256 tokens.

use crate::simd::{Level, Op, dispatch};

/// Columns of a packed panel.
pub(super) const PANEL: usize = 48;
/// Rows of the result computed together.
pub(super) const ROWS: usize = 8;

/// `out[r][c] = Σ over tokens t of a[t][r] * b[t][c]`, tokens in order; `a` and `b` are panels (`[token][48]`),
/// `a` begins at the first of its eight columns.
pub(super) fn products(level: Level, a: &[f32], b: &[f32], out: &mut [[f32; PANEL]; ROWS]) {
    let tokens = b.len() / PANEL;
    assert!(tokens > 0 && a.len() >= (tokens - 1) * PANEL + ROWS);
    #[cfg(target_arch = "x86_64")]
    match level.here() {
        // SAFETY: the CPU has the level, lengths are checked above.
        Level::Avx512 | Level::Avx512Vnni | Level::Amx => return unsafe { x86::avx512(tokens, a, b, out) },
        // SAFETY: as above.
        Level::Avx2 | Level::AvxVnni => return unsafe { x86::avx2(tokens, a, b, out) },
        Level::Scalar => {}
    }
    dispatch(level, Plain { a, b, out });
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{PANEL, ROWS};
    use std::arch::x86_64::*;

    /// # Safety
    /// `a` and `b` hold `tokens` tokens.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn avx512(tokens: usize, a: &[f32], b: &[f32], out: &mut [[f32; PANEL]; ROWS]) {
        let mut sums = [[_mm512_setzero_ps(); 3]; ROWS];
        let (mut a, mut b) = (a.as_ptr(), b.as_ptr());
        for _ in 0..tokens {
            // SAFETY: within the token's lines, which exist as the caller guarantees.
            unsafe {
                let wide = [_mm512_loadu_ps(b), _mm512_loadu_ps(b.add(16)), _mm512_loadu_ps(b.add(32))];
                for (r, sums) in sums.iter_mut().enumerate() {
                    let x = _mm512_set1_ps(*a.add(r));
                    for (sum, y) in sums.iter_mut().zip(wide) {
                        *sum = _mm512_fmadd_ps(x, y, *sum);
                    }
                }
            }
            a = a.wrapping_add(PANEL);
            b = b.wrapping_add(PANEL);
        }
        for (sums, out) in sums.iter().zip(out) {
            for (sum, out) in sums.iter().zip(out.as_chunks_mut::<16>().0) {
                // SAFETY: sixteen values.
                unsafe { _mm512_storeu_ps(out.as_mut_ptr(), *sum) };
            }
        }
    }

    /// # Safety
    /// `a` and `b` hold `tokens` tokens.
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn avx2(tokens: usize, a: &[f32], b: &[f32], out: &mut [[f32; PANEL]; ROWS]) {
        // Sixteen registers hold the sums of four rows by three vectors: a quarter of the tile at a time.
        for (row, half) in [(0, 0), (4, 0), (0, 24), (4, 24)] {
            let mut sums = [[_mm256_setzero_ps(); 3]; 4];
            let (mut a, mut b) = (a[row..].as_ptr(), b[half..].as_ptr());
            for _ in 0..tokens {
                // SAFETY: within the token's lines, which exist as the caller guarantees.
                unsafe {
                    let wide = [_mm256_loadu_ps(b), _mm256_loadu_ps(b.add(8)), _mm256_loadu_ps(b.add(16))];
                    for (r, sums) in sums.iter_mut().enumerate() {
                        let x = _mm256_set1_ps(*a.add(r));
                        for (sum, y) in sums.iter_mut().zip(wide) {
                            *sum = _mm256_fmadd_ps(x, y, *sum);
                        }
                    }
                }
                a = a.wrapping_add(PANEL);
                b = b.wrapping_add(PANEL);
            }
            for (sums, out) in sums.iter().zip(&mut out[row..]) {
                for (sum, out) in sums.iter().zip(out[half..].as_chunks_mut::<8>().0) {
                    // SAFETY: eight values.
                    unsafe { _mm256_storeu_ps(out.as_mut_ptr(), *sum) };
                }
            }
        }
    }
}

/// The specification.
struct Plain<'a> {
    a: &'a [f32],
    b: &'a [f32],
    out: &'a mut [[f32; PANEL]; ROWS],
}

impl Op for Plain<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        for (r, out) in self.out.iter_mut().enumerate() {
            let mut sums = [0f32; PANEL];
            for (a, b) in self.a.chunks(PANEL).zip(self.b.chunks_exact(PANEL)) {
                for (sum, b) in sums.iter_mut().zip(b) {
                    *sum += a[r] * b;
                }
            }
            *out = sums;
        }
    }
}
