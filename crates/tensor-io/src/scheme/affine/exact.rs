//! Determines from a layer's integer codes which block type holds exactly its values.
//!
//! A block of one scale `d` decodes to `(code - middle) d`, a layer to `(q - z) scale`: the same product, if `d`
//! is the scale itself (so f16 holds it) and `q - z` is within the block's codes. Whether `q4_1`'s sum `q d + m`
//! gives it too is tried with every code.

use half::f16;

use super::{Affine, Order, RUN, TILE, fitting, tiles};
use crate::scheme::exact::Why;
use crate::{Checkpoint, ElementType};

impl Affine {
    /// The block type, and the order of columns if they have to be sorted.
    pub fn exact(&self, checkpoint: &Checkpoint) -> Result<(ElementType, Option<Vec<u32>>), Why> {
        if !self.columns.is_multiple_of(RUN) {
            return Err(Why::columns(self.columns));
        }
        let order = match self.order() {
            Order::Kept => None,
            Order::Sorted(order) => Some(order),
            Order::None => return Err(Why::groups()),
        };
        let (mut least, mut most) = (u8::MAX, u8::MIN);
        let mut with_minimum = self.bits() <= 4;
        for tile in tiles(0..self.rows) {
            let parameters = self.parameters(checkpoint, &tile);
            for (at, (&scale, &zero)) in parameters.scales.iter().zip(&parameters.zeros).enumerate() {
                if let Some(what) = not_f16(scale) {
                    let (group, row) = (at / tile.len(), tile.start + at % tile.len());
                    return Err(Why::scale(scale, what, row, group));
                }
                (least, most) = (least.min(zero), most.max(zero));
                with_minimum &= minimum_is_exact(scale, zero);
            }
        }
        let element_type = match fitting(&self.differences(least..=most)) {
            Some(ElementType::Q4_0) => ElementType::Q4_0,
            _ if with_minimum => ElementType::Q4_1,
            Some(fitting) => fitting,
            // The codes may make less of the range than the zero points allow.
            None => self.fits_bytes(checkpoint).map(|()| ElementType::Q8_0)?,
        };
        Ok((element_type, order))
    }

    /// Whether every `q - z` there is fits a signed byte.
    fn fits_bytes(&self, checkpoint: &Checkpoint) -> Result<(), Why> {
        let mut codes = [[0; TILE]; RUN];
        for tile in tiles(0..self.rows) {
            let parameters = self.parameters(checkpoint, &tile);
            for first in (0..self.columns).step_by(RUN) {
                self.codes(checkpoint, &tile, first..first + RUN, &mut codes);
                for (column, codes) in (first..).zip(&codes) {
                    let zeros = &parameters.zeros[self.group(column) * tile.len()..][..tile.len()];
                    for (row, (&q, &z)) in tile.clone().zip(codes.iter().zip(zeros)) {
                        let steps = i16::from(q) - i16::from(z);
                        if i8::try_from(steps).is_err() {
                            return Err(Why::too_many_steps(steps, row, column));
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

/// What keeps f16 from holding this scale.
fn not_f16(scale: f32) -> Option<&'static str> {
    match () {
        _ if !scale.is_finite() => Some("is not a finite number"),
        _ if f16::from_f32(scale).to_f32() != scale => Some("is not an f16 number, which blocks store"),
        _ => None,
    }
}

/// Whether `q d + m`, `m` rounded to f16, is `(q - z) d` to the bit for every 4-bit code `q`.
fn minimum_is_exact(scale: f32, zero: u8) -> bool {
    let zero = f32::from(zero);
    let m = f16::from_f32(-(zero * scale)).to_f32();
    (0..16u8).map(f32::from).all(|q| (q * scale + m).to_bits() == (scale * (q - zero)).to_bits())
}
