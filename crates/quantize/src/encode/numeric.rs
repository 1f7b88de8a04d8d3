//! The rounding and conversions of ggml's encoders, with their behaviour outside the normal range.

use half::f16;
use quern_tensor_io::decode::mxfp4::half_scale;

/// 1.5 * 2^23: adding it leaves the integer nearest to a small float in the low mantissa bits.
pub(crate) const ROUNDING_MAGIC: f32 = 12_582_912.0;

/// Below this a block counts as all zero in the symmetric and positive searches.
pub(crate) const ZERO_BLOCK: f32 = 1e-15;

/// Nearest integer, ties to even, for |x| < 2^22. Beyond that it is whatever the low 23 bits of the sum
/// say, as in ggml: a pathological block must give the same bytes too.
#[inline(always)]
pub(crate) fn nearest(x: f32) -> i32 {
    ((x + ROUNDING_MAGIC).to_bits() & 0x007f_ffff) as i32 - 0x0040_0000
}

/// Cuts off the fraction as x86 does: what does not fit (and NaN) becomes `i32::MIN`.
#[inline(always)]
pub(crate) fn truncate(x: f32) -> i32 {
    if (-2_147_483_648.0..2_147_483_648.0).contains(&x) { x as i32 } else { i32::MIN }
}

/// C's `1/x`, with 0 for 0.
#[inline(always)]
pub(crate) fn reciprocal_or_zero(x: f32) -> f32 {
    if x != 0.0 { 1.0 / x } else { 0.0 }
}

/// The value as it will be read back from its f16 field.
pub(crate) fn through_f16(x: f32) -> f32 {
    f16::from_f32(x).to_f32()
}

/// Little-endian bf16, ties to even, NaN kept quiet.
#[inline(always)]
pub(crate) fn bf16_bits(x: f32) -> u16 {
    let bits = x.to_bits();
    if bits & 0x7fff_ffff > 0x7f80_0000 {
        return (bits >> 16) as u16 | 64;
    }
    ((bits.wrapping_add(0x7fff + ((bits >> 16) & 1))) >> 16) as u16
}

/// E8M0 exponent of an `mxfp4` block for its largest magnitude, and half the scale it stands for (the table
/// is doubled). The exponent is `floor(log2f(magnitude)) - 2`, where log2f has rounded: just below a power of
/// two it is already the next integer.
#[inline]
pub(crate) fn mxfp4_scale(magnitude: f32) -> (u8, f32) {
    let bits = magnitude.to_bits();
    let (exponent, fraction) = ((bits >> 23) as i32, bits & 0x007f_ffff);
    let e = if exponent != 0 && fraction < 0x007f_ff00 {
        // Too far below the next power of two to be rounded up to it (44 units suffice at the ends of the range).
        (exponent - 2) as u8
    } else if magnitude > 0.0 {
        // Through f64, whose logarithm rounds to f32 the same way on every platform.
        truncate((f64::from(magnitude).log2() as f32).floor() - 2.0 + 127.0) as u8
    } else {
        0
    };
    (e, half_scale(e))
}

/// UE4M3 code of a scale of `nvfp4` (4 bits of exponent, 3 of mantissa, bias 7), ties away from zero. What
/// rounds to 256 or more becomes the largest, 448, as in ggml; what is not positive gives 0.
#[inline]
pub(crate) fn ue4m3(x: f32) -> u8 {
    if x.is_nan() || x <= 0.0 {
        return 0;
    }
    let exponent = (x.to_bits() >> 23) as i32 - 127 + 7;
    if exponent <= 0 {
        // Subnormal: multiples of 2^-9, never rounded up to the smallest normal.
        return ((x * 512.0 + 0.5) as u8).min(7);
    }
    // Exponent and mantissa in one number: a carry of the mantissa goes where it belongs.
    let rounded = (x.to_bits() >> 19).div_ceil(2) as i32 - ((127 - 7) << 3);
    if rounded >= 15 << 3 { 0x7e } else { rounded as u8 }
}
