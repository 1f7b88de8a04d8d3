//! Types of 256-value super-blocks: the K types and `iq4_xs`. `qw` is the importance of the same 256 columns.

use quern_tensor_io::layout::scales::ScalesMinima6;
use quern_tensor_io::layout::{Block, IQ4XS, Q2K, Q3K, Q4K, Q5K, Q6K};

use super::search::{self, Steps};
use crate::encode::formats::{AffineFormat, Q2_K, Q4_K, Q5_K};
use crate::encode::levels;
use crate::encode::numeric::nearest;
use crate::encode::pack;

/// Sum of squares, in order.
pub(super) fn energy(x: &[f32]) -> f32 {
    x.iter().fold(0.0, |sum, &v| sum + v * v)
}

/// Importance weights of a sub-block: `qw * sqrt(sigma2 + x^2)`.
pub(super) fn importance(x: &[f32], qw: &[f32], sigma2: f32, w: &mut [f32]) {
    for ((w, &x), &q) in w.iter_mut().zip(x).zip(qw) {
        *w = q * (sigma2 + x * x).sqrt();
    }
}

/// Sum in order.
fn sum(w: &[f32]) -> f32 {
    w.iter().fold(0.0, |sum, &w| sum + w)
}

/// First level of an affine type: codes, scale, minimum and sum of weights of each sub-block.
fn affine_sub_blocks<const SUBS: usize>(
    format: &AffineFormat,
    x: &[f32; 256],
    qw: Option<&[f32]>,
    codes: &mut [u8; 256],
) -> ([f32; SUBS], [f32; SUBS], [f32; SUBS]) {
    let (mut scale, mut min, mut weight) = ([0.0; SUBS], [0.0; SUBS], [0.0; SUBS]);
    let n = 256 / SUBS;
    let sigma2 = format.energy_factor * energy(x) / 256.0;
    for j in 0..SUBS {
        let at = j * n..(j + 1) * n;
        let (x, codes) = (&x[at.clone()], &mut codes[at.clone()]);
        let mut w = [0.0f32; 32];
        let w = &mut w[..n];
        let (steps, absolute): (Steps, bool) = match qw {
            Some(qw) => {
                importance(x, &qw[at], sigma2, w);
                (AffineFormat::WEIGHTED, false)
            }
            None => {
                let base = if format.add_mean { (energy(x) / n as f32).sqrt() } else { 0.0 };
                for (w, &x) in w.iter_mut().zip(x) {
                    *w = if format.add_mean { base + x.abs() } else { x.abs() };
                }
                (format.plain, format.absolute_error)
            }
        };
        weight[j] = sum(w);
        (scale[j], min[j]) = search::affine(x, w, format.max_code, steps, absolute, codes);
    }
    (scale, min, weight)
}

/// Codes re-derived from the stored scales and minima.
fn affine_codes<const SUBS: usize>(
    x: &[f32; 256],
    effective: &levels::Effective<SUBS>,
    max_code: i32,
    codes: &mut [u8; 256],
) {
    let n = 256 / SUBS;
    for (i, (c, &x)) in codes.iter_mut().zip(x).enumerate() {
        let (d, m) = (effective.scale[i / n], effective.min[i / n]);
        if d != 0.0 {
            *c = nearest((x + m) / d).clamp(0, max_code) as u8;
        }
    }
}

/// Codes re-derived from the stored scales of a symmetric type.
fn symmetric_codes(x: &[f32; 256], effective: &[f32; 16], limit: i32, codes: &mut [u8; 256]) {
    for (i, (c, &x)) in codes.iter_mut().zip(x).enumerate() {
        let d = effective[i / 16];
        if d != 0.0 {
            *c = (nearest(x / d).clamp(-limit, limit - 1) + limit) as u8;
        }
    }
}

pub(super) fn q2_k(x: &[f32; 256], qw: Option<&[f32]>) -> Q2K {
    let mut codes = [0; 256];
    let (scale, min, weight) = affine_sub_blocks::<16>(&Q2_K, x, qw, &mut codes);
    let (fields, effective) = if qw.is_some() {
        let (mut s, mut m) = ([0; 16], [0; 16]);
        let d = search::positive(&scale, &weight, 15, &mut s);
        let dmin = search::positive(&min, &weight, 15, &mut m);
        levels::q2_k_searched(d, dmin, &s, &m)
    } else {
        levels::q2_k(&scale, &min)
    };
    affine_codes(x, &effective, 3, &mut codes);
    pack::q2_k(&codes, fields.scales, fields.d, fields.dmin)
}

/// `q4_K` and `q5_K` up to packing.
fn six_bit(
    format: &AffineFormat,
    x: &[f32; 256],
    qw: Option<&[f32]>,
    codes: &mut [u8; 256],
) -> levels::Affine<ScalesMinima6> {
    let (scale, min, weight) = affine_sub_blocks::<8>(format, x, qw, codes);
    let (fields, effective) = if qw.is_some() {
        let (mut s, mut m) = ([0; 8], [0; 8]);
        let d = search::positive(&scale, &weight, 63, &mut s);
        let dmin = search::positive(&min, &weight, 63, &mut m);
        levels::six_bit_searched(d, dmin, &s, &m)
    } else {
        levels::six_bit(&scale, &min)
    };
    affine_codes(x, &effective, format.max_code, codes);
    fields
}

pub(super) fn q4_k(x: &[f32; 256], qw: Option<&[f32]>) -> Q4K {
    let mut codes = [0; 256];
    let fields = six_bit(&Q4_K, x, qw, &mut codes);
    pack::q4_k(&codes, fields.scales, fields.d, fields.dmin)
}

pub(super) fn q5_k(x: &[f32; 256], qw: Option<&[f32]>) -> Q5K {
    let mut codes = [0; 256];
    let fields = six_bit(&Q5_K, x, qw, &mut codes);
    pack::q5_k(&codes, fields.scales, fields.d, fields.dmin)
}

pub(super) fn q3_k(x: &[f32; 256], qw: Option<&[f32]>) -> Q3K {
    let mut codes = [0; 256];
    let (mut scale, mut weight) = ([0.0; 16], [0.0; 16]);
    let sigma2 = 2.0 * energy(x) / 256.0;
    for j in 0..16 {
        let at = 16 * j..16 * (j + 1);
        let (x, codes) = (&x[at.clone()], &mut codes[at.clone()]);
        scale[j] = match qw {
            Some(qw) => {
                let mut w = [0.0; 16];
                importance(x, &qw[at], sigma2, &mut w);
                weight[j] = sum(&w);
                search::symmetric(x, &w, 4, codes)
            }
            None => search::descent(x, 4, codes),
        };
    }
    let (fields, effective) = if qw.is_some() {
        let mut s = [0; 16];
        let d = search::symmetric(&scale, &weight, 32, &mut s);
        levels::q3_k_searched(d, s)
    } else {
        levels::q3_k(&scale)
    };
    symmetric_codes(x, &effective, 4, &mut codes);
    pack::q3_k(&codes, &fields.scales, fields.d)
}

pub(super) fn q6_k(x: &[f32; 256], qw: Option<&[f32]>) -> Q6K {
    let mut codes = [0; 256];
    let mut scale = [0.0; 16];
    for (j, scale) in scale.iter_mut().enumerate() {
        let at = 16 * j..16 * (j + 1);
        let (x, codes) = (&x[at.clone()], &mut codes[at.clone()]);
        let squares: [f32; 16] = std::array::from_fn(|i| x[i] * x[i]);
        *scale = search::symmetric(x, qw.map_or(&squares, |qw| &qw[at]), 32, codes);
    }
    match levels::q6_k(&scale) {
        Some((fields, effective)) => {
            symmetric_codes(x, &effective, 32, &mut codes);
            pack::q6_k(&codes, fields.scales, fields.d)
        }
        None => Q6K::ZERO,
    }
}

pub(super) fn iq4_xs(x: &[f32; 256], qw: Option<&[f32]>) -> IQ4XS {
    let sigma2 = energy(x) * (2.0 / 256.0);
    let mut scale = [0.0; 8];
    for (j, scale) in scale.iter_mut().enumerate() {
        let at = 32 * j..32 * (j + 1);
        *scale =
            search::nonlinear(&x[at.clone()], &nonlinear_weights(&x[at.clone()], qw.map(|q| &q[at]), sigma2));
    }
    let (fields, inverse) = levels::iq4_xs(&scale);
    let codes = std::array::from_fn(|i| search::nonlinear_code(inverse[i / 32] * x[i]));
    pack::iq4_xs(&codes, &fields.scales, fields.d)
}

/// Weights of the non-linear search: x^2, or importance.
pub(super) fn nonlinear_weights(x: &[f32], qw: Option<&[f32]>, sigma2: f32) -> [f32; 32] {
    let mut w = [0.0; 32];
    match qw {
        Some(qw) => importance(x, qw, sigma2, &mut w),
        None => w.iter_mut().zip(x).for_each(|(w, &x)| *w = x * x),
    }
    w
}
