//! The online softmax: a row's scores block by block.

use std::ops::Range;

use super::KEYS;
use crate::fgemm::LANES;
use crate::ops::{exp, join, larger};
use crate::simd::{Level, Op, dispatch};

/// One row's step: scores outside `seen` become 0, those inside `e^(s - max)`; sum and result so far are
/// scaled to the new maximum.
pub(super) struct Online<'a> {
    /// [`KEYS`] of them.
    pub scores: &'a mut [f32],
    pub seen: Range<usize>,
    /// Largest score, sum of the factors.
    pub sum: &'a mut (f32, f32),
    pub result: &'a mut [f32],
}

/// Takes the step.
///
/// # Panics
/// If there are not [`KEYS`] scores.
pub(super) fn online(level: Level, step: Online) {
    assert!(step.scores.len() == KEYS && step.seen.start <= step.seen.end && step.seen.end <= KEYS);
    step.scores[..step.seen.start].fill(f32::NEG_INFINITY);
    step.scores[step.seen.end..].fill(f32::NEG_INFINITY);
    #[cfg(target_arch = "x86_64")]
    match level.here() {
        // SAFETY: the CPU has the level, lengths are checked above.
        Level::Avx512 | Level::Avx512Vnni | Level::Amx => return unsafe { avx512::online(step) },
        // SAFETY: as above.
        Level::Avx2 | Level::AvxVnni => return unsafe { avx2::online(step) },
        Level::Scalar => {}
    }
    dispatch(level, step);
}

impl Online<'_> {
    /// Changes to a new maximum; false if nothing was seen yet.
    #[inline(always)]
    fn raise(&mut self, largest: f32) -> bool {
        let largest = larger(largest, self.sum.0);
        if largest == f32::NEG_INFINITY {
            self.scores.fill(0.0);
            return false;
        }
        if largest > self.sum.0 {
            let scale = exp(self.sum.0 - largest);
            self.sum.1 *= scale;
            self.result.iter_mut().for_each(|x| *x *= scale);
            self.sum.0 = largest;
        }
        true
    }
}

/// The definition, in lanes.
impl Op for Online<'_> {
    type Output = ();

    #[inline(always)]
    fn call(mut self) {
        let mut lanes = [f32::NEG_INFINITY; LANES];
        for chunk in self.scores.as_chunks::<LANES>().0 {
            for l in 0..LANES {
                lanes[l] = larger(chunk[l], lanes[l]);
            }
        }
        if !self.raise(join(lanes, larger)) {
            return;
        }
        let mut lanes = [0f32; LANES];
        for chunk in self.scores.as_chunks_mut::<LANES>().0 {
            for l in 0..LANES {
                chunk[l] = exp(chunk[l] - self.sum.0);
                lanes[l] += chunk[l];
            }
        }
        self.sum.1 += join(lanes, |a, b| a + b);
    }
}

/// A module with the step for one set of vectors.
macro_rules! kernel {
    ($name:ident, $features:literal, $lanes:literal lanes, $load:ident, $store:ident, $set:ident, $max:ident,
     $add:ident, $sub:ident, $exp:ident, $largest:ident, $sum:ident) => {
        #[cfg(target_arch = "x86_64")]
        mod $name {
            use std::arch::x86_64::*;

            use super::super::KEYS;
            use super::Online;
            use super::x86::*;

            /// # Safety
            /// There are KEYS scores.
            #[target_feature(enable = $features)]
            pub(super) unsafe fn online(mut step: Online) {
                const VECTORS: usize = KEYS / $lanes;
                let scores = step.scores.as_mut_ptr();
                // SAFETY: KEYS scores, a whole number of vectors.
                let at = |v: usize| unsafe { $load(scores.add(v * $lanes)) };
                let mut largest = $set(f32::NEG_INFINITY);
                for v in 0..VECTORS {
                    // Of a NaN and a number the second: there is never one in `largest`.
                    largest = $max(at(v), largest);
                }
                if !step.raise($largest(largest)) {
                    return;
                }
                let largest = $set(step.sum.0);
                let mut sum = $set(0.0);
                for v in 0..VECTORS {
                    let factors = $exp($sub(at(v), largest));
                    // SAFETY: as above.
                    unsafe { $store(scores.add(v * $lanes), factors) };
                    sum = $add(sum, factors);
                }
                step.sum.1 += $sum(sum);
            }
        }
    };
}

kernel!(avx512, "avx2,fma,avx512f", 16 lanes, _mm512_loadu_ps, _mm512_storeu_ps, _mm512_set1_ps, _mm512_max_ps,
    _mm512_add_ps, _mm512_sub_ps, exp16, _mm512_reduce_max_ps, _mm512_reduce_add_ps);
kernel!(avx2, "avx2,fma", 8 lanes, _mm256_loadu_ps, _mm256_storeu_ps, _mm256_set1_ps, _mm256_max_ps,
    _mm256_add_ps, _mm256_sub_ps, exp8, reduce_max8, reduce_add8);

#[cfg(target_arch = "x86_64")]
pub(super) use x86::reduce_max8;

/// e^x for x up to 0, as `ops::exp` computes it but with fused steps: 0 below -87.3, NaN for NaN.
#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;
    use std::f32::consts::LOG2_E;

    /// Where results would be subnormal.
    const LEAST: f32 = -87.3;
    /// ln 2 in two parts.
    const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
    /// 1 / k!, highest first.
    const TAYLOR: [f32; 8] = [1.0 / 5040.0, 1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0];

    #[target_feature(enable = "avx2,fma,avx512f")]
    #[inline]
    pub(super) fn exp16(x: __m512) -> __m512 {
        let set = |x| _mm512_set1_ps(x);
        // Of a NaN and a number the second.
        let clamped = _mm512_max_ps(set(LEAST), x);
        let n = _mm512_roundscale_ps::<0x08>(_mm512_mul_ps(clamped, set(LOG2_E)));
        let r = _mm512_fnmadd_ps(n, set(LN_2[0]), clamped);
        let r = _mm512_fnmadd_ps(n, set(LN_2[1]), r);
        let mut p = set(TAYLOR[0]);
        for factor in &TAYLOR[1..] {
            p = _mm512_fmadd_ps(p, r, set(*factor));
        }
        let seen = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(x, set(LEAST));
        _mm512_maskz_scalef_ps(seen, p, n)
    }

    #[target_feature(enable = "avx2,fma")]
    #[inline]
    pub(super) fn exp8(x: __m256) -> __m256 {
        let set = |x| _mm256_set1_ps(x);
        let clamped = _mm256_max_ps(set(LEAST), x);
        let n = _mm256_round_ps::<0x08>(_mm256_mul_ps(clamped, set(LOG2_E)));
        let r = _mm256_fnmadd_ps(n, set(LN_2[0]), clamped);
        let r = _mm256_fnmadd_ps(n, set(LN_2[1]), r);
        let mut p = set(TAYLOR[0]);
        for factor in &TAYLOR[1..] {
            p = _mm256_fmadd_ps(p, r, set(*factor));
        }
        // 2^n: n is -126 to 0.
        let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
        let power = _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent));
        let seen = _mm256_cmp_ps::<_CMP_NLT_UQ>(x, set(LEAST));
        _mm256_and_ps(_mm256_mul_ps(p, power), seen)
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    pub(in crate::attention) fn reduce_max8(x: __m256) -> f32 {
        let x = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
        let x = _mm_max_ps(x, _mm_movehl_ps(x, x));
        _mm_cvtss_f32(_mm_max_ss(x, _mm_shuffle_ps::<1>(x, x)))
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    pub(super) fn reduce_add8(x: __m256) -> f32 {
        let x = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
        let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
        _mm_cvtss_f32(_mm_add_ss(x, _mm_shuffle_ps::<1>(x, x)))
    }
}

/// What a row's result is multiplied with: one over its sum, after a sink has joined it.
pub(super) fn share((largest, sum): (f32, f32), sink: f32) -> f32 {
    // Whichever is larger, no exponent is positive.
    let most = larger(largest, sink);
    let own = exp(largest - most);
    own / (sum * own + exp(sink - most))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Random;

    #[test]
    fn every_level_takes_the_steps_of_the_definition() {
        let mut random = Random::new(9);
        let blocks: Vec<(Vec<f32>, Range<usize>)> = [0..64, 5..64, 0..0, 30..31, 0..17]
            .into_iter()
            .map(|seen| ((0..KEYS).map(|_| random.float() * 60.0).collect(), seen))
            .collect();
        for level in Level::available() {
            let (mut sum, mut result) = ((f32::NEG_INFINITY, 0.0), vec![1f32; 16]);
            let mut all: Vec<f64> = Vec::new();
            for (block, (scores, seen)) in blocks.iter().enumerate() {
                let mut factors = scores.clone();
                let seen = seen.clone();
                // The result of the first block, to be scaled by those that follow.
                if block == 1 {
                    result.fill(1.0);
                }
                let before = sum.0;
                let scaled = f64::from(result[0]);
                let step =
                    Online { scores: &mut factors, seen: seen.clone(), sum: &mut sum, result: &mut result };
                online(level, step);
                all.extend(scores[seen.clone()].iter().map(|&s| f64::from(s)));
                let largest = all.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                assert_eq!(f64::from(sum.0), largest, "{level:?}");
                if block > 0 {
                    let scale = f64::from(before - sum.0).exp();
                    assert!((f64::from(result[0]) - scaled * scale).abs() < 1e-6, "{level:?}");
                }
                for (i, (&score, &factor)) in scores.iter().zip(&factors).enumerate() {
                    let exact = if seen.contains(&i) { f64::from(score - sum.0).exp() } else { 0.0 };
                    let exact = if exact < 1.3e-38 { 0.0 } else { exact };
                    let error = (f64::from(factor) - exact).abs();
                    assert!(error <= 3e-7 * exact, "{level:?} {score} {factor} {exact}");
                }
                let total: f64 = all.iter().map(|s| (s - largest).exp()).sum();
                assert!((f64::from(sum.1) / total - 1.0).abs() < 1e-5, "{level:?} {sum:?} {total}");
            }
        }
    }

    #[test]
    fn what_is_no_number_shows() {
        for level in Level::available() {
            let (mut sum, mut result) = ((f32::NEG_INFINITY, 0.0), vec![1f32; 16]);
            let mut scores = vec![0.5f32; KEYS];
            scores[3] = f32::NAN;
            let seen = 0..KEYS;
            online(level, Online { scores: &mut scores, seen, sum: &mut sum, result: &mut result });
            assert!(scores[3].is_nan() && sum.1.is_nan() && scores[4] == 1.0, "{level:?}");
        }
    }
}
