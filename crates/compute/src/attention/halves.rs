//! `C += A B` where B are halves in a cache, widened where they are multiplied: a block of keys that few queries see is
//! not worth being stored as f32 first.

use half::f16;

use crate::fgemm::Ahead;
use crate::simd::Level;

/// A product `c[r][j] += sum over i < depth of a[r][i] * b[i][j]`, for `r < rows`, `j < 16 * sixteens`.
pub(super) struct HalfProduct<'a> {
    /// Rows of A and C.
    pub rows: usize,
    /// Columns of A, rows of B.
    pub depth: usize,
    /// Sixteens of columns of B and C.
    pub sixteens: usize,
    /// Row r begins at `r * a_stride`.
    pub a: &'a [f32],
    /// At least `depth`.
    pub a_stride: usize,
    /// Columns `16 j ..` of row i begin at `i * b_row + j * b_sixteen`.
    pub b: &'a [f16],
    /// From a row to the next.
    pub b_row: usize,
    /// From 16 columns to the next.
    pub b_sixteen: usize,
    /// Row r begins at `r * c_stride`.
    pub c: &'a mut [f32],
    /// At least `16 * sixteens`.
    pub c_stride: usize,
}

/// Whether [`multiply_halves`] computes at this level.
pub(super) fn multiplies_halves(level: Level) -> bool {
    level.here() > Level::Scalar
}

/// Adds the product to `c`, with prefetching: every sum runs over `i` in order with fused steps, as in
/// [`crate::fgemm::multiply_add`], to the same bits.
///
/// # Panics
/// If a slice is too short, or the level is the scalar one.
pub(super) fn multiply_halves(level: Level, p: HalfProduct, ahead: Ahead) {
    if p.rows == 0 || p.sixteens == 0 || p.depth == 0 {
        return;
    }
    assert!(p.b.len() >= (p.depth - 1) * p.b_row + (p.sixteens - 1) * p.b_sixteen + 16);
    assert!(p.a.len() >= (p.rows - 1) * p.a_stride + p.depth);
    assert!(p.c.len() >= (p.rows - 1) * p.c_stride + p.sixteens * 16);
    #[cfg(target_arch = "x86_64")]
    match level.here() {
        // SAFETY: the CPU has the level, lengths are checked above.
        Level::Avx512 | Level::Avx512Vnni | Level::Amx => return unsafe { avx512::multiply(p, ahead) },
        // SAFETY: as above.
        Level::Avx2 | Level::AvxVnni => return unsafe { avx2::multiply(p, ahead) },
        Level::Scalar => {}
    }
    let _ = ahead;
    unreachable!("halves are multiplied by vectors alone");
}

/// A module with the kernel for one set of vectors: `$per` of them hold 16 numbers, and `$rows` rows of `$few` sixteens
/// are in registers, or up to two rows of twice as many.
macro_rules! kernel {
    ($name:ident, $features:literal, $vector:ty, $lanes:literal lanes, $per:literal per16, $rows:literal rows,
     $few:literal sixteens, $load:ident, $store:ident, $set:ident, $fma:ident, $widen:expr) => {
        #[cfg(target_arch = "x86_64")]
        mod $name {
            use super::{Ahead, HalfProduct};
            use std::arch::x86_64::*;

            /// # Safety
            /// Lengths are as `super::multiply_halves` checks them.
            #[target_feature(enable = $features)]
            pub(super) unsafe fn multiply(p: HalfProduct, ahead: Ahead) {
                let pieces = p.rows.div_ceil($rows) * p.sixteens.div_ceil($few);
                // SAFETY: guaranteed by the caller.
                unsafe {
                    match ahead.lines().div_ceil(pieces * p.depth) {
                        0 => asking::<0>(p, ahead),
                        1 => asking::<1>(p, ahead),
                        2 => asking::<2>(p, ahead),
                        _ => asking::<4>(p, ahead),
                    }
                }
            }

            /// Prefetches this many lines of memory at every step.
            ///
            /// # Safety
            /// As above.
            #[target_feature(enable = $features)]
            unsafe fn asking<const LINES: usize>(p: HalfProduct, mut ahead: Ahead) {
                const MORE: usize = 2 * $few;
                let c = p.c.as_mut_ptr();
                let mut j = 0;
                while j < p.sixteens {
                    let together = match p.sixteens - j {
                        MORE.. if p.rows <= 2 => MORE,
                        $few.. => $few,
                        _ => 1,
                    };
                    let mut r = 0;
                    while r < p.rows {
                        // SAFETY: rows r.. and sixteens j.. exist as the matches make sure.
                        unsafe {
                            r += match (p.rows - r, together) {
                                (2.., MORE) => piece::<2, MORE, LINES>(&p, c, (r, j), &mut ahead),
                                (_, MORE) => piece::<1, MORE, LINES>(&p, c, (r, j), &mut ahead),
                                // Two times four rows, not six and two, which would wait for themselves.
                                (8, $few) if $rows == 6 => piece::<4, $few, LINES>(&p, c, (r, j), &mut ahead),
                                ($rows.., $few) => piece::<$rows, $few, LINES>(&p, c, (r, j), &mut ahead),
                                (4.., $few) => piece::<4, $few, LINES>(&p, c, (r, j), &mut ahead),
                                (2.., $few) => piece::<2, $few, LINES>(&p, c, (r, j), &mut ahead),
                                (_, $few) => piece::<1, $few, LINES>(&p, c, (r, j), &mut ahead),
                                ($rows.., _) => piece::<$rows, 1, LINES>(&p, c, (r, j), &mut ahead),
                                (4.., _) => piece::<4, 1, LINES>(&p, c, (r, j), &mut ahead),
                                (2.., _) => piece::<2, 1, LINES>(&p, c, (r, j), &mut ahead),
                                (_, _) => piece::<1, 1, LINES>(&p, c, (r, j), &mut ahead),
                            };
                        }
                    }
                    j += together;
                }
            }

            /// `R` rows by `S` sixteens, prefetching lines of memory at every step; returns `R`.
            ///
            /// # Safety
            /// Rows `r .. r + R` and sixteens `j .. j + S` exist; `c` points to `p.c`.
            #[target_feature(enable = $features)]
            #[inline]
            unsafe fn piece<const R: usize, const S: usize, const LINES: usize>(
                p: &HalfProduct,
                c: *mut f32,
                (r, j): (usize, usize),
                ahead: &mut Ahead,
            ) -> usize {
                // SAFETY: everything within the rows and columns that the caller guarantees.
                unsafe {
                    let c = c.add(r * p.c_stride + j * 16);
                    let a = p.a.as_ptr().add(r * p.a_stride);
                    let b = p.b.as_ptr().add(j * p.b_sixteen);
                    let mut sums: [[[$vector; $per]; S]; R] = [[[$set(0.0); $per]; S]; R];
                    for (r, sums) in sums.iter_mut().enumerate() {
                        for (v, sum) in sums.as_flattened_mut().iter_mut().enumerate() {
                            *sum = $load(c.add(r * p.c_stride + v * $lanes));
                        }
                    }
                    let mut rest = *ahead;
                    for i in 0..p.depth {
                        rest.ask::<LINES>();
                        let mut wide: [[$vector; $per]; S] = [[$set(0.0); $per]; S];
                        for (s, wide) in wide.iter_mut().enumerate() {
                            for (v, wide) in wide.iter_mut().enumerate() {
                                *wide = $widen(b.add(i * p.b_row + s * p.b_sixteen + v * $lanes).cast());
                            }
                        }
                        for (r, sums) in sums.iter_mut().enumerate() {
                            let a = $set(*a.add(r * p.a_stride + i));
                            for (sum, wide) in sums.as_flattened_mut().iter_mut().zip(wide.as_flattened()) {
                                *sum = $fma(a, *wide, *sum);
                            }
                        }
                    }
                    *ahead = rest;
                    for (r, sums) in sums.iter().enumerate() {
                        for (v, sum) in sums.as_flattened().iter().enumerate() {
                            $store(c.add(r * p.c_stride + v * $lanes), *sum);
                        }
                    }
                }
                R
            }
        }
    };
}

kernel!(avx512, "avx2,fma,f16c,avx512f", __m512, 16 lanes, 1 per16, 8 rows, 2 sixteens,
    _mm512_loadu_ps, _mm512_storeu_ps, _mm512_set1_ps, _mm512_fmadd_ps,
    |x: *const __m256i| _mm512_cvtph_ps(_mm256_loadu_si256(x)));
kernel!(avx2, "avx2,fma,f16c", __m256, 8 lanes, 2 per16, 6 rows, 1 sixteens,
    _mm256_loadu_ps, _mm256_storeu_ps, _mm256_set1_ps, _mm256_fmadd_ps,
    |x: *const __m128i| _mm256_cvtph_ps(_mm_loadu_si128(x)));

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fgemm::{Product, multiply_add};
    use crate::testing::{Random, fewer};

    #[test]
    fn gives_the_bits_of_the_product_of_floats() {
        let mut random = Random::new(6);
        let shapes = [(1, 1, 1), (2, 20, 5), (3, 64, 2), (8, 64, 4), (13, 33, 3), (23, 7, 5)];
        for &(rows, depth, sixteens) in fewer(&shapes, 2) {
            let mut noise = |n: usize| -> Vec<f32> { (0..n).map(|_| random.float()).collect() };
            let (a_stride, c_stride, width) = (depth + 3, 16 * sixteens + 5, 16 * sixteens);
            let (a, c) = (noise(rows * a_stride), noise(rows * c_stride));
            // Sixteens one after the other, as keys are, and rows further apart than they are long, as values are.
            for (b_row, b_sixteen) in [(16, 16 * depth), (width + 16, 16)] {
                let b: Vec<f16> = noise((depth + 1) * (width + 16)).into_iter().map(f16::from_f32).collect();
                let at = |i: usize, j: usize| b[i * b_row + j / 16 * b_sixteen + j % 16].to_f32();
                let wide: Vec<f32> = (0..depth * width).map(|n| at(n / width, n % width)).collect();
                for level in Level::available().filter(|&level| multiplies_halves(level)) {
                    let (mut out, mut expected) = (c.clone(), c.clone());
                    let (a, b) = (&a[..], &b[..]);
                    let p = HalfProduct {
                        rows,
                        depth,
                        sixteens,
                        a,
                        a_stride,
                        b,
                        b_row,
                        b_sixteen,
                        c: &mut out,
                        c_stride,
                    };
                    multiply_halves(level, p, Ahead::new(b.as_ptr().cast(), 1000));
                    let c = &mut expected;
                    multiply_add(level, Product { rows, depth, width, a, a_stride, b: &wide, c, c_stride });
                    assert_eq!(out, expected, "{level:?} {rows} {depth} {sixteens}");
                }
            }
        }
    }
}
