//! Types of 32-value blocks, and the ternary types. `qw` is the importance of the same columns; `sigma2` the
//! mean square of the whole row.

use quern_tensor_io::decode::nvfp4::half_ue4m3;
use quern_tensor_io::layout::{F16, IQ4NL, MXFP4, NVFP4, Q1_0, Q2_0, Q8_0, TQ1_0, TQ2_0};

use super::search;
use super::super_blocks::{energy, importance, nonlinear_weights};
use crate::encode::formats::AffineFormat;
use crate::encode::numeric::{mxfp4_scale, reciprocal_or_zero, truncate, ue4m3};
use crate::encode::pack::{self, Affine32, Symmetric32};
use crate::encode::table::E2M1_DOUBLED;

/// The value of largest magnitude, first of equals.
fn extreme(x: &[f32]) -> f32 {
    x.iter().fold(0.0f32, |max, &v| if max.abs() < v.abs() { v } else { max })
}

/// Largest magnitude.
fn magnitude(x: &[f32]) -> f32 {
    x.iter().fold(0.0f32, |max, &v| if max > v.abs() { max } else { v.abs() })
}

/// Nearest integer, ties away from zero.
fn round_away(x: f32) -> i32 {
    truncate(x.round())
}

/// `q4_0` and `q5_0`.
pub(super) fn symmetric<B: Symmetric32>(x: &[f32; 32], qw: Option<(&[f32], f32)>) -> B {
    let mut codes = [0; 32];
    let limit = B::LIMIT;
    if let Some((qw, sigma2)) = qw {
        let mut w = [0.0; 32];
        importance(x, qw, sigma2, &mut w);
        let d = search::symmetric(x, &w, limit, &mut codes);
        return B::pack(F16::from_f32(d), &codes);
    }
    let d = extreme(x) / -(limit as f32);
    let inverse = reciprocal_or_zero(d);
    let code = |x: f32| (truncate(x * inverse + (limit as f32 + 0.5)) as i8).min((2 * limit - 1) as i8) as u8;
    B::pack(F16::from_f32(d), &x.map(code))
}

/// `q4_1` and `q5_1`.
pub(super) fn affine<B: Affine32>(x: &[f32; 32], qw: Option<(&[f32], f32)>) -> B {
    let mut codes = [0; 32];
    let max_code = B::MAX_CODE;
    if let Some((qw, sigma2)) = qw {
        let mut w = [0.0; 32];
        importance(x, qw, sigma2, &mut w);
        let (d, min) = search::affine(x, &w, max_code, AffineFormat::WEIGHTED, false, &mut codes);
        return B::pack(F16::from_f32(d), F16::from_f32(-min), &codes);
    }
    let min = x.iter().fold(f32::MAX, |min, &v| if v < min { v } else { min });
    let max = x.iter().fold(-f32::MAX, |max, &v| if v > max { v } else { max });
    let d = (max - min) / max_code as f32;
    let inverse = reciprocal_or_zero(d);
    // Only q4_1 caps: five bits hold whatever q5_1's rounding can give.
    let cap = if max_code == 15 { 15 } else { i8::MAX };
    let code = |x: f32| (truncate((x - min) * inverse + 0.5) as i8).min(cap) as u8;
    B::pack(F16::from_f32(d), F16::from_f32(min), &x.map(code))
}

pub(super) fn q8_0(x: &[f32; 32]) -> Q8_0 {
    let d = magnitude(x) / 127.0;
    let inverse = reciprocal_or_zero(d);
    Q8_0 { d: F16::from_f32(d), qs: x.map(|x| round_away(x * inverse) as i8) }
}

pub(super) fn iq4_nl(x: &[f32; 32], qw: Option<&[f32]>) -> IQ4NL {
    let sigma2 = energy(x) * (2.0 / 32.0);
    let d = search::nonlinear(x, &nonlinear_weights(x, qw, sigma2));
    let inverse = reciprocal_or_zero(d);
    let codes = x.map(|x| search::nonlinear_code(inverse * x));
    IQ4NL { d: F16::from_f32(d), qs: pack::nibbles_32(&codes) }
}

/// Scale and trits (0, 1, 2) of a ternary super-block.
fn ternary(x: &[f32; 256]) -> (F16, [u8; 256]) {
    let d = magnitude(x);
    let inverse = reciprocal_or_zero(d);
    (F16::from_f32(d), x.map(|x| round_away(x * inverse).wrapping_add(1) as u8))
}

pub(super) fn tq1_0(x: &[f32; 256]) -> TQ1_0 {
    let (d, codes) = ternary(x);
    pack::tq1_0(&codes, d)
}

pub(super) fn tq2_0(x: &[f32; 256]) -> TQ2_0 {
    let (d, codes) = ternary(x);
    pack::tq2_0(&codes, d)
}

/// E2M1 code of the value nearest to `x` under half the scale, in ggml's order 0, 1, .. 12, -0, -1, .. -12;
/// the first of equals.
fn e2m1(x: f32, d: f32) -> u8 {
    let value = |code: u8| {
        let v = E2M1_DOUBLED[usize::from(code & 7)];
        if code < 8 { v } else { -v }
    };
    let (mut best, mut error) = (0, (value(0) * d - x).abs());
    for code in 1..16 {
        let e = (value(code) * d - x).abs();
        if e < error {
            (best, error) = (code, e);
        }
    }
    best
}

pub(super) fn mxfp4(x: &[f32; 32]) -> MXFP4 {
    let (e, d) = mxfp4_scale(magnitude(x));
    MXFP4 { e, qs: pack::nibbles_32(&x.map(|x| e2m1(x, d))) }
}

pub(super) fn nvfp4(x: &[f32; 64]) -> NVFP4 {
    let subs = x.as_chunks::<16>().0;
    let scales: [u8; 4] = std::array::from_fn(|j| ue4m3(magnitude(&subs[j]) / 6.0));
    let codes = |sub: usize| {
        let d = half_ue4m3(scales[sub]);
        let codes = subs[sub].map(|x| e2m1(x, d));
        std::array::from_fn(|j| codes[j] | codes[j + 8] << 4)
    };
    NVFP4 { d: scales, qs: std::array::from_fn(codes) }
}

/// Signs under the mean magnitude.
pub(super) fn q1_0(x: &[f32; 128]) -> Q1_0 {
    let d = x.iter().fold(0.0f32, |sum, x| sum + x.abs()) / 128.0;
    let eight = |k: usize| (0..8).fold(0, |bits, i| bits | u8::from(x[8 * k + i] >= 0.0) << i);
    Q1_0 { d: F16::from_f32(d), qs: std::array::from_fn(eight) }
}

/// Two bits under the largest magnitude: -1, 0, 1 (and 2, which never comes up), 1 added.
pub(super) fn q2_0(x: &[f32; 64]) -> Q2_0 {
    let d = magnitude(x);
    let inverse = reciprocal_or_zero(d);
    let code = |x: f32| round_away(x * inverse).wrapping_add(1).clamp(0, 3) as u8;
    let four = |k: usize| (0..4).fold(0, |bits, i| bits | code(x[4 * k + i]) << (2 * i));
    Q2_0 { d: F16::from_f32(d), qs: std::array::from_fn(four) }
}
