//! Weights that were trained for `q4_0` or `q4_1`: found, and encoded without error.
//!
//! Checkpoints of quantization-aware training are often published as plain numbers (Gemma's `qat-q4_0-unquantized` in
//! bf16), each block of 32 of which is a scale times small whole numbers, rounded to the type of the file:
//!
//! ```text
//! q4_0 grid    v = round(d q)        q from -8 to 7, d of either sign
//! q4_1 grid    v = round(d q + m)    q from 0 to 15
//! ```
//!
//! The encoders of llama-quantize take the scale from the extreme value, which they assume to have the extreme code.
//! Where the largest code of a block is another (and it usually is), scale and codes are wrong, and what training
//! achieved is lost. Here scale and codes are recovered: for each number of steps that the extreme value can be from
//! zero, the interval of scales is narrowed that explains every value within its rounding.
//!
//! | target | holds a `q4_0` grid | holds a `q4_1` grid |
//! |---|---|---|
//! | `q4_0`, `q5_0`, `q8_0` | `d`, `q` | no |
//! | `q4_1`, `q5_1` | `d`, `q + 8`, `m = -8 d` | `d`, `q`, `m` |
//!
//! The K types do not: their blocks' scales are a six- or eight-bit multiple of another.

use quern_compute::simd::Level;
use quern_tensor_io::layout::{F16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, blocks_mut};
use quern_tensor_io::{ElementType, decode};

use super::pack::{Affine32, Symmetric32};
use super::{EncodeError, encode_rows_at};
use rounding::{Rounding, Values};

mod affine;
mod rounding;
mod symmetric;
#[cfg(test)]
mod tests;

/// Values of a block.
pub(crate) const BLOCK: usize = 32;

/// A grid that the blocks of a tensor can be on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grid {
    /// A scale times -8 to 7.
    Q4_0,
    /// A scale times 0 to 15, plus a minimum.
    Q4_1,
}

impl Grid {
    /// The smallest block type that holds it.
    pub fn element_type(self) -> ElementType {
        match self {
            Self::Q4_0 => ElementType::Q4_0,
            Self::Q4_1 => ElementType::Q4_1,
        }
    }

    /// Whether blocks of this type hold it without error.
    pub fn fits(self, element_type: ElementType) -> bool {
        use ElementType as T;
        match self {
            Self::Q4_0 => [T::Q4_0, T::Q4_1, T::Q5_0, T::Q5_1, T::Q8_0].contains(&element_type),
            Self::Q4_1 => [T::Q4_1, T::Q5_1].contains(&element_type),
        }
    }
}

/// What became of looking for a grid in a block. The number is the evidence: how unlikely it is that values that are on
/// no grid fit, in bits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Fit {
    /// All values are zero: every encoder has them, and they say nothing.
    Trivial,
    /// These numbers, rounded as the source's were, are the values.
    Exact(Block, f32),
    /// The values are on a grid, but its scale is no f16 number.
    Near(Block, f32),
    /// The values are on no grid.
    Off,
}

/// Scale, minimum and codes of a block. The scale and the minimum are f16 numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Block {
    /// Codes from -8 to 7.
    Symmetric { d: f32, codes: [i8; BLOCK] },
    /// Codes from 0 to 15.
    Affine { d: f32, m: f32, codes: [u8; BLOCK] },
}

impl Block {
    /// The numbers it stands for.
    fn values(&self) -> Values {
        match self {
            Self::Symmetric { d, codes } => codes.map(|q| f32::from(q) * d),
            Self::Affine { d, m, codes } => codes.map(|q| f32::from(q) * d + m),
        }
    }

    /// Writes it as one block of `element_type`, if that type holds it.
    fn write(&self, element_type: ElementType, out: &mut [u8]) -> bool {
        use ElementType as T;
        match (self, element_type) {
            (Self::Symmetric { d, codes }, T::Q4_0) => {
                blocks_mut::<Q4_0>(out)[0] = Q4_0::pack(F16::from_f32(*d), &codes.map(|q| (q + 8) as u8));
            }
            (Self::Symmetric { d, codes }, T::Q5_0) => {
                blocks_mut::<Q5_0>(out)[0] = Q5_0::pack(F16::from_f32(*d), &codes.map(|q| (q + 16) as u8));
            }
            (Self::Symmetric { d, codes }, T::Q8_0) => {
                blocks_mut::<Q8_0>(out)[0] = Q8_0 { d: F16::from_f32(*d), qs: *codes };
            }
            (Self::Symmetric { d, codes }, T::Q4_1 | T::Q5_1) => {
                let m = -8.0 * d;
                // Eight times an f16 number is one, unless it is too large.
                let held = F16::from_f32(m).to_f32() == m;
                return held
                    && Self::Affine { d: *d, m, codes: codes.map(|q| (q + 8) as u8) }
                        .write(element_type, out);
            }
            (Self::Affine { d, m, codes }, T::Q4_1) => {
                blocks_mut::<Q4_1>(out)[0] = Q4_1::pack(F16::from_f32(*d), F16::from_f32(*m), codes);
            }
            (Self::Affine { d, m, codes }, T::Q5_1) => {
                blocks_mut::<Q5_1>(out)[0] = Q5_1::pack(F16::from_f32(*d), F16::from_f32(*m), codes);
            }
            (Self::Symmetric { .. } | Self::Affine { .. }, _) => return false,
        }
        true
    }
}

/// Looks for `grid` in a block of numbers that the source stores as `stored`.
pub(crate) fn fit(grid: Grid, values: &Values, stored: ElementType) -> Fit {
    let mut best = Fit::Off;
    for rounding in Rounding::of(values, stored) {
        match under(grid, values, rounding) {
            near @ Fit::Near(..) => best = near,
            Fit::Off => {}
            found @ (Fit::Trivial | Fit::Exact(..)) => return found,
        }
    }
    best
}

fn under(grid: Grid, values: &Values, rounding: Rounding) -> Fit {
    match grid {
        Grid::Q4_0 => symmetric::fit(values, rounding),
        Grid::Q4_1 => affine::fit(values, rounding),
    }
}

/// Encodes rows of a tensor whose blocks are on `grid`, which `element_type` must [fit](Grid::fits): as
/// [`encode_rows_at`] does, except that blocks whose values that encoder misses are written with their grid's scale and
/// codes. `stored` is the type that the source's numbers have.
///
/// Blocks on the grid decode to the source's numbers, within the rounding of its type; where the grid's scale is no f16
/// number, to those of the nearest f16 scale. Blocks that are on no grid stay as [`encode_rows_at`] leaves them.
///
/// # Errors
/// Those of [`encode_rows_at`].
pub fn encode_rows_on_grid(
    level: Level,
    (grid, stored): (Grid, ElementType),
    element_type: ElementType,
    columns: usize,
    rows: &[f32],
    weights: Option<&[f32]>,
    out: &mut [u8],
) -> Result<(), EncodeError> {
    encode_rows_at(level, element_type, columns, rows, weights, out)?;
    if !grid.fits(element_type) {
        return Ok(());
    }
    let blocks = rows.as_chunks::<BLOCK>().0.iter().zip(out.chunks_exact_mut(element_type.block_bytes()));
    for (values, out) in blocks {
        let mut usual = [0.0; BLOCK];
        if decode::to_f32(element_type, out, &mut usual)
            && let Some(block) = better((grid, stored), values, &usual)
        {
            block.write(element_type, out);
        }
    }
    Ok(())
}

/// The block on the grid for `values`, unless what the usual encoder made of them is as good.
fn better((grid, stored): (Grid, ElementType), values: &Values, usual: &Values) -> Option<Block> {
    let mut near = None;
    for rounding in Rounding::of(values, stored) {
        if usual.iter().zip(values).all(|(&decoded, &v)| rounding.gives(decoded, v)) {
            return None;
        }
        match under(grid, values, rounding) {
            Fit::Exact(block, _) => return Some(block),
            Fit::Near(block, _) => near = Some(block),
            Fit::Trivial | Fit::Off => {}
        }
    }
    near.filter(|block| error(&block.values(), values) < error(usual, values))
}

/// Sum of squared differences.
fn error(decoded: &Values, values: &Values) -> f64 {
    decoded.iter().zip(values).map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2)).sum()
}
