//! 16-bit floats to f32 in branch-free steps that a compiler turns into lanes.

use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::simd::{Level, Op, dispatch};

/// IEEE binary16 to f32, exact for every value (infinities and NaN payloads included).
///
/// Three cases joined by selects: a normal number's exponent is re-biased; a subnormal is `m * 2^-24`, got
/// without ever making a subnormal f32 (which would be slow) as `(0.5 + m * 2^-24) - 0.5`; the top exponent
/// becomes f32's top exponent.
#[inline(always)]
pub fn f16_to_f32(h: u16) -> f32 {
    let h = u32::from(h);
    let magnitude = h & 0x7fff;
    let shifted = magnitude << 13;
    let normal = shifted + (112 << 23);
    let subnormal = (f32::from_bits(magnitude | 0x3f00_0000) - 0.5).to_bits();
    let special = shifted | 0x7f80_0000;
    let bits = if magnitude < 0x0400 { subnormal } else { normal };
    let bits = if magnitude >= 0x7c00 { special } else { bits };
    f32::from_bits(bits | (h & 0x8000) << 16)
}

/// bfloat16 to f32: its upper half.
#[inline(always)]
pub fn bf16_to_f32(h: u16) -> f32 {
    f32::from_bits(u32::from(h) << 16)
}

/// Widens halves to f32 (same number of values) with the instructions of `level`.
///
/// # Panics
/// If the lengths differ.
pub fn widen_f16(level: Level, x: &[f16], out: &mut [f32]) {
    struct Widen<'a>(&'a [f16], &'a mut [f32]);
    impl Op for Widen<'_> {
        type Output = ();
        #[inline(always)]
        fn call(self) {
            for (x, out) in self.0.iter().zip(self.1) {
                *out = f16_to_f32(x.to_bits());
            }
        }
    }
    assert_eq!(x.len(), out.len(), "widen_f16: lengths");
    dispatch(level, Widen(x, out));
}

/// Rounds f32 to halves (same number of values), half to even.
///
/// # Panics
/// If the lengths differ.
pub fn narrow_f16(x: &[f32], out: &mut [f16]) {
    assert_eq!(x.len(), out.len(), "narrow_f16: lengths");
    out.convert_from_f32_slice(x);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_is_converted_exactly() {
        for h in 0..=u16::MAX {
            let (ours, theirs) = (f16_to_f32(h), half::f16::from_bits(h).to_f32());
            assert!(ours.to_bits() == theirs.to_bits() || (ours.is_nan() && theirs.is_nan()), "{h:#x}");
            assert_eq!(bf16_to_f32(h).to_bits(), u32::from(h) << 16);
        }
    }
}
