//! Softmax and related operations over one row.

use super::{exp, join, larger};
use crate::simd::{Level, Op, dispatch};

/// `x = e^(x - max x) / sum`, in place. An empty row stays empty; a row of only -inf becomes NaN.
pub fn softmax(level: Level, x: &mut [f32]) {
    struct Softmax<'a>(&'a mut [f32]);
    impl Op for Softmax<'_> {
        type Output = ();
        #[inline(always)]
        fn call(self) {
            let largest = max(self.0);
            let mut lanes = [0f32; 16];
            let mut chunks = self.0.chunks_exact_mut(16);
            for chunk in &mut chunks {
                for i in 0..16 {
                    chunk[i] = exp(chunk[i] - largest);
                    lanes[i] += chunk[i];
                }
            }
            let mut sum = 0f32;
            for x in chunks.into_remainder() {
                *x = exp(*x - largest);
                sum += *x;
            }
            let inverse = 1.0 / (sum + join(lanes, |a, b| a + b));
            for x in self.0.iter_mut() {
                *x *= inverse;
            }
        }
    }
    dispatch(level, Softmax(x));
}

/// Natural logarithm of the softmax of `x` at `index`, in f64: what perplexity sums.
///
/// # Panics
/// If `index` is outside.
pub fn log_softmax_at(x: &[f32], index: usize) -> f64 {
    let largest = max(x);
    let sum: f64 = x.iter().map(|&x| f64::from(x - largest).exp()).sum();
    f64::from(x[index] - largest) - sum.ln()
}

/// Index of the largest value, the first of equals; `None` for an empty row or one of only NaN.
pub fn argmax(x: &[f32]) -> Option<usize> {
    let mut best: Option<(usize, f32)> = None;
    for (i, &v) in x.iter().enumerate() {
        if !v.is_nan() && best.is_none_or(|(_, b)| v > b) {
            best = Some((i, v));
        }
    }
    best.map(|(i, _)| i)
}

#[inline(always)]
fn max(x: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; 16];
    let chunks = x.chunks_exact(16);
    let rest = chunks.remainder().iter().copied().fold(f32::NEG_INFINITY, f32::max);
    for chunk in chunks {
        for i in 0..16 {
            lanes[i] = larger(chunk[i], lanes[i]);
        }
    }
    join(lanes, larger).max(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn softmax_follows_its_formula() {
        for (level, len) in Level::available().flat_map(|level| [1, 5, 16, 100].map(|len| (level, len))) {
            let x: Vec<f32> = (0..len).map(|i| (i * 37 % 23) as f32 - 200.0).collect();
            let mut y = x.clone();
            softmax(level, &mut y);
            let total: f64 = x.iter().map(|&x| f64::from(x + 200.0).exp()).sum();
            for (i, &y) in y.iter().enumerate() {
                let p = f64::from(x[i] + 200.0).exp() / total;
                assert!((f64::from(y) - p).abs() < 1e-6);
                assert!((log_softmax_at(&x, i) - p.ln()).abs() < 1e-9);
            }
        }
    }

    #[test]
    fn argmax_takes_the_first_of_equals() {
        assert_eq!(argmax(&[]), None);
        assert_eq!(argmax(&[f32::NAN]), None);
        assert_eq!(argmax(&[1.0, f32::NAN, 3.0, 3.0]), Some(2));
        assert_eq!(argmax(&[f32::NEG_INFINITY, f32::NEG_INFINITY]), Some(0));
    }
}
