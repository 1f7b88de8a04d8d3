//! The roundings and conversions ggml's encoders use, with their behaviour outside the normal range.

use half::f16;

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
    if x >= -2_147_483_648.0 && x < 2_147_483_648.0 { x as i32 } else { i32::MIN }
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

/// Little-endian f16, ties to even.
pub(crate) fn f16_bytes(x: f32) -> [u8; 2] {
    f16::from_f32(x).to_le_bytes()
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
