//! The second level of the K types: sub-block scales become small integers under one f16 `d` (and `dmin`).
//!
//! Each function gives the stored fields and, because codes are always re-derived from what is stored, the
//! effective scale and minimum of each sub-block as a reader will compute them. For an effective scale of zero the
//! caller keeps the codes the search found. Used by both the scalar and the lane encoders: a super-block has 8 or
//! 16 of these numbers, so lanes would gain nothing.

use quern_tensor_io::layout::F16;
use quern_tensor_io::layout::scales::ScalesMinima6;

use super::formats::GridFormat;
use super::numeric::{ZERO_BLOCK, nearest, reciprocal_or_zero, through_f16};
use super::pack_grid::Grids;

/// Effective scale and minimum of each sub-block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effective<const SUBS: usize> {
    pub scale: [f32; SUBS],
    pub min: [f32; SUBS],
}

/// Stored fields of an affine type: `scales` is ready to be written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Affine<S> {
    pub d: F16,
    pub dmin: F16,
    pub scales: S,
}

/// Stored fields of a symmetric type. `scales` as the type stores them: 0..64 with 32 added, or signed bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Symmetric<S> {
    pub d: F16,
    pub scales: S,
}

/// The largest, but not below zero.
fn largest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |max, &v| if v > max { v } else { max })
}

/// The value of largest magnitude, first of equals.
fn extreme(values: &[f32]) -> f32 {
    values.iter().fold(0.0f32, |max, &v| if v.abs() > max.abs() { v } else { max })
}

/// `q2_K` without importance: 4-bit scales and minima as fractions of the largest.
pub(crate) fn q2_k(scale: &[f32; 16], min: &[f32; 16]) -> (Affine<[u8; 16]>, Effective<16>) {
    let (max_scale, max_min) = (largest(scale), largest(min));
    let inverse_scale = if max_scale > 0.0 { 15.0 / max_scale } else { 0.0 };
    let inverse_min = if max_min > 0.0 { 15.0 / max_min } else { 0.0 };
    let scales = std::array::from_fn(|j| {
        nearest(inverse_scale * scale[j]) as u8 | (nearest(inverse_min * min[j]) << 4) as u8
    });
    q2_k_stored(max_scale / 15.0, max_min / 15.0, scales)
}

/// `q2_K` with importance: scales and minima already searched.
pub(crate) fn q2_k_searched(
    d: f32,
    dmin: f32,
    scale: &[u8; 16],
    min: &[u8; 16],
) -> (Affine<[u8; 16]>, Effective<16>) {
    q2_k_stored(d, dmin, std::array::from_fn(|j| scale[j] | min[j] << 4))
}

fn q2_k_stored(d: f32, dmin: f32, scales: [u8; 16]) -> (Affine<[u8; 16]>, Effective<16>) {
    let (read_d, read_dmin) = (through_f16(d), through_f16(dmin));
    let effective = Effective {
        scale: scales.map(|s| read_d * f32::from(s & 15)),
        min: scales.map(|s| read_dmin * f32::from(s >> 4)),
    };
    (Affine { d: F16::from_f32(d), dmin: F16::from_f32(dmin), scales }, effective)
}

/// `q4_K`, `q5_K` without importance: 6-bit scales and minima as fractions of the largest.
pub(crate) fn six_bit(scale: &[f32; 8], min: &[f32; 8]) -> (Affine<ScalesMinima6>, Effective<8>) {
    let (max_scale, max_min) = (largest(scale), largest(min));
    let inverse_scale = if max_scale > 0.0 { 63.0 / max_scale } else { 0.0 };
    let inverse_min = if max_min > 0.0 { 63.0 / max_min } else { 0.0 };
    let scale = scale.map(|s| (nearest(inverse_scale * s) as u8).min(63));
    let min = min.map(|m| (nearest(inverse_min * m) as u8).min(63));
    six_bit_searched(max_scale / 63.0, max_min / 63.0, &scale, &min)
}

/// `q4_K`, `q5_K` with importance: scales and minima (at most 63) already searched.
pub(crate) fn six_bit_searched(
    d: f32,
    dmin: f32,
    scale: &[u8; 8],
    min: &[u8; 8],
) -> (Affine<ScalesMinima6>, Effective<8>) {
    let (read_d, read_dmin) = (through_f16(d), through_f16(dmin));
    let effective =
        Effective { scale: scale.map(|s| read_d * f32::from(s)), min: min.map(|m| read_dmin * f32::from(m)) };
    (
        Affine { d: F16::from_f32(d), dmin: F16::from_f32(dmin), scales: ScalesMinima6::pack(scale, min) },
        effective,
    )
}

/// `q3_K` without importance: the scale of largest magnitude becomes -32.
pub(crate) fn q3_k(scale: &[f32; 16]) -> (Symmetric<[u8; 16]>, [f32; 16]) {
    let max = extreme(scale);
    if max == 0.0 {
        // All scale bytes are left zero, which reads as -32 under d = 0.
        return (Symmetric { d: F16::ZERO, scales: [0; 16] }, [0.0; 16]);
    }
    let inverse = -32.0 / max;
    let scales = scale.map(|s| (i32::from(nearest(inverse * s) as i8).clamp(-32, 31) + 32) as u8);
    q3_k_searched(1.0 / inverse, scales)
}

/// `q3_K` with importance: scales (32 added) already searched.
pub(crate) fn q3_k_searched(d: f32, scales: [u8; 16]) -> (Symmetric<[u8; 16]>, [f32; 16]) {
    let read_d = through_f16(d);
    (Symmetric { d: F16::from_f32(d), scales }, scales.map(|s| read_d * (f32::from(s) - 32.0)))
}

/// `q6_K`: 8-bit scales, the one of largest magnitude becomes -128. `None` if all are zero: then the whole
/// block is zero bytes.
pub(crate) fn q6_k(scale: &[f32; 16]) -> Option<(Symmetric<[i8; 16]>, [f32; 16])> {
    let max = extreme(scale);
    if max.abs() < ZERO_BLOCK {
        return None;
    }
    let inverse = -128.0 / max;
    let d = 1.0 / inverse;
    let read_d = through_f16(d);
    let scales = scale.map(|s| nearest(inverse * s).min(127) as i8);
    let effective = scales.map(|s| read_d * f32::from(s));
    Some((Symmetric { d: F16::from_f32(d), scales }, effective))
}

/// `iq4_xs`: 6-bit scales, the one of largest magnitude becomes -32. Effective values are *inverse* scales,
/// taken from the unrounded `d`, as the type does.
pub(crate) fn iq4_xs(scale: &[f32; 8]) -> (Symmetric<[u8; 8]>, [f32; 8]) {
    let d = -extreme(scale) / 32.0;
    let inverse = reciprocal_or_zero(d);
    let scales = scale.map(|s| nearest(inverse * s).clamp(-32, 31));
    let effective = scales.map(|s| reciprocal_or_zero(d * s as f32));
    (Symmetric { d: F16::from_f32(d), scales: scales.map(|s| (s + 32) as u8) }, effective)
}

/// The largest scale. Where values are too large to be squared, so that no weight or scale means anything, it
/// is not a number, nor will `d` be: that is for the caller's check to find.
fn largest_scale(scale: &[f32], sigma2: f32) -> f32 {
    if !sigma2.is_finite() || scale.iter().any(|s| s.is_nan()) { f32::NAN } else { largest(scale) }
}

/// iq2 and iq3: 4-bit scales of sub-blocks, stored as 2 scale + 1 under `d`.
pub(crate) fn grid(format: &GridFormat, scale: &[f32], sigma2: f32, grids: &mut Grids) {
    let max = largest_scale(scale, sigma2);
    if max == 0.0 {
        if format.wipe {
            *grids = Grids::ZERO;
        }
        return;
    }
    let d = max / 31.0;
    grids.d = F16::from_f32(d * format.stretch);
    let inverse = 1.0 / d;
    for (o, s) in grids.scales.iter_mut().zip(scale) {
        *o = nearest(0.5 * (inverse * s - 1.0)).clamp(0, 15) as u8;
    }
}

/// iq1: 3-bit scales of sub-blocks, stored as 2 scale + 1 under the `d` that is returned; zero if all are zero.
pub(crate) fn ternary_grid<const SUBS: usize>(scale: &[f32; SUBS], sigma2: f32) -> (f32, [u8; SUBS]) {
    let max = largest_scale(scale, sigma2);
    if max == 0.0 {
        return (0.0, [0; SUBS]);
    }
    let d = max / 15.0;
    let inverse = 1.0 / d;
    (d, scale.map(|s| nearest(0.5 * (inverse * s - 1.0)).clamp(0, 7) as u8))
}
