//! Gates: what decides how much of a state, of a head or of a channel counts.

use crate::error::same;
use crate::ops::{self, Activation, exp};
use crate::parallel::{part_of, share};
use crate::simd::{Op, dispatch};
use crate::{Pool, Result};

/// `ln(1 + e^x)`; `x` itself where they are the same in f32.
#[inline(always)]
pub(crate) fn softplus(x: f32) -> f32 {
    if x > 20.0 { x } else { x.exp().ln_1p() }
}

/// `x = e^(rate * softplus(x + bias))` for rows of one value a head, with negative rates: how much of a state stays.
///
/// # Errors
/// Lengths that do not fit each other.
pub fn decays(x: &mut [f32], rates: &[f32], bias: &[f32]) -> Result<()> {
    same("decays: bias", bias.len(), rates.len())?;
    same("decays: rows", x.len() % rates.len().max(1), 0)?;
    for row in x.chunks_exact_mut(rates.len().max(1)) {
        for ((x, rate), bias) in row.iter_mut().zip(rates).zip(bias) {
            *x = (rate * softplus(*x + bias)).exp();
        }
    }
    Ok(())
}

/// `x = softplus(x + bias)`, at least `least` and at most `most`, for rows of one value a head: how long a token lasts.
///
/// # Errors
/// Lengths that do not fit each other.
pub fn time_steps(x: &mut [f32], bias: &[f32], (least, most): (f32, f32)) -> Result<()> {
    same("time steps: rows", x.len() % bias.len().max(1), 0)?;
    for row in x.chunks_exact_mut(bias.len().max(1)) {
        for (x, bias) in row.iter_mut().zip(bias) {
            *x = softplus(*x + bias).max(least).min(most);
        }
    }
    Ok(())
}

/// `x = 1 / (1 + e^-x)`.
pub fn sigmoid(x: &mut [f32]) {
    x.iter_mut().for_each(|x| *x = 1.0 / (1.0 + (-*x).exp()));
}

/// `x *= y`, element by element.
///
/// # Errors
/// The lengths differ.
pub fn multiply(pool: &Pool, x: &mut [f32], y: &[f32]) -> Result<()> {
    same("product: second", x.len(), y.len())?;
    let part = part_of(pool, x.len(), 1);
    share(pool, x.chunks_mut(part).zip(y.chunks(part)), |(x, y)| {
        struct Product<'a>(&'a mut [f32], &'a [f32]);
        impl Op for Product<'_> {
            type Output = ();
            #[inline(always)]
            fn call(self) {
                self.0.iter_mut().zip(self.1).for_each(|(x, y)| *x *= y);
            }
        }
        dispatch(pool.level(), Product(x, y));
    });
    Ok(())
}

/// `x *= 1 / (1 + e^-gate)`, element by element.
///
/// # Errors
/// The lengths differ.
pub fn sigmoid_gate(pool: &Pool, x: &mut [f32], gate: &[f32]) -> Result<()> {
    struct Gate<'a>(&'a mut [f32], &'a [f32]);
    impl Op for Gate<'_> {
        type Output = ();
        #[inline(always)]
        fn call(self) {
            for (x, gate) in self.0.iter_mut().zip(self.1) {
                *x *= 1.0 / (1.0 + exp(-gate));
            }
        }
    }
    same("gate: length", x.len(), gate.len())?;
    let part = part_of(pool, x.len(), 1);
    share(pool, x.chunks_mut(part).zip(gate.chunks(part)), |(x, gate)| {
        dispatch(pool.level(), Gate(x, gate));
    });
    Ok(())
}

/// `out = rms_norm(x) * silu(gate)`, for each head of `weight.len()` values. `gate` is overwritten.
///
/// # Errors
/// Lengths that do not fit each other.
pub fn gated_norm(
    pool: &Pool,
    x: &[f32],
    gate: &mut [f32],
    weight: &[f32],
    epsilon: f32,
    out: &mut [f32],
) -> Result<()> {
    same("gated norm: gate", gate.len(), x.len())?;
    same("gated norm: output", out.len(), x.len())?;
    same("gated norm: heads", x.len() % weight.len().max(1), 0)?;
    let part = part_of(pool, x.len(), weight.len().max(1));
    let parts = x.chunks(part).zip(gate.chunks_mut(part)).zip(out.chunks_mut(part));
    share(pool, parts, |((x, gate), out)| {
        ops::rms_norm(pool.level(), x, weight, epsilon, out);
        ops::activate_mul(pool.level(), Activation::Silu, gate, out);
        out.copy_from_slice(gate);
    });
    Ok(())
}

/// `out = rms_norm(x * silu(gate))`, for each `group` values of rows of `weight.len()`. `gate` is overwritten.
///
/// # Errors
/// Lengths that do not fit each other.
pub fn norm_of_gated(
    pool: &Pool,
    (x, gate): (&[f32], &mut [f32]),
    (weight, epsilon): (&[f32], f32),
    group: usize,
    out: &mut [f32],
) -> Result<()> {
    let width = weight.len().max(1);
    same("norm of gated: gate", gate.len(), x.len())?;
    same("norm of gated: output", out.len(), x.len())?;
    same("norm of gated: rows", x.len() % width, 0)?;
    same("norm of gated: groups", width % group.max(1), 0)?;
    let part = part_of(pool, x.len(), width);
    let parts = x.chunks(part).zip(gate.chunks_mut(part)).zip(out.chunks_mut(part));
    share(pool, parts, |((x, gate), out)| {
        ops::activate_mul(pool.level(), Activation::Silu, gate, x);
        for (gated, out) in gate.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
            let groups = gated.chunks_exact(group).zip(weight.chunks_exact(group));
            for ((gated, weight), out) in groups.zip(out.chunks_exact_mut(group)) {
                ops::rms_norm(pool.level(), gated, weight, epsilon, out);
            }
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gates_follow_their_formulas() {
        let pool = Pool::new(2);
        let mut x = [-3.0, 0.0, 2.0, 30.0];
        decays(&mut x, &[-0.5, -2.0], &[0.25, -1.0]).unwrap();
        let expected = |x: f64, rate: f64, bias: f64| (rate * (x + bias).exp().ln_1p()).exp();
        let expected = [
            expected(-3.0, -0.5, 0.25),
            expected(0.0, -2.0, -1.0),
            expected(2.0, -0.5, 0.25),
            expected(30.0, -2.0, -1.0),
        ];
        for (found, expected) in x.iter().zip(expected) {
            assert!((f64::from(*found) - expected).abs() < 1e-6, "{found} {expected}");
        }
        let mut x = [1.0, -2.0];
        sigmoid_gate(&pool, &mut x, &[0.0, 2.0]).unwrap();
        assert!((x[0] - 0.5).abs() < 1e-6 && (x[1] + 2.0 / (1.0 + (-2f32).exp())).abs() < 1e-6);
        let (mut gate, mut out) = ([1.0, -1.0, 0.5, 2.0], [0.0; 4]);
        gated_norm(&pool, &[3.0, 4.0, -1.0, 1.0], &mut gate, &[1.0, 2.0], 1e-6, &mut out).unwrap();
        let silu = |x: f32| x / (1.0 + (-x).exp());
        let root = 12.5f32.sqrt();
        let expected = [3.0 / root * silu(1.0), 8.0 / root * silu(-1.0), -silu(0.5), 2.0 * silu(2.0)];
        for (found, expected) in out.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-5, "{found} {expected}");
        }
        let (mut gate, mut out) = ([1.0, -1.0, 0.5, 2.0], [0.0; 4]);
        let norm = (&[1.0, 2.0, 1.0, 1.0][..], 1e-6);
        norm_of_gated(&pool, (&[3.0, 4.0, -1.0, 1.0], &mut gate), norm, 2, &mut out).unwrap();
        let gated = [3.0 * silu(1.0), 4.0 * silu(-1.0), -silu(0.5), silu(2.0)];
        let root = |a: f32, b: f32| ((a * a + b * b) / 2.0).sqrt();
        let (first, second) = (root(gated[0], gated[1]), root(gated[2], gated[3]));
        let expected = [gated[0] / first, 2.0 * gated[1] / first, gated[2] / second, gated[3] / second];
        for (found, expected) in out.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-4, "{found} {expected}");
        }
        let mut x = [0.0, 30.0, -30.0];
        time_steps(&mut x, &[0.0], (1e-3, 20.0)).unwrap();
        assert!((x[0] - 2f32.ln()).abs() < 1e-6 && x[1] == 20.0 && x[2] == 1e-3, "{x:?}");
        assert!(multiply(&pool, &mut [1.0], &[]).is_err());
        let mut x = [2.0, 3.0];
        multiply(&pool, &mut x, &[4.0, 0.5]).unwrap();
        assert_eq!(x, [8.0, 1.5]);
    }
}
