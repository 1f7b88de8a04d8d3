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

/// Memory to prefetch. Prefetching all of it at once would delay current reads, so a product spreads its lines over
/// the steps of its computation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ahead {
    start: *const u8,
    lines: usize,
}

impl Ahead {
    /// Nothing.
    pub const NONE: Self = Self { start: std::ptr::null(), lines: 0 };

    /// So many bytes from `start` on, which need not exist.
    pub fn new(start: *const u8, bytes: usize) -> Self {
        Self { start, lines: bytes.div_ceil(LINE) }
    }

    /// How many cache lines these are.
    #[cfg(target_arch = "x86_64")]
    pub fn lines(&self) -> usize {
        self.lines
    }

    /// Prefetches the next `N` lines.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub fn ask<const N: usize>(&mut self) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        for _ in 0..N {
            // SAFETY: a prefetch may point anywhere.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(self.start.cast()) };
            self.start = self.start.wrapping_add(LINE);
        }
    }
}

/// Bytes of a cache line.
const LINE: usize = 64;

/// Adds the product to `c`. Every sum runs over `i` in order.
///
/// # Panics
/// If a slice is too short or the width is not a whole number of lanes.
pub fn multiply_add(level: Level, p: Product) {
    multiply_add_and_ask(level, p, Ahead::NONE);
}

/// As [`multiply_add`], with prefetching.
pub(crate) fn multiply_add_and_ask(level: Level, p: Product, ahead: Ahead) {
    if p.rows == 0 || p.width == 0 {
        return;
    }
    assert!(p.width.is_multiple_of(LANES));
    assert!(p.b.len() >= p.depth * p.width);
    assert!(p.a.len() >= (p.rows - 1) * p.a_stride + p.depth);
    assert!(p.c.len() >= (p.rows - 1) * p.c_stride + p.width);
    #[cfg(target_arch = "x86_64")]
    match level.here() {
        // SAFETY: the CPU has the level, lengths are checked above.
        Level::Avx512 | Level::Avx512Vnni | Level::Amx => return unsafe { avx512::multiply_add(p, ahead) },
        // SAFETY: as above.
        Level::Avx2 | Level::AvxVnni => return unsafe { avx2::multiply_add(p, ahead) },
        Level::Scalar => {}
    }
    // Only x86's kernels prefetch.
    let _ = (ahead.start, ahead.lines);
    dispatch(level, Plain(p));
}

/// A module with the kernel for one set of vectors: `$rows` rows by two vectors of sums in registers, or up
/// to two rows by four.
macro_rules! kernel {
    ($name:ident, $features:literal, $vector:ty, $lanes:literal lanes, $rows:literal rows,
     $load:ident, $store:ident, $set:ident, $fma:ident) => {
        #[cfg(target_arch = "x86_64")]
        mod $name {
            use super::{Ahead, Product};
            use std::arch::x86_64::*;

            /// # Safety
            /// Lengths are as `super::multiply_add` checks them.
            #[target_feature(enable = $features)]
            pub(super) unsafe fn multiply_add(p: Product, ahead: Ahead) {
                let pieces = p.rows.div_ceil($rows) * p.width.div_ceil(4 * $lanes);
                // SAFETY: guaranteed by the caller.
                unsafe {
                    match ahead.lines.div_ceil((pieces * p.depth).max(1)) {
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
            unsafe fn asking<const LINES: usize>(p: Product, mut ahead: Ahead) {
                let c = p.c.as_mut_ptr();
                let mut j = 0;
                while j < p.width {
                    // One or two rows have registers for more vectors, and need them: a sum alone would wait
                    // for itself at every step.
                    let vectors = match (p.width - j) / $lanes {
                        4.. if p.rows <= 2 => 4,
                        2.. => 2,
                        _ => 1,
                    };
                    let mut r = 0;
                    while r < p.rows {
                        // SAFETY: rows r.. and columns j.. exist as the match and `vectors` make sure.
                        unsafe {
                            r += match (p.rows - r, vectors) {
                                (2.., 4) => piece::<2, 4, LINES>(&p, c, (r, j), &mut ahead),
                                (_, 4) => piece::<1, 4, LINES>(&p, c, (r, j), &mut ahead),
                                // Two times four rows, not six and two, which would wait for themselves.
                                (8, 2) if $rows == 6 => piece::<4, 2, LINES>(&p, c, (r, j), &mut ahead),
                                ($rows.., 2) => piece::<$rows, 2, LINES>(&p, c, (r, j), &mut ahead),
                                (4.., 2) => piece::<4, 2, LINES>(&p, c, (r, j), &mut ahead),
                                (2.., 2) => piece::<2, 2, LINES>(&p, c, (r, j), &mut ahead),
                                (_, 2) => piece::<1, 2, LINES>(&p, c, (r, j), &mut ahead),
                                ($rows.., _) => piece::<$rows, 1, LINES>(&p, c, (r, j), &mut ahead),
                                (4.., _) => piece::<4, 1, LINES>(&p, c, (r, j), &mut ahead),
                                (2.., _) => piece::<2, 1, LINES>(&p, c, (r, j), &mut ahead),
                                (_, _) => piece::<1, 1, LINES>(&p, c, (r, j), &mut ahead),
                            };
                        }
                    }
                    j += vectors * $lanes;
                }
            }

            /// `R` rows by `V` vectors, prefetching lines of memory at every step; returns `R`.
            ///
            /// # Safety
            /// Rows `r .. r + R` and columns `j .. j + V * lanes` exist; `c` points to `p.c`.
            #[target_feature(enable = $features)]
            #[inline]
            unsafe fn piece<const R: usize, const V: usize, const LINES: usize>(
                p: &Product,
                c: *mut f32,
                (r, j): (usize, usize),
                ahead: &mut Ahead,
            ) -> usize {
                // SAFETY: everything within the rows and columns that the caller guarantees.
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
                    let mut rest = *ahead;
                    for i in 0..p.depth {
                        rest.ask::<LINES>();
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
                    *ahead = rest;
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
kernel!(avx2, "avx2,fma", __m256, 8 lanes, 6 rows,
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
    use crate::testing::{Random, fewer};

    #[test]
    fn every_level_multiplies_and_adds() {
        let mut random = Random::new(2);
        let shapes = [(1, 1, 16), (3, 20, 48), (8, 64, 32), (15, 33, 64), (23, 7, 80)];
        for &(rows, depth, width) in fewer(&shapes, 2) {
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
