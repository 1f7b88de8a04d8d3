//! Types of 32-value blocks, and the ternary types. `qw` is the importance of the same columns; `sigma2` the
//! mean square of the whole row.

use quern_tensor_io::decode::nvfp4::half_ue4m3;

use super::search;
use super::super_blocks::{energy, importance, nonlinear_weights};
use crate::encode::formats::AffineFormat;
use crate::encode::numeric::{f16_bytes, mxfp4_scale, reciprocal_or_zero, truncate, ue4m3};
use crate::encode::pack;
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

/// Codes and scale of `q4_0` (limit 8) and `q5_0` (limit 16).
fn symmetric(x: &[f32; 32], qw: Option<(&[f32], f32)>, limit: i32) -> (f32, [u8; 32]) {
    let mut codes = [0; 32];
    if let Some((qw, sigma2)) = qw {
        let mut w = [0.0; 32];
        importance(x, qw, sigma2, &mut w);
        let d = search::symmetric(x, &w, limit, &mut codes);
        return (d, codes);
    }
    let d = extreme(x) / -(limit as f32);
    let inverse = reciprocal_or_zero(d);
    let code = |x: f32| (truncate(x * inverse + (limit as f32 + 0.5)) as i8).min((2 * limit - 1) as i8) as u8;
    (d, x.map(code))
}

/// Codes, scale and minimum of `q4_1` (max 15) and `q5_1` (max 31).
fn affine(x: &[f32; 32], qw: Option<(&[f32], f32)>, max_code: i32) -> (f32, f32, [u8; 32]) {
    let mut codes = [0; 32];
    if let Some((qw, sigma2)) = qw {
        let mut w = [0.0; 32];
        importance(x, qw, sigma2, &mut w);
        let (d, min) = search::affine(x, &w, max_code, AffineFormat::WEIGHTED, false, &mut codes);
        return (d, -min, codes);
    }
    let min = x.iter().fold(f32::MAX, |min, &v| if v < min { v } else { min });
    let max = x.iter().fold(-f32::MAX, |max, &v| if v > max { v } else { max });
    let d = (max - min) / max_code as f32;
    let inverse = reciprocal_or_zero(d);
    // Only q4_1 caps: five bits hold whatever q5_1's rounding can give.
    let cap = if max_code == 15 { 15 } else { i8::MAX };
    (d, min, x.map(|x| (truncate((x - min) * inverse + 0.5) as i8).min(cap) as u8))
}

pub(super) fn q4_0(x: &[f32; 32], qw: Option<(&[f32], f32)>, out: &mut [u8]) {
    let (d, codes) = symmetric(x, qw, 8);
    out[..2].copy_from_slice(&f16_bytes(d));
    pack::nibbles_32(&codes, &mut out[2..18]);
}

pub(super) fn q5_0(x: &[f32; 32], qw: Option<(&[f32], f32)>, out: &mut [u8]) {
    let (d, codes) = symmetric(x, qw, 16);
    out[..2].copy_from_slice(&f16_bytes(d));
    out[2..6].copy_from_slice(&pack::fifth_bits(&codes).to_le_bytes());
    pack::nibbles_32(&codes, &mut out[6..22]);
}

pub(super) fn q4_1(x: &[f32; 32], qw: Option<(&[f32], f32)>, out: &mut [u8]) {
    let (d, m, codes) = affine(x, qw, 15);
    out[..2].copy_from_slice(&f16_bytes(d));
    out[2..4].copy_from_slice(&f16_bytes(m));
    pack::nibbles_32(&codes, &mut out[4..20]);
}

pub(super) fn q5_1(x: &[f32; 32], qw: Option<(&[f32], f32)>, out: &mut [u8]) {
    let (d, m, codes) = affine(x, qw, 31);
    out[..2].copy_from_slice(&f16_bytes(d));
    out[2..4].copy_from_slice(&f16_bytes(m));
    out[4..8].copy_from_slice(&pack::fifth_bits(&codes).to_le_bytes());
    pack::nibbles_32(&codes, &mut out[8..24]);
}

pub(super) fn q8_0(x: &[f32; 32], out: &mut [u8]) {
    let d = magnitude(x) / 127.0;
    let inverse = reciprocal_or_zero(d);
    out[..2].copy_from_slice(&f16_bytes(d));
    for (o, &x) in out[2..34].iter_mut().zip(x) {
        *o = round_away(x * inverse) as u8;
    }
}

pub(super) fn iq4_nl(x: &[f32; 32], qw: Option<&[f32]>, out: &mut [u8]) {
    let sigma2 = energy(x) * (2.0 / 32.0);
    let d = search::nonlinear(x, &nonlinear_weights(x, qw, sigma2));
    let inverse = reciprocal_or_zero(d);
    out[..2].copy_from_slice(&f16_bytes(d));
    pack::nibbles_32(&x.map(|x| search::nonlinear_code(inverse * x)), &mut out[2..18]);
}

/// Scale and trits (0, 1, 2) of a ternary super-block.
fn ternary(x: &[f32; 256]) -> (f32, [u8; 256]) {
    let d = magnitude(x);
    let inverse = reciprocal_or_zero(d);
    (d, x.map(|x| round_away(x * inverse).wrapping_add(1) as u8))
}

pub(super) fn tq1_0(x: &[f32; 256], out: &mut [u8]) {
    let (d, codes) = ternary(x);
    pack::trits(&codes, &mut out[..52]);
    out[52..54].copy_from_slice(&f16_bytes(d));
}

pub(super) fn tq2_0(x: &[f32; 256], out: &mut [u8]) {
    let (d, codes) = ternary(x);
    pack::two_bits(&codes, &mut out[..64]);
    out[64..66].copy_from_slice(&f16_bytes(d));
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

pub(super) fn mxfp4(x: &[f32; 32], out: &mut [u8]) {
    let (e, d) = mxfp4_scale(magnitude(x));
    out[0] = e;
    pack::nibbles_32(&x.map(|x| e2m1(x, d)), &mut out[1..17]);
}

pub(super) fn nvfp4(x: &[f32; 64], out: &mut [u8]) {
    let (scales, qs) = out.split_at_mut(4);
    for ((x, scale), qs) in x.as_chunks::<16>().0.iter().zip(scales).zip(qs.chunks_exact_mut(8)) {
        *scale = ue4m3(magnitude(x) / 6.0);
        let d = half_ue4m3(*scale);
        let codes = x.map(|x| e2m1(x, d));
        qs.iter_mut().enumerate().for_each(|(j, q)| *q = codes[j] | codes[j + 8] << 4);
    }
}

/// Signs under the mean magnitude.
pub(super) fn q1_0(x: &[f32; 128], out: &mut [u8]) {
    let d = x.iter().fold(0.0f32, |sum, x| sum + x.abs()) / 128.0;
    out[..2].copy_from_slice(&f16_bytes(d));
    for (o, x) in out[2..18].iter_mut().zip(x.as_chunks::<8>().0) {
        *o = (0..8).fold(0, |bits, i| bits | u8::from(x[i] >= 0.0) << i);
    }
}

/// Two bits under the largest magnitude: -1, 0, 1 (and 2, which never comes up), 1 added.
pub(super) fn q2_0(x: &[f32; 64], out: &mut [u8]) {
    let d = magnitude(x);
    let inverse = reciprocal_or_zero(d);
    out[..2].copy_from_slice(&f16_bytes(d));
    for (o, x) in out[2..18].iter_mut().zip(x.as_chunks::<4>().0) {
        let code = |i: usize| round_away(x[i] * inverse).wrapping_add(1).clamp(0, 3) as u8;
        *o = (0..4).fold(0, |bits, i| bits | code(i) << (2 * i));
    }
}
