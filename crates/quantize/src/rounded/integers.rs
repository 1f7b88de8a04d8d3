//! Integer codes with a scale (and a zero point) for each group of columns, found by the search of GPTQ without a
//! calibration.

use half::{bf16, f16};
use quern_compute::Pool;
use quern_compute::simd::Level;
use quern_tensor_io::ElementType;
use quern_tensor_io::scheme::pack;

use crate::gptq::{Order, Settings, SolveError, round_to_nearest};

/// Outputs that fill whole words of codes, whatever their bits.
pub(super) const ROWS: usize = 32;

/// How it is done.
pub(super) fn settings(bits: u32, group_size: Option<usize>, symmetric: bool) -> Settings {
    Settings { bits, group_size, symmetric, order: Order::Natural, ..Settings::default() }
}

/// What a piece of a layer is.
pub(super) struct Shape {
    pub rows: usize,
    pub columns: usize,
    /// How scales are stored: f16 or bf16.
    pub scale_type: ElementType,
}

/// Encodes some rows, of which there are whole words unless they are the layer's last: `out` takes their words. Returns
/// the bytes of their scales, `[rows][groups]`, and of their zero points, none where these are in the middle.
///
/// # Errors
/// A weight that is not finite, or too large.
pub(super) fn encode(
    level: Level,
    settings: &Settings,
    shape: &Shape,
    values: &mut Vec<f32>,
    out: &mut [u8],
) -> Result<[Vec<u8>; 2], SolveError> {
    let &Shape { rows, columns, scale_type } = shape;
    // The search takes whole words of outputs.
    let padded = rows.next_multiple_of(ROWS);
    values.resize(padded * columns, 0.0);
    let pool = Pool::with_level(1, level);
    let mut solution = round_to_nearest(&pool, values, padded, columns, None, settings)?;
    let groups = solution.groups;
    let size = columns / groups.max(1);
    let mut scales = Vec::with_capacity(rows * groups * 2);
    let top = f32::from((1u16 << settings.bits) - 1);
    for row in 0..rows {
        for group in 0..groups {
            let at = group * padded + row;
            let scale = solution.scales[at];
            if scale_type != ElementType::BF16 {
                scales.extend(scale.to_le_bytes());
                continue;
            }
            // Codes for the scale as it is stored.
            let (stored, zero) = (in_bf16(scale), f32::from(solution.zeros[at]));
            scales.extend(stored.to_le_bytes());
            let own = row * columns + group * size..row * columns + (group + 1) * size;
            let codes = solution.codes[own.clone()].iter_mut().zip(&values[own]);
            for (code, value) in codes {
                *code = ((value / stored.to_f32()).round_ties_even() + zero).clamp(0.0, top) as u8;
            }
        }
    }
    let width = out.len() / rows.max(1);
    let codes = solution.codes.chunks_exact(columns.max(1)).zip(out.chunks_exact_mut(width.max(1)));
    codes.for_each(|(codes, out)| pack::row(codes, settings.bits, out));
    let zeros = match settings.symmetric {
        true => Vec::new(),
        false => {
            let of_rows = solution.zeros.chunks_exact(padded).flat_map(|zeros| &zeros[..rows]);
            pack::zero_points(&of_rows.copied().collect::<Vec<_>>(), rows, settings.bits)
        }
    };
    Ok([scales, zeros])
}

/// The nearest bf16 that is not zero.
fn in_bf16(scale: f16) -> bf16 {
    // Every f16 is in its range.
    bf16::from_f32(scale.to_f32())
}
