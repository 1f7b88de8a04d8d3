//! The f32 building block under float weights and attention: `C += A B` on small, cache-sized pieces.

use crate::simd::{Level, Op, dispatch};

/// Columns of B and C are a whole number of these.
pub(crate) const LANES: usize = 16;

/// A piece of a product: `c[r][j] += sum over i < depth of a[r][i] * b[i][j]`, for `r < rows`, `j < width`.
pub struct Product<'a> {
    /// Rows of A and C.
    pub rows: usize,
    /// Columns of A, rows of B.
    pub depth: usize,
    /// A multiple of 16.
    pub width: usize,
    /// Row r begins at `r * a_stride`.
    pub a: &'a [f32],
    /// At least `depth`.
    pub a_stride: usize,
    /// `[depth][width]`
    pub b: &'a [f32],
    /// Row r begins at `r * c_stride`.
    pub c: &'a mut [f32],
    /// At least `width`.
    pub c_stride: usize,
}

/// Adds the product to `c`. Every sum runs over `i` in order.
///
/// # Panics
/// If a slice is too short or the width is not a whole number of lanes.
pub fn multiply_add(level: Level, p: Product) {
    if p.rows == 0 || p.width == 0 {
        return;
    }
    assert!(p.width.is_multiple_of(LANES));
    assert!(p.b.len() >= p.depth * p.width);
    assert!(p.a.len() >= (p.rows - 1) * p.a_stride + p.depth);
    assert!(p.c.len() >= (p.rows - 1) * p.c_stride + p.width);
    #[cfg(target_arch = "x86_64")]
    match level.min(Level::best()) {
        // SAFETY: the CPU has the level, lengths are checked above.
        Level::Avx512 | Level::Avx512Vnni => return unsafe { avx512::multiply_add(p) },
        // SAFETY: as above.
        Level::Avx2 => return unsafe { avx2::multiply_add(p) },
        Level::Scalar => {}
    }
    dispatch(level, Plain(p));
}

/// A module with the kernel for one set of vectors: `$rows` rows by two vectors of sums in registers.
macro_rules! kernel {
    ($name:ident, $features:literal, $vector:ty, $lanes:literal lanes, $rows:literal rows,
     $load:ident, $store:ident, $set:ident, $fma:ident) => {
        #[cfg(target_arch = "x86_64")]
        mod $name {
            use super::Product;
            use std::arch::x86_64::*;

            /// # Safety
            /// Lengths are as `super::multiply_add` checks them.
            #[target_feature(enable = $features)]
            #[allow(unreachable_patterns)] // where `$rows` is 4
            pub(super) unsafe fn multiply_add(p: Product) {
                let c = p.c.as_mut_ptr();
                for j in (0..p.width).step_by(2 * $lanes) {
                    let wide = p.width - j >= 2 * $lanes;
                    let mut r = 0;
                    while r < p.rows {
                        // SAFETY: rows r.. and columns j.. exist as the match and `wide` make sure.
                        unsafe {
                            r += match (p.rows - r, wide) {
                                ($rows.., true) => piece::<$rows, 2>(&p, c, r, j),
                                (4.., true) => piece::<4, 2>(&p, c, r, j),
                                (2.., true) => piece::<2, 2>(&p, c, r, j),
                                (_, true) => piece::<1, 2>(&p, c, r, j),
                                ($rows.., false) => piece::<$rows, 1>(&p, c, r, j),
                                (4.., false) => piece::<4, 1>(&p, c, r, j),
                                (2.., false) => piece::<2, 1>(&p, c, r, j),
                                (_, false) => piece::<1, 1>(&p, c, r, j),
                            };
                        }
                    }
                }
            }

            /// `R` rows by `V` vectors; returns `R`.
            ///
            /// # Safety
            /// Rows `r .. r + R` and columns `j .. j + V * lanes` exist; `c` points to `p.c`.
            #[target_feature(enable = $features)]
            #[inline]
            unsafe fn piece<const R: usize, const V: usize>(
                p: &Product,
                c: *mut f32,
                r: usize,
                j: usize,
            ) -> usize {
                // SAFETY: everything within the rows and columns promised.
                unsafe {
                    let c = c.add(r * p.c_stride + j);
                    let a = p.a.as_ptr().add(r * p.a_stride);
                    let b = p.b.as_ptr().add(j);
                    let mut sums: [[$vector; V]; R] = [[$set(0.0); V]; R];
                    for (r, sums) in sums.iter_mut().enumerate() {
                        for (v, sum) in sums.iter_mut().enumerate() {
                            *sum = $load(c.add(r * p.c_stride + v * $lanes));
                        }
                    }
                    for i in 0..p.depth {
                        let mut weights: [$vector; V] = [$set(0.0); V];
                        for (v, w) in weights.iter_mut().enumerate() {
                            *w = $load(b.add(i * p.width + v * $lanes));
                        }
                        for (r, sums) in sums.iter_mut().enumerate() {
                            let a = $set(*a.add(r * p.a_stride + i));
                            for (sum, w) in sums.iter_mut().zip(weights) {
                                *sum = $fma(a, w, *sum);
                            }
                        }
                    }
                    for (r, sums) in sums.iter().enumerate() {
                        for (v, sum) in sums.iter().enumerate() {
                            $store(c.add(r * p.c_stride + v * $lanes), *sum);
                        }
                    }
                }
                R
            }
        }
    };
}

kernel!(avx512, "avx2,fma,avx512f", __m512, 16 lanes, 8 rows,
    _mm512_loadu_ps, _mm512_storeu_ps, _mm512_set1_ps, _mm512_fmadd_ps);
kernel!(avx2, "avx2,fma", __m256, 8 lanes, 4 rows,
    _mm256_loadu_ps, _mm256_storeu_ps, _mm256_set1_ps, _mm256_fmadd_ps);

struct Plain<'a>(Product<'a>);

impl Op for Plain<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let p = self.0;
        for r in 0..p.rows {
            let a = &p.a[r * p.a_stride..][..p.depth];
            let c = &mut p.c[r * p.c_stride..][..p.width];
            for (j, c) in c.chunks_exact_mut(LANES).enumerate() {
                let mut sum = [0f32; LANES];
                sum.copy_from_slice(c);
                for (a, b) in a.iter().zip(p.b.chunks_exact(p.width)) {
                    let b = &b[j * LANES..][..LANES];
                    for l in 0..LANES {
                        sum[l] += a * b[l];
                    }
                }
                c.copy_from_slice(&sum);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Random;

    #[test]
    fn every_level_multiplies_and_adds() {
        let mut random = Random::new(2);
        for (rows, depth, width) in [(1, 1, 16), (3, 20, 48), (8, 64, 32), (15, 33, 64), (23, 7, 80)] {
            let mut noise = |n: usize| -> Vec<f32> { (0..n).map(|_| random.float()).collect() };
            let (a_stride, c_stride) = (depth + 3, width + 5);
            let (a, b, c) = (noise(rows * a_stride), noise(depth * width), noise(rows * c_stride));
            for level in Level::available() {
                let mut out = c.clone();
                let p = Product { rows, depth, width, a: &a, a_stride, b: &b, c: &mut out, c_stride };
                multiply_add(level, p);
                for (i, (&y, &before)) in out.iter().zip(&c).enumerate() {
                    let (r, j) = (i / c_stride, i % c_stride);
                    let terms = |d: usize| f64::from(a[r * a_stride + d]) * f64::from(b[d * width + j]);
                    let sum = if j < width { (0..depth).map(terms).sum::<f64>() } else { 0.0 };
                    let bound = if j < width { 1e-6 * (depth as f64 + 1.0) } else { 0.0 };
                    assert!((f64::from(y) - f64::from(before) - sum).abs() <= bound, "{level:?} {r} {j}");
                }
            }
        }
    }
}
