//! Which GGUF type holds exactly the values of a layer of scaled codes.
//!
//! | layer | type | needs |
//! |---|---|---|
//! | MXFP4 | `mxfp4` | |
//! | NVFP4 | `nvfp4`, with the layer's factor in a tensor beside it | columns in whole blocks of 64 |
//! | 8-bit integers | `q8_0` | scales that are f16 numbers |
//! | FP8, NVFP4 | `q8_0` | in each run of 32 columns, all values are at most 127 times the same f16 number |
//! | FP8, NVFP4 | `bf16`, `f16` | every product of a code and a scale is such a number: scales of few significant bits, powers of two above all |
//!
//! The factor that compressed-tensors divides by is stored as its reciprocal, so that values may differ in the last bit
//! of f32; codes and scales are the same.
//!
//! Zero has no sign in `q8_0` and `mxfp4`: minus zero becomes zero.

use std::ops::Range;

use super::{Codes, RUN, Scaled};
use crate::layout::{self, F16, Q8_0};
use crate::scheme::exact::Why;
use crate::{Checkpoint, ElementType};

use half::{bf16, f16};

/// The largest code of `q8_0`.
const STEPS: f32 = 127.0;

impl Scaled {
    /// The type. Reads all scales, and of FP8 the codes up to the first run that `q8_0` does not hold.
    pub fn exact(&self, checkpoint: &Checkpoint) -> Result<ElementType, Why> {
        let mut scales = Vec::new();
        for row in (0..self.rows).step_by(self.block[0]) {
            self.scales(checkpoint, row, &mut scales);
            if let Some(group) = scales.iter().position(|s| !s.is_finite()) {
                return Err(Why::scale(scales[group], "is not a finite number", row, group));
            }
        }
        if !self.columns.is_multiple_of(RUN) && self.codes == Codes::Int8 {
            return Err(Why::columns(self.columns));
        }
        match self.codes {
            Codes::Float4 if self.is_mxfp4() => Ok(ElementType::MXFP4),
            Codes::Float4 if self.is_nvfp4_in_blocks() => Ok(ElementType::NVFP4),
            Codes::Int8 if !self.has_whole_runs() => Err(Why::groups()),
            Codes::Int8 => match self.first_scale(checkpoint, |s| f16::from_f32(s).to_f32() == s) {
                None => Ok(ElementType::Q8_0),
                Some((row, group, scale)) => {
                    Err(Why::scale(scale, "is not an f16 number, which blocks store", row, group))
                }
            },
            Codes::Float4 | Codes::Float8(_) => self.exact_floats(checkpoint),
        }
    }

    fn exact_floats(&self, checkpoint: &Checkpoint) -> Result<ElementType, Why> {
        if self.has_whole_runs() && self.is_made_of_steps(checkpoint) {
            return Ok(ElementType::Q8_0);
        }
        let magnitudes = self.magnitudes();
        let all = |holds: &dyn Fn(f32) -> bool| {
            let fits = |scale: f32| magnitudes.iter().all(|m| holds(m * scale));
            self.first_scale(checkpoint, fits)
        };
        let Some((row, group, scale)) = all(&|v| bf16::from_f32(v).to_f32() == v) else {
            return Ok(ElementType::BF16);
        };
        match all(&|v| f16::from_f32(v).to_f32() == v) {
            None => Ok(ElementType::F16),
            Some(_) => {
                let what = "gives products with the codes that have more bits than bf16, f16 and q8_0 hold";
                Err(Why::scale(scale, what, row, group))
            }
        }
    }

    /// The numbers that codes can be, without sign.
    fn magnitudes(&self) -> Vec<f32> {
        let mut values = vec![0.0; 256];
        match self.codes {
            Codes::Float4 => self.values(&(0..128).map(|n| (n & 7) as u8).collect::<Vec<_>>(), &mut values),
            Codes::Int8 | Codes::Float8(_) => self.values(&(0..=255).collect::<Vec<u8>>(), &mut values),
        }
        values.retain(|v| v.is_finite() && *v > 0.0);
        values
    }

    /// The first scale that does not pass: its output, group and value.
    fn first_scale(
        &self,
        checkpoint: &Checkpoint,
        passes: impl Fn(f32) -> bool,
    ) -> Option<(usize, usize, f32)> {
        let mut scales = Vec::new();
        (0..self.rows).step_by(self.block[0]).find_map(|row| {
            self.scales(checkpoint, row, &mut scales);
            scales.iter().position(|s| !passes(*s)).map(|group| (row, group, scales[group]))
        })
    }

    /// Whether every run is whole multiples of one f16 number, and finite.
    fn is_made_of_steps(&self, checkpoint: &Checkpoint) -> bool {
        let (mut scales, mut values) = (Vec::new(), vec![0.0; self.columns]);
        (0..self.rows).all(|row| {
            self.values(self.row(checkpoint, row), &mut values);
            self.scales(checkpoint, row, &mut scales);
            let runs = values.as_chunks::<RUN>().0.iter().enumerate();
            runs.into_iter().all(|(run, values)| {
                let scale = scales[run * RUN / self.block[1]];
                step(values).is_some_and(|step| {
                    let d = step * scale;
                    f16::from_f32(d).to_f32() == d && d / step == scale
                })
            })
        })
    }

    /// Writes rows that [`Scaled::is_made_of_steps`].
    pub(super) fn step_blocks(&self, checkpoint: &Checkpoint, rows: Range<usize>, out: &mut [u8]) {
        let (mut scales, mut values) = (Vec::new(), vec![0.0; self.columns]);
        let per_row = layout::blocks_mut::<Q8_0>(out).chunks_exact_mut(self.columns / RUN);
        for (row, out) in rows.zip(per_row) {
            self.values(self.row(checkpoint, row), &mut values);
            self.scales(checkpoint, row, &mut scales);
            for (run, (block, values)) in out.iter_mut().zip(values.as_chunks::<RUN>().0).enumerate() {
                let step = step(values).unwrap_or(1.0);
                block.d = F16::from_f32(step * scales[run * RUN / self.block[1]]);
                block.qs = values.map(|v| (v / step) as i8);
            }
        }
    }
}

/// The largest power of two of which all values are multiples, at most 127 times it.
fn step(values: &[f32; RUN]) -> Option<f32> {
    let mut least = f32::INFINITY;
    let mut most = 0f32;
    for v in values.iter().filter(|v| **v != 0.0) {
        if !v.is_finite() {
            return None;
        }
        // Codes are normal f32 numbers: the lowest bit set of the significand is the step.
        let bits = v.abs().to_bits();
        let significand = bits & 0x007f_ffff | 0x0080_0000;
        let exponent = (bits >> 23) as i32 - 150 + significand.trailing_zeros() as i32;
        least = least.min((exponent as f32).exp2());
        most = most.max(v.abs());
    }
    match least.is_finite() {
        false => Some(1.0),
        true => (most / least <= STEPS).then_some(least),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_step_is_the_lowest_bit_of_all() {
        let with = |some: &[f32]| {
            let mut values = [0.0; RUN];
            values[..some.len()].copy_from_slice(some);
            step(&values)
        };
        assert_eq!(with(&[]), Some(1.0));
        assert_eq!(with(&[448.0]), Some(64.0));
        assert_eq!(with(&[-1.5, 2.0]), Some(0.5));
        assert_eq!(with(&[120.0, 1.0]), Some(1.0));
        assert_eq!(with(&[128.0, 1.0]), None);
        assert_eq!(with(&[1.0 / 512.0, 0.0]), Some(1.0 / 512.0));
        assert_eq!(with(&[f32::NAN]), None);
    }
}
