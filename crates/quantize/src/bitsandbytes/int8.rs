//! LLM.int8() rows.

use half::f16;
use half::slice::HalfFloatSliceExt;
use quern_compute::simd::Level;
use quern_compute::simd::lanes::{LANES, LaneOp, Lanes, dispatch};

use super::four_bit::largest;

/// Rounds values to f16, as bitsandbytes does first.
pub(super) fn through_f16(values: &mut [f32]) {
    let mut buffer = [f16::ZERO; 256];
    for values in values.chunks_mut(buffer.len()) {
        let buffer = &mut buffer[..values.len()];
        buffer.convert_from_f32_slice(values);
        buffer.convert_to_f32_slice(values);
    }
}

/// Encodes one row of values that are f16: `round(w * (1 / max |row| * 127))`, ties to even. Returns the largest
/// magnitude.
///
/// # Panics
/// If the lengths differ.
pub(super) fn encode_row(level: Level, values: &[f32], out: &mut [u8]) -> f32 {
    assert_eq!(values.len(), out.len(), "a byte for each value");
    dispatch(level, Row { values, out })
}

/// torch divides a number by a tensor as reciprocal and product, which shows in the last bit.
#[inline(always)]
fn scale(absmax: f32) -> f32 {
    (1.0 / absmax) * 127.0
}

struct Row<'a> {
    values: &'a [f32],
    out: &'a mut [u8],
}

impl LaneOp for Row<'_> {
    type Output = f32;

    #[inline(always)]
    fn call<S: Lanes>(self, s: S) -> f32 {
        let whole = self.values.len() / (2 * LANES) * (2 * LANES);
        let rest = self.values[whole..].iter().fold(0.0f32, |max, x| max.max(x.abs()));
        let absmax = largest(s, &self.values[..whole]).max(rest);
        if absmax == 0.0 {
            self.out.fill(0);
            return absmax;
        }
        let scale = s.splat(scale(absmax));
        for (x, out) in self.values.chunks(LANES).zip(self.out.chunks_mut(LANES)) {
            let mut padded = [0.0; LANES];
            padded[..x.len()].copy_from_slice(x);
            let mut bytes = [0; LANES];
            s.store_bytes(s.nearest(s.load(&padded) * scale), &mut bytes);
            out.copy_from_slice(&bytes[..x.len()]);
        }
        absmax
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_rounds_as_the_plain_version() {
        for count in [1, 15, 16, 31, 32, 33, 100] {
            let mut row: Vec<f32> = (0..count).map(|i| ((i * 37 % 101) as f32 - 50.0) / 3.0).collect();
            row[0] = 31.75; // 127 / 4: quarters are ties
            through_f16(&mut row);
            let absmax = row.iter().fold(0.0f32, |m, x| m.max(x.abs()));
            let scale = scale(absmax);
            let expected: Vec<u8> = row.iter().map(|x| (x * scale).round_ties_even() as i8 as u8).collect();
            for level in Level::available() {
                let mut out = vec![1; count];
                assert_eq!(encode_row(level, &row, &mut out), absmax);
                assert_eq!(out, expected, "{count} {level:?}");
                assert_eq!(encode_row(level, &vec![0.0; count], &mut out), 0.0);
                assert!(out.iter().all(|&b| b == 0));
            }
        }
    }
}
