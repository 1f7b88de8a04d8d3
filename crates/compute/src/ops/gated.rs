//! Activation functions, gated or plain.

use super::exp;
use crate::simd::{Level, Op, dispatch};

/// SwiGLU's middle: `gate = silu(gate) * up` with `silu(x) = x / (1 + e^-x)`.
///
/// # Panics
/// If the lengths differ.
pub fn silu_mul(gate: &mut [f32], up: &[f32]) {
    struct SiluMul<'a>(&'a mut [f32], &'a [f32]);
    impl Op for SiluMul<'_> {
        type Output = ();
        #[inline(always)]
        fn call(self) {
            for (g, u) in self.0.iter_mut().zip(self.1) {
                *g = *g / (1.0 + exp(-*g)) * u;
            }
        }
    }
    assert_eq!(gate.len(), up.len(), "silu_mul: lengths");
    dispatch(Level::detect(), SiluMul(gate, up));
}

/// GELU by its tanh approximation, in place (`gelu_new`, `gelu_pytorch_tanh`).
pub fn gelu_tanh(x: &mut [f32]) {
    struct Gelu<'a>(&'a mut [f32]);
    impl Op for Gelu<'_> {
        type Output = ();
        #[inline(always)]
        fn call(self) {
            for x in self.0.iter_mut() {
                // 0.5 (1 + tanh z) = 1 / (1 + e^-2z)
                let z = 0.797_884_6 * (*x + 0.044_715 * *x * *x * *x);
                *x /= 1.0 + exp(-2.0 * z);
            }
        }
    }
    dispatch(Level::detect(), Gelu(x));
}

/// GELU by the error function, in place (`gelu`), erf to 1e-6 by the Taylor series or, beyond 2, by
/// Abramowitz and Stegun 7.1.28 in f64.
pub fn gelu_erf(x: &mut [f32]) {
    for x in x {
        *x = (f64::from(*x) * 0.5 * (1.0 + erf(f64::from(*x) * std::f64::consts::FRAC_1_SQRT_2))) as f32;
    }
}

/// The error function: a series below 2.5, a continued fraction above.
fn erf(x: f64) -> f64 {
    let a = x.abs();
    let y = if a < 2.5 {
        let (mut term, mut sum, mut n) = (a, a, 0.0);
        while term.abs() > 1e-17 * sum {
            n += 1.0;
            term *= -a * a / n;
            sum += term / (2.0 * n + 1.0);
            if n > 100.0 {
                break;
            }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silu_and_gelu_follow_their_formulas() {
        let x: Vec<f32> = (-400..400).map(|i| i as f32 / 20.0).collect();
        let up: Vec<f32> = x.iter().map(|x| x.cos()).collect();
        let (mut silu, mut tanh) = (x.clone(), x.clone());
        silu_mul(&mut silu, &up);
        gelu_tanh(&mut tanh);
        for (i, &x) in x.iter().enumerate() {
            let x = f64::from(x);
            let expected = x / (1.0 + (-x).exp()) * f64::from(up[i]);
            assert!((f64::from(silu[i]) - expected).abs() < 2e-6, "silu {x}");
            let z = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
            assert!((f64::from(tanh[i]) - 0.5 * x * (1.0 + z.tanh())).abs() < 2e-6, "gelu {x}");
        }
    }

    #[test]
    fn gelu_erf_matches_known_values() {
        // erf values from Abramowitz and Stegun, table 7.1.
        for (x, y) in [(0.5, 0.5204998778), (1.0, 0.8427007929), (2.0, 0.9953222650), (3.0, 0.9999779095)] {
            assert!((erf(x) - y).abs() < 1e-9 && (erf(-x) + y).abs() < 1e-9, "erf {x} {}", erf(x));
        }
        let mut x = [1.0f32, -20.0, 20.0, 0.0];
        gelu_erf(&mut x);
        assert!((x[0] - 0.841_344_7).abs() < 1e-6 && x[1] == 0.0 && x[2] == 20.0 && x[3] == 0.0);
    }
}
