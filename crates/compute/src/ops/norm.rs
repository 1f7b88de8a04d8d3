//! RMS norm (Zhang and Sennrich 2019) and layer norm (Ba et al. 2016).

use super::{LANES, join};
use crate::simd::{Level, Op, dispatch};

/// Sum of `f(x)` over a row, in [`LANES`] partial sums.
#[inline(always)]
fn sum(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let chunks = x.chunks_exact(LANES);
    let rest: f32 = chunks.remainder().iter().map(|&x| f(x)).sum();
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] += f(chunk[i]);
        }
    }
    join(lanes, |a, b| a + b) + rest
}

/// `out = x / sqrt(mean(x^2) + eps) * weight` for every row of `weight.len()` values.
///
/// # Panics
/// If `x` and `out` are not the same whole number of rows.
pub fn rms_norm(level: Level, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    struct Rms<'a>(&'a [f32], &'a [f32], f32, &'a mut [f32]);
    impl Op for Rms<'_> {
        type Output = ();
        #[inline(always)]
        fn call(self) {
            let Self(x, weight, eps, out) = self;
            let scale = 1.0 / (sum(x, |x| x * x) / x.len() as f32 + eps).sqrt();
            for ((out, x), w) in out.iter_mut().zip(x).zip(weight) {
                *out = x * scale * w;
            }
        }
    }
    check(x, weight, out);
    for (x, out) in x.chunks_exact(weight.len()).zip(out.chunks_exact_mut(weight.len())) {
        dispatch(level, Rms(x, weight, eps, out));
    }
}

/// `out = (x - mean) / sqrt(variance + eps) * weight + bias` for every row of `weight.len()` values.
///
/// # Panics
/// If `x` and `out` are not the same whole number of rows, or `bias` is given with another length.
pub fn layer_norm(level: Level, x: &[f32], weight: &[f32], bias: Option<&[f32]>, eps: f32, out: &mut [f32]) {
    struct Layer<'a>(&'a [f32], &'a [f32], Option<&'a [f32]>, f32, &'a mut [f32]);
    impl Op for Layer<'_> {
        type Output = ();
        #[inline(always)]
        fn call(self) {
            let Self(x, weight, bias, eps, out) = self;
            let mean = sum(x, |x| x) / x.len() as f32;
            let variance = sum(x, |x| (x - mean) * (x - mean)) / x.len() as f32;
            let scale = 1.0 / (variance + eps).sqrt();
            for ((out, x), w) in out.iter_mut().zip(x).zip(weight) {
                *out = (x - mean) * scale * w;
            }
            if let Some(bias) = bias {
                for (out, b) in out.iter_mut().zip(bias) {
                    *out += b;
                }
            }
        }
    }
    check(x, weight, out);
    assert!(bias.is_none_or(|b| b.len() == weight.len()), "norm: length of the bias");
    for (x, out) in x.chunks_exact(weight.len()).zip(out.chunks_exact_mut(weight.len())) {
        dispatch(level, Layer(x, weight, bias, eps, out));
    }
}

fn check(x: &[f32], weight: &[f32], out: &[f32]) {
    assert!(!weight.is_empty() && x.len().is_multiple_of(weight.len()), "norm: whole rows");
    assert_eq!(x.len(), out.len(), "norm: lengths");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn norms_follow_their_formulas() {
        let x: Vec<f32> = (0..75).map(|i| ((i * 31 % 17) as f32 - 7.5) / 3.0).collect();
        let w: Vec<f32> = (0..25).map(|i| 1.0 + i as f32 / 50.0).collect();
        let b: Vec<f32> = (0..25).map(|i| i as f32 / 10.0).collect();
        let (mut rms, mut layer) = (vec![0.0; 75], vec![0.0; 75]);
        for (level, r) in Level::available().flat_map(|level| (0..3).map(move |r| (level, r))) {
            rms_norm(level, &x, &w, 1e-5, &mut rms);
            layer_norm(level, &x, &w, Some(&b), 1e-5, &mut layer);
            let row: Vec<f64> = x[r * 25..][..25].iter().map(|&x| x.into()).collect();
            let mean = row.iter().sum::<f64>() / 25.0;
            let var = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 25.0;
            let square = row.iter().map(|x| x * x).sum::<f64>() / 25.0;
            for i in 0..25 {
                let (w, b) = (f64::from(w[i]), f64::from(b[i]));
                let expected = row[i] / (square + 1e-5).sqrt() * w;
                assert!((f64::from(rms[r * 25 + i]) - expected).abs() < 1e-6);
                let expected = (row[i] - mean) / (var + 1e-5).sqrt() * w + b;
                assert!((f64::from(layer[r * 25 + i]) - expected).abs() < 1e-6);
            }
        }
    }
}
