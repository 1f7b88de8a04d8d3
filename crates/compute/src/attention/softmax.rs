//! The online softmax: a row's scores block by block.

use std::ops::Range;

use crate::fgemm::LANES;
use crate::ops::{exp, join, larger};
use crate::simd::Op;

/// One row's step of the online softmax: scores outside `seen` become 0, those inside `e^(s - max)`; sum
/// and result so far are scaled to the new maximum.
pub(super) struct Online<'a> {
    pub scores: &'a mut [f32],
    pub seen: Range<usize>,
    pub sum: &'a mut (f32, f32),
    pub result: &'a mut [f32],
}

impl Op for Online<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { scores, seen, sum, result } = self;
        scores[..seen.start].fill(f32::NEG_INFINITY);
        scores[seen.end..].fill(f32::NEG_INFINITY);
        let mut lanes = [f32::NEG_INFINITY; LANES];
        for chunk in scores.chunks_exact(LANES) {
            for l in 0..LANES {
                lanes[l] = larger(chunk[l], lanes[l]);
            }
        }
        let largest = join(lanes, larger).max(sum.0);
        if largest == f32::NEG_INFINITY {
            scores.fill(0.0); // nothing seen yet
            return;
        }
        if largest > sum.0 {
            let scale = exp(sum.0 - largest);
            sum.1 *= scale;
            result.iter_mut().for_each(|x| *x *= scale);
            sum.0 = largest;
        }
        let mut lanes = [0f32; LANES];
        for chunk in scores.chunks_exact_mut(LANES) {
            for l in 0..LANES {
                chunk[l] = exp(chunk[l] - largest);
                lanes[l] += chunk[l];
            }
        }
        sum.1 += join(lanes, |a, b| a + b);
    }
}

/// Joins what a row gathered from two runs of keys: `(maximum, sum)` and the result so far of both; the
/// first becomes that of both together.
pub(super) fn merge(sum: &mut (f32, f32), result: &mut [f32], other: (f32, f32), values: &[f32]) {
    let largest = sum.0.max(other.0);
    if largest == f32::NEG_INFINITY {
        return; // nothing seen by either
    }
    let (own, others) = (exp(sum.0 - largest), exp(other.0 - largest));
    *sum = (largest, sum.1 * own + other.1 * others);
    result.iter_mut().zip(values).for_each(|(x, y)| *x = *x * own + y * others);
}
