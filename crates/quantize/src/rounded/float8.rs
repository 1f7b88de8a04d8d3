//! Codes of FP8 (E4M3, without infinities) and their scales.

use half::{bf16, f16};
use quern_compute::simd::Level;
use quern_compute::simd::lanes::{LaneOp, Lanes, dispatch};
use quern_tensor_io::ElementType;

/// The largest number.
const LARGEST: f32 = 448.0;
/// From here on numbers round beyond it.
const BEYOND: f32 = 464.0;

/// The nearest code of a finite number, ties to even, those beyond the largest to the largest.
#[inline(always)]
fn code(x: f32) -> u8 {
    const STEP: f32 = 16384.0;
    let sign = (x.to_bits() >> 24) as u8 & 0x80;
    let size = x.to_bits() & 0x7fff_ffff;
    // Below 2^-6 codes are multiples of 2^-9, and so are the f32 next to 2^14.
    let small = (f32::from_bits(size) + STEP).to_bits().wrapping_sub(STEP.to_bits());
    // Three bits of the mantissa stay, and the exponent counts from 7 instead of 127.
    let normal = size.wrapping_sub(120 << 23).wrapping_add(0x7_ffff + (size >> 20 & 1)) >> 20;
    let code = if size < 121 << 23 { small } else { normal.min(0x7e) };
    code as u8 | sign
}

/// A scale for weights of which `largest` is the largest: the largest code stands for it, or for a number next to it
/// where the type rounds the scale.
pub(super) fn scale(largest: f32, element_type: ElementType) -> f32 {
    if largest == 0.0 {
        return 1.0;
    }
    let exact = largest / LARGEST;
    // Where scales are so small that their type has few digits left, the next one up.
    let reaches = |scale: f32| largest < scale * BEYOND;
    match element_type {
        ElementType::F16 => {
            let scale = f16::from_f32(exact);
            let up = || f16::from_bits(scale.to_bits() + 1).to_f32();
            if reaches(scale.to_f32()) { scale.to_f32() } else { up() }
        }
        ElementType::BF16 => {
            let scale = bf16::from_f32(exact);
            let up = || bf16::from_bits(scale.to_bits() + 1).to_f32();
            if reaches(scale.to_f32()) { scale.to_f32() } else { up() }
        }
        _ if reaches(exact) => exact,
        _ => f32::from_bits(exact.to_bits() + 1),
    }
}

/// Finds the largest magnitudes of the runs of `run` columns of all `rows` together: `largest` has one for each run,
/// which it raises. Values are finite.
pub(super) fn raise(level: Level, values: &[f32], columns: usize, run: usize, largest: &mut [f32]) {
    dispatch(level, Raise { values, columns, run, largest });
}

struct Raise<'a> {
    values: &'a [f32],
    columns: usize,
    run: usize,
    largest: &'a mut [f32],
}

impl LaneOp for Raise<'_> {
    type Output = ();

    #[inline(always)]
    fn call<S: Lanes>(self, _: S) {
        // Sizes of finite numbers are in the order of their bits, and the largest of integers is one instruction.
        let size = |x: &f32| x.to_bits() & 0x7fff_ffff;
        for row in self.values.chunks_exact(self.columns.max(1)) {
            for (values, largest) in row.chunks(self.run).zip(&mut *self.largest) {
                let (lanes, rest) = values.as_chunks::<16>();
                let mut most = [largest.to_bits(); 16];
                for lane in lanes {
                    most.iter_mut().zip(lane).for_each(|(most, x)| *most = (*most).max(size(x)));
                }
                let rest = rest.iter().map(size).fold(0, u32::max);
                *largest = f32::from_bits(most.into_iter().fold(rest, u32::max));
            }
        }
    }
}

/// Encodes rows of `columns` values; each run of `run` columns has its scale, the same in all rows.
pub(super) fn encode(
    level: Level,
    values: &[f32],
    columns: usize,
    run: usize,
    scales: &[f32],
    out: &mut [u8],
) {
    dispatch(level, Encode { values, columns, run, scales, out });
}

struct Encode<'a> {
    values: &'a [f32],
    columns: usize,
    run: usize,
    scales: &'a [f32],
    out: &'a mut [u8],
}

impl LaneOp for Encode<'_> {
    type Output = ();

    #[inline(always)]
    fn call<S: Lanes>(self, _: S) {
        let columns = self.columns.max(1);
        let rows = self.values.chunks_exact(columns).zip(self.out.chunks_exact_mut(columns));
        for (values, out) in rows {
            let runs = values.chunks(self.run).zip(out.chunks_mut(self.run));
            for ((values, out), scale) in runs.zip(self.scales) {
                values.iter().zip(out).for_each(|(x, out)| *out = code(x / scale));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use quern_tensor_io::decode;

    use super::*;

    fn value(code: u8) -> f32 {
        let mut out = [0.0];
        assert!(decode::to_f32(ElementType::F8E4M3, &[code], &mut out));
        out[0]
    }

    /// Every number halfway between two codes, and its neighbours, goes where ties to even say.
    #[test]
    fn codes_are_the_nearest_ties_to_even() {
        for low in 0..0x7eu8 {
            let high = low + 1;
            let (a, b) = (value(low), value(high));
            let middle = (a + b) / 2.0;
            let even = if low.is_multiple_of(2) { low } else { high };
            for (x, expected) in [
                (a, low),
                (b, high),
                (middle, even),
                (f32::from_bits(middle.to_bits() - 1), low),
                (f32::from_bits(middle.to_bits() + 1), high),
            ] {
                assert_eq!(code(x), expected, "{x:e}");
                assert_eq!(code(-x), expected | 0x80, "{x:e}");
            }
        }
        for x in [448.0, 455.0, 464.0, 1e9, f32::MAX] {
            assert_eq!([code(x), code(-x)], [0x7e, 0xfe], "{x:e}");
        }
        assert_eq!([code(1e-40), code(-1e-40), code(0.0), code(-0.0)], [0, 0x80, 0, 0x80]);
    }

    /// What torch's `float8_e4m3fn` makes of numbers of all sizes (`tools/make_rounded_golden.py`).
    #[test]
    fn codes_are_those_of_torch() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/golden/float8.bin");
        let golden = std::fs::read(path).unwrap();
        let (entries, rest) = golden.as_chunks::<5>();
        assert!(rest.is_empty() && entries.len() > 1000);
        for &[a, b, c, d, expected] in entries {
            let x = f32::from_le_bytes([a, b, c, d]);
            assert_eq!(code(x), expected, "{x:e} ({:#x})", x.to_bits());
        }
    }

    #[test]
    fn every_level_gives_the_same_codes_and_magnitudes() {
        for (columns, run) in [(1usize, 1), (33, 33), (300, 128), (256, 128)] {
            let values: Vec<f32> = (0..columns * 3).map(|i| ((i * 37 % 101) as f32 - 50.0) * 0.37).collect();
            let runs = columns.div_ceil(run);
            let mut found = Vec::new();
            for level in Level::available() {
                let mut largest = vec![0.0; runs];
                raise(level, &values, columns, run, &mut largest);
                let scales: Vec<_> = largest.iter().map(|l| scale(*l, ElementType::F32)).collect();
                let mut codes = vec![0; values.len()];
                encode(level, &values, columns, run, &scales, &mut codes);
                found.push((largest, codes));
            }
            let expected: Vec<f32> = (0..runs)
                .map(|r| {
                    let within = |i: &usize| i % columns / run == r;
                    (0..values.len()).filter(within).map(|i| values[i].abs()).fold(0.0, f32::max)
                })
                .collect();
            assert_eq!(found[0].0, expected);
            assert!(found.iter().all(|one| *one == found[0]));
            assert!(found[0].1.iter().any(|c| c & 0x7f == 0x7e));
        }
    }

    #[test]
    fn no_scale_makes_the_largest_weight_overflow() {
        for kind in [ElementType::F16, ElementType::BF16, ElementType::F32] {
            let mut largest = 1e-30f32;
            while largest < 6e4 {
                let scale = scale(largest, kind);
                assert!(scale > 0.0 && largest / scale < BEYOND, "{largest:e} {kind} {scale:e}");
                // One step of the smallest f16 more at most, where there are few.
                let exact = largest / LARGEST;
                assert!(scale <= (exact * 1.01).max(exact + 6e-8), "{largest:e} {kind} {scale:e}");
                largest *= 1.37;
            }
            assert_eq!(scale(0.0, kind), 1.0);
        }
    }
}
