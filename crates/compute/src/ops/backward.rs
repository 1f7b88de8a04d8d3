//! Gradients through norms and activation functions: from those of the outputs to those of the inputs.

use super::exp;
use super::gated::{Activation, erf, gelu, gelu_tanh, relu_squared, silu};
use super::gated::{clamped_swish, clamped_swish_slope, clamped_up, clamped_up_slope};
use crate::simd::{Level, Op, dispatch};

/// Derivative of [`silu`]: `s + x s (1 - s)` with `s = 1 / (1 + e^-x)`.
#[inline(always)]
fn silu_slope(x: f32) -> f32 {
    let s = 1.0 / (1.0 + exp(-x));
    s + x * s * (1.0 - s)
}

/// Derivative of [`gelu`]: `Φ(x) + x φ(x)`.
#[inline(always)]
fn gelu_slope(x: f32) -> f32 {
    const DENSITY: f32 = 0.398_942_3; // 1 / sqrt(2 pi)
    0.5 * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2)) + x * DENSITY * exp(-0.5 * x * x)
}

/// Derivative of [`gelu_tanh`]: with `s = 1 / (1 + e^-2z)`, `s + x s (1 - s) 2 z'`.
#[inline(always)]
fn gelu_tanh_slope(x: f32) -> f32 {
    const ROOT: f32 = 0.797_884_6; // sqrt(2 / pi)
    let z = ROOT * (x + 0.044_715 * x * x * x);
    let s = 1.0 / (1.0 + exp(-2.0 * z));
    s + x * s * (1.0 - s) * 2.0 * ROOT * (1.0 + 0.134_145 * x * x)
}

#[inline(always)]
fn step(x: f32) -> f32 {
    if x > 0.0 { 1.0 } else { 0.0 }
}

/// `x = d slope(x)`.
#[inline(always)]
fn map(x: &mut [f32], d: &[f32], slope: impl Fn(f32) -> f32) {
    x.iter_mut().zip(d).for_each(|(x, d)| *x = d * slope(*x));
}

/// `(gate, up) = (d up slope(gate), d f(gate))`.
#[inline(always)]
fn map_mul(gate: &mut [f32], up: &mut [f32], d: &[f32], f: impl Fn(f32) -> f32, slope: impl Fn(f32) -> f32) {
    for ((gate, up), d) in gate.iter_mut().zip(up).zip(d) {
        (*gate, *up) = (d * *up * slope(*gate), d * f(*gate));
    }
}

/// [`activate`](super::activate) backward: `x`, what the function was given, becomes its gradient; `d` is the gradient of
/// what it returned.
///
/// # Panics
/// If the lengths differ.
pub fn activate_backward(level: Level, activation: Activation, x: &mut [f32], d: &[f32]) {
    struct Backward<'a>(Activation, &'a mut [f32], &'a [f32]);
    impl Op for Backward<'_> {
        type Output = ();
        #[inline(always)]
        fn call(self) {
            let Self(activation, x, d) = self;
            match activation {
                Activation::Silu => map(x, d, silu_slope),
                Activation::Gelu => map(x, d, gelu_slope),
                Activation::GeluTanh => map(x, d, gelu_tanh_slope),
                Activation::Relu => map(x, d, step),
                Activation::ReluSquared => map(x, d, |x| 2.0 * x.max(0.0)),
                Activation::ClampedSwiglu => map(x, d, clamped_swish_slope),
            }
        }
    }
    assert_eq!(x.len(), d.len(), "activate_backward: lengths");
    dispatch(level, Backward(activation, x, d));
}

/// [`activate_mul`](super::activate_mul) backward: `gate` and `up`, what the function was given, become their gradients;
/// `d` is the gradient of what it returned.
///
/// # Panics
/// If the lengths differ.
pub fn activate_mul_backward(
    level: Level,
    activation: Activation,
    gate: &mut [f32],
    up: &mut [f32],
    d: &[f32],
) {
    struct Backward<'a>(Activation, &'a mut [f32], &'a mut [f32], &'a [f32]);
    impl Op for Backward<'_> {
        type Output = ();
        #[inline(always)]
        fn call(self) {
            let Self(activation, gate, up, d) = self;
            match activation {
                Activation::Silu => map_mul(gate, up, d, silu, silu_slope),
                Activation::Gelu => map_mul(gate, up, d, gelu, gelu_slope),
                Activation::GeluTanh => map_mul(gate, up, d, gelu_tanh, gelu_tanh_slope),
                Activation::Relu => map_mul(gate, up, d, |x| x.max(0.0), step),
                Activation::ReluSquared => map_mul(gate, up, d, relu_squared, |x| 2.0 * x.max(0.0)),
                Activation::ClampedSwiglu => {
                    for ((gate, up), d) in gate.iter_mut().zip(up).zip(d) {
                        let by_gate = clamped_up(*up) * clamped_swish_slope(*gate);
                        (*gate, *up) = (d * by_gate, d * clamped_swish(*gate) * clamped_up_slope(*up));
                    }
                }
            }
        }
    }
    assert!(gate.len() == up.len() && gate.len() == d.len(), "activate_mul_backward: lengths");
    dispatch(level, Backward(activation, gate, up, d));
}

/// [`rms_norm`](super::rms_norm) backward: `d`, the gradient of its outputs, becomes that of its inputs `x`.
///
/// With `r = 1 / sqrt(mean(x^2) + eps)` and `g = d weight`: `r g - x r^3 mean(g x)`.
///
/// # Panics
/// If `x` and `d` are not the same whole number of rows of `weight.len()` values.
pub fn rms_norm_backward(x: &[f32], weight: &[f32], eps: f32, d: &mut [f32]) {
    check(x, weight, d);
    for (x, d) in x.chunks_exact(weight.len()).zip(d.chunks_exact_mut(weight.len())) {
        let count = x.len() as f64;
        let square = x.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>() / count;
        let r = 1.0 / (square + f64::from(eps)).sqrt();
        let along = weighted(x, weight, d).sum::<f64>() / count * r * r * r;
        let (r, along) = (r as f32, along as f32);
        for ((d, x), w) in d.iter_mut().zip(x).zip(weight) {
            *d = r * *d * w - x * along;
        }
    }
}

/// [`layer_norm`](super::layer_norm) backward: `d`, the gradient of its outputs, becomes that of its inputs `x`.
///
/// With `r = 1 / sqrt(variance + eps)`, `y = (x - mean) r` and `g = d weight`: `r (g - mean(g) - y mean(g y))`.
///
/// # Panics
/// As [`rms_norm_backward`].
pub fn layer_norm_backward(x: &[f32], weight: &[f32], eps: f32, d: &mut [f32]) {
    check(x, weight, d);
    for (x, d) in x.chunks_exact(weight.len()).zip(d.chunks_exact_mut(weight.len())) {
        let count = x.len() as f64;
        let mean = x.iter().map(|&x| f64::from(x)).sum::<f64>() / count;
        let variance = x.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / count;
        let r = 1.0 / (variance + f64::from(eps)).sqrt();
        let whole = d.iter().zip(weight).map(|(&d, &w)| f64::from(d) * f64::from(w)).sum::<f64>() / count;
        let along = (weighted(x, weight, d).sum::<f64>() / count - whole * mean) * r * r;
        for ((d, x), w) in d.iter_mut().zip(x).zip(weight) {
            *d = (r * (f64::from(*d * w) - whole - (f64::from(*x) - mean) * along)) as f32;
        }
    }
}

/// `d weight x`, number by number.
fn weighted<'a>(x: &'a [f32], weight: &'a [f32], d: &'a [f32]) -> impl Iterator<Item = f64> + 'a {
    d.iter().zip(weight).zip(x).map(|((&d, &w), &x)| f64::from(d) * f64::from(w) * f64::from(x))
}

fn check(x: &[f32], weight: &[f32], d: &[f32]) {
    assert!(!weight.is_empty() && x.len().is_multiple_of(weight.len()), "norm backward: whole rows");
    assert_eq!(x.len(), d.len(), "norm backward: lengths");
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Central difference of a function of f64.
    fn slope(f: impl Fn(f64) -> f64, x: f64) -> f64 {
        (f(x + 1e-5) - f(x - 1e-5)) / 2e-5
    }

    /// The error function by its series, good to 1e-12 below 5.
    fn erf64(x: f64) -> f64 {
        let (mut term, mut sum) = (x, x);
        for n in 1..200 {
            term *= -x * x / f64::from(n);
            sum += term / (2.0 * f64::from(n) + 1.0);
        }
        sum * std::f64::consts::FRAC_2_SQRT_PI
    }

    fn exact(activation: Activation, x: f64) -> f64 {
        match activation {
            Activation::Silu => x / (1.0 + (-x).exp()),
            Activation::Gelu => 0.5 * x * (1.0 + erf64(x / 2f64.sqrt())),
            Activation::GeluTanh => {
                let z = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
                0.5 * x * (1.0 + z.tanh())
            }
            Activation::Relu => x.max(0.0),
            Activation::ReluSquared => x.max(0.0).powi(2),
            Activation::ClampedSwiglu => x.min(7.0) / (1.0 + (-1.702 * x.min(7.0)).exp()),
        }
    }

    #[test]
    fn the_clamped_activation_has_the_slopes_of_both_factors() {
        let activation = Activation::ClampedSwiglu;
        let x: Vec<f32> = (-500..500).map(|i| (i as f32 + 0.5) / 50.0).collect();
        let up: Vec<f32> = x.iter().map(|x| 9.0 * (0.7 * x).cos()).collect();
        let d: Vec<f32> = x.iter().map(|x| (3.0 * x).sin()).collect();
        for level in Level::available() {
            let (mut plain, mut gate, mut by) = (x.clone(), x.clone(), up.clone());
            activate_backward(level, activation, &mut plain, &d);
            activate_mul_backward(level, activation, &mut gate, &mut by, &d);
            for i in 0..x.len() {
                let (x, u, d) = (f64::from(x[i]), f64::from(up[i]), f64::from(d[i]));
                let second = |u: f64| u.clamp(-7.0, 7.0) + 1.0;
                let expected = d * slope(|x| exact(activation, x), x);
                assert!((f64::from(plain[i]) - expected).abs() < 4e-6, "{x}: {}", plain[i]);
                assert!((f64::from(gate[i]) - expected * second(u)).abs() < 2e-5, "{x}");
                let expected = d * exact(activation, x) * slope(second, u);
                assert!((f64::from(by[i]) - expected).abs() < 1e-5, "{x}");
            }
        }
    }

    #[test]
    fn activations_have_the_slopes_of_their_formulas() {
        let x: Vec<f32> = (-500..500).map(|i| (i as f32 + 0.5) / 100.0).collect();
        let up: Vec<f32> = x.iter().map(|x| x.cos()).collect();
        let d: Vec<f32> = x.iter().map(|x| (3.0 * x).sin()).collect();
        let all = [
            Activation::Silu,
            Activation::Gelu,
            Activation::GeluTanh,
            Activation::Relu,
            Activation::ReluSquared,
        ];
        for (level, activation) in Level::available().flat_map(|level| all.map(|a| (level, a))) {
            let (mut plain, mut gate, mut by) = (x.clone(), x.clone(), up.clone());
            activate_backward(level, activation, &mut plain, &d);
            activate_mul_backward(level, activation, &mut gate, &mut by, &d);
            for i in 0..x.len() {
                let (x, u, d) = (f64::from(x[i]), f64::from(up[i]), f64::from(d[i]));
                let expected = d * slope(|x| exact(activation, x), x);
                assert!((f64::from(plain[i]) - expected).abs() < 2e-6, "{activation:?} {x}: {}", plain[i]);
                assert!((f64::from(gate[i]) - expected * u).abs() < 2e-6, "{activation:?} {x}");
                assert!((f64::from(by[i]) - d * exact(activation, x)).abs() < 4e-6, "{activation:?} {x}");
            }
        }
    }

    #[test]
    fn norms_have_the_gradients_of_their_formulas() {
        let x: Vec<f32> = (0..75).map(|i| ((i * 31 % 17) as f32 - 5.5) / 3.0).collect();
        let w: Vec<f32> = (0..25).map(|i| 1.0 + i as f32 / 50.0).collect();
        let d: Vec<f32> = (0..75).map(|i| ((i * 13 % 29) as f32 - 14.0) / 10.0).collect();
        let (mut rms, mut layer) = (d.clone(), d.clone());
        rms_norm_backward(&x, &w, 1e-2, &mut rms);
        layer_norm_backward(&x, &w, 1e-2, &mut layer);
        // The sum of d * norm(x) over one row, as a function of one of its numbers.
        let value = |row: usize, at: usize, x_at: f64, centred: bool| {
            let mut x: Vec<f64> = x[row * 25..][..25].iter().map(|&x| x.into()).collect();
            x[at] = x_at;
            let mean = if centred { x.iter().sum::<f64>() / 25.0 } else { 0.0 };
            let square = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 25.0;
            let scale = 1.0 / (square + f64::from(1e-2f32)).sqrt();
            let term = |i: usize| f64::from(d[row * 25 + i]) * f64::from(w[i]) * (x[i] - mean) * scale;
            (0..25).map(term).sum::<f64>()
        };
        for i in 0..75 {
            for (got, centred) in [(rms[i], false), (layer[i], true)] {
                let expected = slope(|at| value(i / 25, i % 25, at, centred), x[i].into());
                assert!((f64::from(got) - expected).abs() < 1e-6, "{i} {centred}: {got} {expected}");
            }
        }
    }
}
