//! From f32 to the plain float types, rounding to the nearest, ties to even.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use quern_tensor_io::ElementType;

/// Whether every value of `from` is one of `to`: casting is exact whatever the values. Block types decode to f32,
/// which is what they mean.
pub(crate) fn holds(from: ElementType, to: ElementType) -> bool {
    use ElementType::*;
    match (from, to) {
        (F64, _) => false,
        (from, to) if from == to => true,
        (_, F32) => true,
        (F8E4M3 | F8E5M2, F16 | BF16) => true,
        _ => false,
    }
}

/// The range of f32 that rounds to finite numbers of `to`, where that is less than all of it: values must be
/// smaller than this.
fn limit(to: ElementType) -> f32 {
    match to {
        // Half a step above the largest number, 65504.
        ElementType::F16 => 65520.0,
        // Likewise: 0x7f7f is the largest.
        ElementType::BF16 => f32::from_bits(0x7f7f_8000),
        _ => f32::INFINITY,
    }
}

/// The first value that is NaN or infinite, or becomes so in `to`.
pub(crate) fn unfit(to: ElementType, values: &[f32]) -> Option<usize> {
    let limit = limit(to);
    // Without branches first, so that the compiler makes a few vector instructions of it; NaN compares false.
    let all = values.iter().fold(true, |all, v| all & (v.abs() < limit));
    if all { None } else { values.iter().position(|v| v.is_nan() || v.abs() >= limit) }
}

/// Whether every value is one of `to`, to the bit.
pub(crate) fn fits(to: ElementType, values: &[f32]) -> bool {
    let same = |v: f32, back: f32| v.to_bits() == back.to_bits();
    match to {
        ElementType::F32 => true,
        ElementType::F16 => values.iter().all(|&v| same(v, f16::from_f32(v).to_f32())),
        ElementType::BF16 => values.iter().all(|&v| same(v, bf16::from_f32(v).to_f32())),
        _ => false,
    }
}

/// Writes values as little-endian numbers of `to`, one of f32, f16 and bf16: `out` has room for exactly them. For
/// f16 and bf16 they were found to fit ([`unfit`]).
pub(crate) fn write(to: ElementType, values: &[f32], out: &mut [u8]) {
    match to {
        // Through `half`'s slice conversion, which finds the machine's own instruction at run time.
        ElementType::F16 => {
            const STEP: usize = 1024; // `out` promises no alignment, so values pass through this buffer
            let mut buffer = [f16::ZERO; STEP];
            for (values, out) in values.chunks(STEP).zip(out.chunks_mut(STEP * 2)) {
                let buffer = &mut buffer[..values.len()];
                buffer.convert_from_f32_slice(values);
                out.as_chunks_mut().0.iter_mut().zip(buffer).for_each(|(b, v)| *b = v.to_le_bytes());
            }
        }
        // The upper half, rounded: without NaN it takes no branch.
        ElementType::BF16 => {
            for (out, value) in out.as_chunks_mut().0.iter_mut().zip(values) {
                let bits = value.to_bits();
                let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
                *out = (rounded as u16).to_le_bytes();
            }
        }
        _ => out.as_chunks_mut().0.iter_mut().zip(values).for_each(|(b, v)| *b = v.to_le_bytes()),
    }
}

/// Half a step of `to` by the size of a number, and half the smallest step there is: how far rounding may take it
/// is the larger of the two.
pub(crate) fn rounding(to: ElementType) -> (f32, f32) {
    match to {
        ElementType::F16 => (1.0 / 2048.0, f32::from_bits(0x3300_0000)), // 2^-25
        // Subnormal bf16 are steps of 2^-133.
        ElementType::BF16 => (1.0 / 256.0, f32::from_bits(1 << 15)),
        _ => (0.0, 0.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ElementType::{BF16, F16, F32};

    #[test]
    fn the_first_value_out_of_range_is_found() {
        let largest = f32::from_bits(65520f32.to_bits() - 1);
        assert_eq!(unfit(F16, &[0.0, -largest, largest]), None);
        assert_eq!(unfit(F16, &[0.0, -65520.0, 1.0]), Some(1));
        assert_eq!(unfit(BF16, &[3.38e38, -65520.0]), None);
        assert_eq!(unfit(BF16, &[1.0, f32::MAX]), Some(1));
        for to in [F16, BF16, F32] {
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                assert_eq!(unfit(to, &[0.0, 1.0, bad, f32::NAN]), Some(2));
            }
        }
        assert_eq!(unfit(F32, &[f32::MAX]), None);
    }

    #[test]
    fn values_in_range_stay_finite_and_near() {
        let mut x = 1e-44f32;
        while x < 65519.0 {
            for to in [F16, BF16] {
                for v in [x, -x] {
                    assert_eq!(unfit(to, &[v]), None);
                    let mut bytes = [0; 2];
                    write(to, &[v], &mut bytes);
                    let back = match to {
                        F16 => f16::from_le_bytes(bytes).to_f32(),
                        _ => bf16::from_le_bytes(bytes).to_f32(),
                    };
                    let nearest =
                        if to == F16 { f16::from_f32(v).to_f32() } else { bf16::from_f32(v).to_f32() };
                    assert_eq!(back.to_bits(), nearest.to_bits(), "{v} {to}");
                    let (relative, least) = rounding(to);
                    assert!((back - v).abs() <= (relative * v.abs()).max(least), "{v} {back} {to}");
                    assert_eq!(fits(to, &[v]), back == v, "{v} {to}");
                    assert!(fits(to, &[back]));
                }
            }
            x = (x * 1.0137).max(x.next_up());
        }
    }

    #[test]
    fn what_a_type_holds() {
        for &from in ElementType::ALL {
            assert_eq!(holds(from, F32), from != ElementType::F64);
            assert_eq!(holds(from, F16), matches!(from, F16 | ElementType::F8E4M3 | ElementType::F8E5M2));
        }
    }
}
