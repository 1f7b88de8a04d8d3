//! Activation functions, gated or plain, and the soft cap.

use super::exp;
use crate::simd::{Level, Op, dispatch};

/// Activation function of a feed-forward network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x / (1 + e^-x)`.
    Silu,
    /// `x Φ(x)`, by the error function.
    Gelu,
    /// GELU's tanh approximation (`gelu_new`, `gelu_pytorch_tanh`).
    GeluTanh,
    /// `max(x, 0)`.
    Relu,
    /// `max(x, 0)²` (So et al., arXiv 2109.08668).
    ReluSquared,
    /// Of a gate and what it multiplies: `min(x, 7) / (1 + e^(-1.702 min(x, 7))) (clamp(y, -7, 7) + 1)` (gpt-oss). Of one
    /// vector its first factor.
    ClampedSwiglu,
}

/// Where [`Activation::ClampedSwiglu`] cuts values off, and how steep its sigmoid is.
const LIMIT: f32 = 7.0;
const STEEPNESS: f32 = 1.702;

#[inline(always)]
pub(super) fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

/// `0.5 x (1 + tanh z)`, and `0.5 (1 + tanh z) = 1 / (1 + e^-2z)`.
#[inline(always)]
pub(super) fn gelu_tanh(x: f32) -> f32 {
    let z = 0.797_884_6 * (x + 0.044_715 * x * x * x);
    x / (1.0 + exp(-2.0 * z))
}

#[inline(always)]
pub(super) fn gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2))
}

/// The error function to 3e-7: below 1 its Taylor series, above it Abramowitz and Stegun 7.1.26 (their
/// coefficients), both in steps without branches.
#[inline(always)]
pub(super) fn erf(x: f32) -> f32 {
    let a = x.abs();
    let square = x * x;
    // x (2 / sqrt(pi)) (1 - x^2/3 + x^4/10 - x^6/42 + ...)
    let mut p = -1.0 / 76_204_800.0 * 5.0;
    p = p * square + 1.0 / 685_440.0;
    p = p * square - 1.0 / 75_600.0;
    p = p * square + 1.0 / 9_360.0;
    p = p * square - 1.0 / 1_320.0;
    p = p * square + 1.0 / 216.0;
    p = p * square - 1.0 / 42.0;
    p = p * square + 0.1;
    p = p * square - 1.0 / 3.0;
    p = p * square + 1.0;
    let near = a * p * std::f32::consts::FRAC_2_SQRT_PI;
    let t = 1.0 / (1.0 + 0.327_591_1 * a);
    let poly = ((((1.061_405_4 * t - 1.453_152) * t + 1.421_413_7) * t - 0.284_496_74) * t + 0.254_829_6) * t;
    let far = 1.0 - poly * exp(-square);
    (if a < 1.0 { near } else { far }).copysign(x)
}

#[inline(always)]
pub(super) fn relu_squared(x: f32) -> f32 {
    let x = x.max(0.0);
    x * x
}

/// The first factor of [`Activation::ClampedSwiglu`].
#[inline(always)]
pub(super) fn clamped_swish(x: f32) -> f32 {
    let x = if x > LIMIT { LIMIT } else { x };
    x / (1.0 + exp(-STEEPNESS * x))
}

/// Its derivative: with `s = 1 / (1 + e^(-1.702 x))`, `s + 1.702 x s (1 - s)`, zero beyond the limit.
#[inline(always)]
pub(super) fn clamped_swish_slope(x: f32) -> f32 {
    let s = 1.0 / (1.0 + exp(-STEEPNESS * x));
    if x > LIMIT { 0.0 } else { s + STEEPNESS * x * s * (1.0 - s) }
}

/// The second factor of [`Activation::ClampedSwiglu`].
#[inline(always)]
pub(super) fn clamped_up(x: f32) -> f32 {
    x.clamp(-LIMIT, LIMIT) + 1.0
}

/// Its derivative.
#[inline(always)]
pub(super) fn clamped_up_slope(x: f32) -> f32 {
    if x.abs() > LIMIT { 0.0 } else { 1.0 }
}

/// `x = f(x)`.
#[inline(always)]
fn map(x: &mut [f32], f: impl Fn(f32) -> f32) {
    x.iter_mut().for_each(|x| *x = f(*x));
}

/// `gate = f(gate) * up`.
#[inline(always)]
fn map_mul(gate: &mut [f32], up: &[f32], f: impl Fn(f32) -> f32) {
    gate.iter_mut().zip(up).for_each(|(g, u)| *g = f(*g) * u);
}

/// `x = act(x)`, element by element.
pub fn activate(level: Level, activation: Activation, x: &mut [f32]) {
    struct Activate<'a>(Activation, &'a mut [f32]);
    impl Op for Activate<'_> {
        type Output = ();
        #[inline(always)]
        fn call(self) {
            match self.0 {
                Activation::Silu => map(self.1, silu),
                Activation::Gelu => map(self.1, gelu),
                Activation::GeluTanh => map(self.1, gelu_tanh),
                Activation::Relu => map(self.1, |x| x.max(0.0)),
                Activation::ReluSquared => map(self.1, relu_squared),
                Activation::ClampedSwiglu => map(self.1, clamped_swish),
            }
        }
    }
    dispatch(level, Activate(activation, x));
}

/// A gated network's middle: `gate = act(gate) * up`, element by element.
///
/// # Panics
/// If the lengths differ.
pub fn activate_mul(level: Level, activation: Activation, gate: &mut [f32], up: &[f32]) {
    struct ActivateMul<'a>(Activation, &'a mut [f32], &'a [f32]);
    impl Op for ActivateMul<'_> {
        type Output = ();
        #[inline(always)]
        fn call(self) {
            match self.0 {
                Activation::Silu => map_mul(self.1, self.2, silu),
                Activation::Gelu => map_mul(self.1, self.2, gelu),
                Activation::GeluTanh => map_mul(self.1, self.2, gelu_tanh),
                Activation::Relu => map_mul(self.1, self.2, |x| x.max(0.0)),
                Activation::ReluSquared => map_mul(self.1, self.2, relu_squared),
                Activation::ClampedSwiglu => {
                    let pairs = self.1.iter_mut().zip(self.2);
                    pairs.for_each(|(g, u)| *g = clamped_swish(*g) * clamped_up(*u));
                }
            }
        }
    }
    assert_eq!(gate.len(), up.len(), "activate_mul: lengths");
    dispatch(level, ActivateMul(activation, gate, up));
}

/// `c tanh(x / c)` for one value.
#[inline(always)]
pub(crate) fn capped(x: f32, cap: f32) -> f32 {
    // tanh z = 1 - 2 / (1 + e^2z)
    cap * (1.0 - 2.0 / (1.0 + exp(2.0 * x / cap)))
}

/// `x = cap * tanh(x / cap)`: keeps values within `-cap..cap` (Gemma 2).
pub fn softcap(level: Level, x: &mut [f32], cap: f32) {
    struct Softcap<'a>(&'a mut [f32], f32);
    impl Op for Softcap<'_> {
        type Output = ();
        #[inline(always)]
        fn call(self) {
            let cap = self.1;
            map(self.0, |x| capped(x, cap));
        }
    }
    dispatch(level, Softcap(x, cap));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// erf in f64: a series below 2.5, a continued fraction above.
    fn exact_erf(x: f64) -> f64 {
        let a = x.abs();
        let y = if a < 2.5 {
            let (mut term, mut sum) = (a, a);
            for n in 1..100 {
                term *= -a * a / f64::from(n);
                sum += term / (2.0 * f64::from(n) + 1.0);
            }
            sum * std::f64::consts::FRAC_2_SQRT_PI
        } else {
            let mut f = a;
            for k in (1..=40).rev() {
                f = a + f64::from(k) / 2.0 / f;
            }
            1.0 - (-a * a).exp() / f / std::f64::consts::PI.sqrt()
        };
        y.copysign(x)
    }

    fn exact(activation: Activation, x: f64) -> f64 {
        match activation {
            Activation::Silu => x / (1.0 + (-x).exp()),
            Activation::Gelu => 0.5 * x * (1.0 + exact_erf(x / 2f64.sqrt())),
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
    fn activations_follow_their_formulas() {
        let x: Vec<f32> = (-4000..4000).map(|i| i as f32 / 200.0).collect();
        let all = [
            Activation::Silu,
            Activation::Gelu,
            Activation::GeluTanh,
            Activation::Relu,
            Activation::ReluSquared,
            Activation::ClampedSwiglu,
        ];
        for (level, activation) in Level::available().flat_map(|level| all.map(|a| (level, a))) {
            let (mut plain, mut gated) = (x.clone(), x.clone());
            // Beyond the limits of the one that has such.
            let largest = if activation == Activation::ClampedSwiglu { 9.0 } else { 1.0 };
            let up: Vec<f32> = x.iter().map(|x| largest * x.cos()).collect();
            activate(level, activation, &mut plain);
            activate_mul(level, activation, &mut gated, &up);
            // Squares are of up to 400, and rounded twice with what they multiply.
            let rounding = |expected: f64| match activation {
                Activation::ReluSquared => (2.4e-7 * expected.abs()).max(2e-6),
                Activation::Silu | Activation::Gelu | Activation::GeluTanh | Activation::Relu => 2e-6,
                Activation::ClampedSwiglu => 1e-5,
            };
            for (i, &x) in x.iter().enumerate() {
                let expected = exact(activation, x.into());
                let within = rounding(expected);
                assert!((f64::from(plain[i]) - expected).abs() < within, "{activation:?} {x}: {}", plain[i]);
                let up = f64::from(up[i]);
                let expected = match activation {
                    Activation::ClampedSwiglu => expected * (up.clamp(-7.0, 7.0) + 1.0),
                    _ => expected * up,
                };
                let within = rounding(expected);
                assert!((f64::from(gated[i]) - expected).abs() < within, "{activation:?} {x} gated");
            }
        }
    }

    #[test]
    fn erf_matches_known_values() {
        // Abramowitz and Stegun, table 7.1.
        for (x, y) in [(0.5, 0.5204998778), (1.0, 0.8427007929), (2.0, 0.9953222650), (3.0, 0.9999779095)] {
            assert!((exact_erf(x) - y).abs() < 1e-9);
        }
        for i in -6000..6000 {
            let x = i as f32 / 1000.0;
            assert!((f64::from(erf(x)) - exact_erf(x.into())).abs() < 4e-7, "{x}: {}", erf(x));
        }
    }

    #[test]
    fn caps_are_kept() {
        let before: Vec<f32> = (-1000..1000).map(|i| i as f32 / 5.0).collect();
        let capped = Level::available().map(|level| {
            let mut x = before.clone();
            softcap(level, &mut x, 30.0);
            x
        });
        for (x, before) in capped.flatten().zip(before.iter().copied().cycle()) {
            let expected = 30.0 * (f64::from(before) / 30.0).tanh();
            assert!((f64::from(x) - expected).abs() < 1e-5, "{before}: {x} {expected}");
        }
    }
}
