//! 16-bit floats to f32 in branch-free steps that a compiler can vectorise.

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

/// FP8 (e4m3) to f32, exact for every code.
#[inline(always)]
pub fn f8_e4m3_to_f32(code: u8) -> f32 {
    let magnitude = u32::from(code & 0x7f);
    // Exponent and mantissa at f32's places, with f32's bias; a subnormal code is made from two normal numbers.
    let normal = (magnitude << 20) + (120 << 23);
    let subnormal = (f32::from_bits(magnitude << 15 | 0x3f00_0000) - 0.5).to_bits();
    let bits = if magnitude < 8 { subnormal } else { normal };
    let bits = if magnitude == 0x7f { 0x7fc0_0000 } else { bits };
    f32::from_bits(bits | u32::from(code & 0x80) << 24)
}

/// bfloat16 to f32: its upper half.
#[inline(always)]
pub fn bf16_to_f32(h: u16) -> f32 {
    f32::from_bits(u32::from(h) << 16)
}

/// Widens halves to f32 (same number of values) with the instructions of `level`; exact.
///
/// # Panics
/// If the lengths differ.
pub fn widen_f16(level: Level, x: &[f16], out: &mut [f32]) {
    // SAFETY: f16 is two bytes without padding, u8 has no alignment; same memory, same lifetime.
    let bytes = unsafe { std::slice::from_raw_parts(x.as_ptr().cast::<u8>(), size_of_val(x)) };
    widen_f16_bytes(level, bytes, out);
}

/// Widens `rows` rows of `width` halves, `stride` apart, into rows of f32 `out_stride` apart.
///
/// # Panics
/// If a slice is too short.
pub(crate) fn widen_f16_rows(
    level: Level,
    rows: usize,
    width: usize,
    (x, stride): (&[f16], usize),
    (out, out_stride): (&mut [f32], usize),
) {
    struct Rows<'a>(usize, usize, &'a [f16], usize, &'a mut [f32], usize);
    impl Op for Rows<'_> {
        type Output = ();
        #[inline(always)]
        fn call(self) {
            let Self(rows, width, x, stride, out, out_stride) = self;
            for r in 0..rows {
                let (x, out) = (&x[r * stride..][..width], &mut out[r * out_stride..][..width]);
                // SAFETY: f16 is two bytes without padding, u8 has no alignment.
                let bytes = unsafe { std::slice::from_raw_parts(x.as_ptr().cast::<u8>(), 2 * width) };
                #[cfg(target_arch = "x86_64")]
                // SAFETY: run only above the scalar level, so the CPU has F16C; lengths are those of one row.
                let done = unsafe { f16c(bytes, out) };
                #[cfg(not(target_arch = "x86_64"))]
                let done = 0;
                for (x, out) in bytes.as_chunks().0[done..].iter().zip(&mut out[done..]) {
                    *out = f16_to_f32(u16::from_ne_bytes(*x));
                }
            }
        }
    }
    if level.here() == Level::Scalar {
        for r in 0..rows {
            let (x, out) = (&x[r * stride..][..width], &mut out[r * out_stride..][..width]);
            x.iter().zip(out).for_each(|(x, out)| *out = f16_to_f32(x.to_bits()));
        }
        return;
    }
    dispatch(level, Rows(rows, width, x, stride, out, out_stride));
}

/// Widens halves, 16 at a time, to the beginnings of rows `out_stride` apart.
///
/// # Panics
/// If `out` is too short.
pub(crate) fn widen_f16_sixteens(level: Level, x: &[f16], out: &mut [f32], out_stride: usize) {
    #[cfg(target_arch = "x86_64")]
    if level.here() >= Level::Avx512 {
        assert!(x.is_empty() || out.len() >= (x.len() / 16 - 1) * out_stride + 16, "widen_f16: lengths");
        // SAFETY: the CPU has the level, lengths are checked.
        return unsafe { sixteens(x, out, out_stride) };
    }
    widen_f16_rows(level, x.len() / 16, 16, (x, 16), (out, out_stride));
}

/// # Safety
/// `out` has a row of 16 for every 16 of `x`.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,f16c,avx512f")]
unsafe fn sixteens(x: &[f16], out: &mut [f32], out_stride: usize) {
    use std::arch::x86_64::*;
    for (row, x) in x.as_chunks::<16>().0.iter().enumerate() {
        // SAFETY: 16 halves; the row exists as the caller guarantees.
        unsafe {
            let wide = _mm512_cvtph_ps(_mm256_loadu_si256(x.as_ptr().cast()));
            _mm512_storeu_ps(out.as_mut_ptr().add(row * out_stride), wide);
        }
    }
}

/// Widens halves in the machine's byte order (little endian in files) anywhere in memory.
///
/// # Panics
/// If there are not two bytes for each value.
pub(crate) fn widen_f16_bytes(level: Level, x: &[u8], out: &mut [f32]) {
    struct Widen<'a>(&'a [[u8; 2]], &'a mut [f32]);
    impl Op for Widen<'_> {
        type Output = ();
        #[inline(always)]
        fn call(self) {
            for (x, out) in self.0.iter().zip(self.1) {
                *out = f16_to_f32(u16::from_ne_bytes(*x));
            }
        }
    }
    assert_eq!(x.len(), 2 * out.len(), "widen_f16: lengths");
    #[cfg(target_arch = "x86_64")]
    let done = match level.here() {
        Level::Scalar => 0,
        // SAFETY: the CPU has F16C, lengths are checked.
        Level::Avx2 | Level::AvxVnni | Level::Avx512 | Level::Avx512Vnni | Level::Amx => unsafe {
            f16c(x, out)
        },
    };
    #[cfg(not(target_arch = "x86_64"))]
    let done = 0;
    dispatch(level, Widen(&x.as_chunks().0[done..], &mut out[done..]));
}

/// Widens whole groups of 8; returns how many values that were.
///
/// # Safety
/// `x` has two bytes for each value of `out`.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,f16c")]
#[inline]
unsafe fn f16c(x: &[u8], out: &mut [f32]) -> usize {
    use std::arch::x86_64::*;
    let done = out.len() / 8 * 8;
    for i in (0..done).step_by(8) {
        // SAFETY: values i .. i + 8 of both.
        unsafe {
            let wide = _mm256_cvtph_ps(_mm_loadu_si128(x.as_ptr().add(2 * i).cast()));
            _mm256_storeu_ps(out.as_mut_ptr().add(i), wide);
        }
    }
    done
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
    fn every_code_of_e4m3() {
        let mut wide = [0f32; 256];
        let codes: Vec<u8> = (0..=255).collect();
        assert!(quern_tensor_io::decode::to_f32(quern_tensor_io::ElementType::F8E4M3, &codes, &mut wide));
        for (code, wide) in codes.iter().zip(wide) {
            let own = f8_e4m3_to_f32(*code);
            assert!(own.to_bits() == wide.to_bits() || own.is_nan() && wide.is_nan(), "{code}: {own} {wide}");
        }
    }

    #[test]
    fn widening_agrees_at_every_level() {
        let x: Vec<f16> =
            (0..=u16::MAX).step_by(if cfg!(miri) { 97 } else { 7 }).map(f16::from_bits).collect();
        for level in Level::available() {
            let mut wide = vec![0f32; x.len()];
            widen_f16(level, &x, &mut wide);
            let mut back = vec![f16::ZERO; x.len()];
            narrow_f16(&wide, &mut back);
            for ((x, wide), back) in x.iter().zip(&wide).zip(&back) {
                assert!(
                    *wide == f16_to_f32(x.to_bits()) && x == back || (x.is_nan() && wide.is_nan()),
                    "{x}"
                );
            }
        }
    }

    #[test]
    fn every_half_is_converted_exactly() {
        for h in (0..=u16::MAX).step_by(if cfg!(miri) { 97 } else { 1 }) {
            let (ours, theirs) = (f16_to_f32(h), half::f16::from_bits(h).to_f32());
            assert!(ours.to_bits() == theirs.to_bits() || (ours.is_nan() && theirs.is_nan()), "{h:#x}");
            assert_eq!(bf16_to_f32(h).to_bits(), u32::from(h) << 16);
        }
    }
}
