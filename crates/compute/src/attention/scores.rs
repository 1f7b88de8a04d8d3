//! Scores of a few query rows: dot products with keys as they lie, key after key.
//!
//! A vector's worth of keys at a time: each has a register of partial sums, and the registers are joined
//! by a tree of transposing additions (`n` registers of `n` lanes become one of `n` sums in `log n` steps),
//! which costs three instructions a sum. Turning the keys into columns for a matrix product, as
//! many queries do, would cost more than all the rest.

use super::KEYS;
use super::cache::Ahead;
use crate::fgemm::LANES;
use crate::simd::{Level, Op, dispatch};

/// `out[r][at + j] = q[r] . keys[j]` for 16 keys.
pub(super) struct Scores<'a> {
    /// `[rows][width]`
    pub q: &'a [f32],
    /// `[16][width]`
    pub keys: &'a [f32],
    /// A multiple of 16.
    pub width: usize,
    /// `[rows][KEYS]`
    pub out: &'a mut [f32],
    /// Where in a row of `out` the scores go.
    pub at: usize,
    /// What to ask the memory for meanwhile.
    pub ahead: [Ahead; 2],
}

/// Computes the scores.
///
/// # Panics
/// If a slice is too short or the width is not a whole number of lanes.
pub(super) fn scores(level: Level, s: Scores) {
    let rows = s.out.len() / KEYS;
    assert!(s.width > 0 && s.width.is_multiple_of(LANES) && s.at + LANES <= KEYS);
    assert!(s.q.len() >= rows * s.width && s.keys.len() >= LANES * s.width);
    #[cfg(target_arch = "x86_64")]
    match level.min(Level::best()) {
        // SAFETY: the CPU has the level, lengths are checked above.
        Level::Avx512 | Level::Avx512Vnni => return unsafe { avx512::scores(s) },
        // SAFETY: as above.
        Level::Avx2 => return unsafe { avx2::scores(s) },
        Level::Scalar => {}
    }
    dispatch(level, s);
}

/// The definition, in lanes.
impl Op for Scores<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { q, keys, width, out, at, .. } = self;
        for (q, out) in q.chunks_exact(width).zip(out.chunks_exact_mut(KEYS)) {
            for (key, out) in keys.chunks_exact(width).zip(&mut out[at..at + LANES]) {
                let mut lanes = [0f32; LANES];
                for (q, k) in q.as_chunks::<LANES>().0.iter().zip(key.as_chunks::<LANES>().0) {
                    for l in 0..LANES {
                        lanes[l] += q[l] * k[l];
                    }
                }
                *out = crate::ops::join(lanes, |a, b| a + b);
            }
        }
    }
}

/// A module with the kernel for one set of vectors.
macro_rules! kernel {
    ($name:ident, $features:literal, $vector:ty, $lanes:literal lanes, $load:ident, $store:ident, $zero:ident,
     $fma:ident, $join:ident) => {
        #[cfg(target_arch = "x86_64")]
        mod $name {
            use std::arch::x86_64::*;

            use super::super::KEYS;
            use super::{LANES, Scores, $join};

            /// # Safety
            /// Lengths are as `super::scores` checks them.
            #[target_feature(enable = $features)]
            pub(super) unsafe fn scores(s: Scores) {
                let (width, keys, rows) = (s.width, s.keys.as_ptr(), s.out.len() / KEYS);
                for first in (0..LANES).step_by($lanes) {
                    let pairs = s.q.chunks_exact(width).zip(s.out.chunks_exact_mut(KEYS));
                    for (r, (q, out)) in pairs.enumerate() {
                        let part = first / $lanes * rows + r;
                        s.ahead.iter().for_each(|ahead| ahead.ask(part, rows * (LANES / $lanes)));
                        let mut sums: [$vector; $lanes] = [$zero(); $lanes];
                        for i in (0..width).step_by($lanes) {
                            // SAFETY: values i .. i + lanes of the query and of `lanes` keys from `first` on.
                            unsafe {
                                let q = $load(q.as_ptr().add(i));
                                let keys = keys.add(first * width + i);
                                for (k, sum) in sums.iter_mut().enumerate() {
                                    *sum = $fma(q, $load(keys.add(k * width)), *sum);
                                }
                            }
                        }
                        // SAFETY: `out` has 16 scores from `at` on.
                        unsafe { $store(out.as_mut_ptr().add(s.at + first), $join(sums)) };
                    }
                }
            }
        }
    };
}

kernel!(avx512, "avx2,fma,avx512f", __m512, 16 lanes,
    _mm512_loadu_ps, _mm512_storeu_ps, _mm512_setzero_ps, _mm512_fmadd_ps, join16);
kernel!(avx2, "avx2,fma", __m256, 8 lanes,
    _mm256_loadu_ps, _mm256_storeu_ps, _mm256_setzero_ps, _mm256_fmadd_ps, join8);

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// Lane `k` of the result is the sum of the lanes of `x[k]`.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
#[inline]
fn join8(x: [__m256; 8]) -> __m256 {
    // Sums of two lanes each: (x0 x0 x1 x1) in each half.
    let two = |a, b| _mm256_hadd_ps(a, b);
    let (a, b) = (two(two(x[0], x[1]), two(x[2], x[3])), two(two(x[4], x[5]), two(x[6], x[7])));
    // Halves of 0..4 and of 4..8 to their places.
    let low = _mm256_permute2f128_ps::<0x20>(a, b);
    let high = _mm256_permute2f128_ps::<0x31>(a, b);
    _mm256_add_ps(low, high)
}

/// Lane `k` of the result is the sum of the lanes of `x[k]`.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,avx512f")]
#[inline]
fn join16(x: [__m512; 16]) -> __m512 {
    // Within 128-bit lanes: four registers become one whose lane k holds four partial sums of x[k].
    let two = |a, b| _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    let four = |i: usize| {
        let (a, b) = (two(x[i], x[i + 2]), two(x[i + 1], x[i + 3]));
        _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b))
    };
    // Now each 128-bit lane of `four(i)` holds a part of the sums of i .. i + 4. Across lanes:
    let across = |a, b| {
        let (even, odd) = (_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0xdd>(a, b));
        _mm512_add_ps(even, odd)
    };
    across(across(four(0), four(4)), across(four(8), four(12)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Random;

    #[test]
    fn every_level_computes_dot_products() {
        let mut random = Random::new(5);
        for (rows, width, at) in [(1, 16, 48), (3, 48, 16), (8, 64, 0), (2, 256, 32), (5, 80, 0)] {
            let mut noise = |n: usize| -> Vec<f32> { (0..n).map(|_| random.float()).collect() };
            let (q, keys) = (noise(rows * width), noise(LANES * width));
            for level in Level::available() {
                let mut out = vec![7f32; rows * KEYS];
                let ahead = [Ahead::NONE; 2];
                scores(level, Scores { q: &q, keys: &keys, width, out: &mut out, at, ahead });
                for (r, out) in out.chunks_exact(KEYS).enumerate() {
                    let around = out[..at].iter().chain(&out[at + LANES..]);
                    assert!(around.into_iter().all(|&score| score == 7.0));
                    for (j, &score) in out[at..at + LANES].iter().enumerate() {
                        let pairs = q[r * width..][..width].iter().zip(&keys[j * width..][..width]);
                        let exact: f64 = pairs.map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
                        assert!((f64::from(score) - exact).abs() < 1e-6 * width as f64, "{level:?} {r} {j}");
                    }
                }
            }
        }
    }
}
