//! Stacks of FP8 experts: one tensor of codes for all experts of a layer, and one of scales beside it.
//!
//! ```text
//! P              f8[experts, out, in]      P is a name like model.layers.0.mlp.experts.gate_up_proj
//! P_scale_inv    one an expert [experts], [experts, 1, 1]; one an output [experts, out, 1]; or one for each block
//! or P_scale     [experts, out / block, in / block]
//! ```
//!
//! A stack is one layer of all experts' rows. Blocks of rows end with an expert, so those of a size that does not divide its
//! rows are refused.

use super::{Codes, Factor, Scaled};
use crate::scheme::label::Label;
use crate::scheme::parts::{Part, find, need};
use crate::scheme::{PackedLayer, Store};
use crate::{Checkpoint, ElementType, Result, TensorInfo};

/// Where scales may be, after the name of the codes.
const SCALES: [&str; 2] = ["_scale_inv", "_scale"];

/// Scales of activations, which are not quantized here.
const ACTIVATIONS: [&str; 3] = ["_activation_scale", "_input_scale", "_input_scale_ub"];

/// Whether this tensor is such a stack.
pub(in crate::scheme) fn is_stack(checkpoint: &Checkpoint, info: &TensorInfo) -> bool {
    let is_float = matches!(info.element_type, ElementType::F8E4M3 | ElementType::F8E5M2);
    is_float && info.shape.len() == 3 && SCALES.iter().any(|end| find(checkpoint, &info.name, end).is_some())
}

/// Reads the stack of this name.
pub(in crate::scheme) fn read_stack(
    checkpoint: &Checkpoint,
    name: &str,
    label: Option<&Label>,
) -> Result<PackedLayer> {
    use ElementType::{BF16, F16, F32};
    let codes = need(checkpoint, name, "")?;
    let (experts, height, columns) = match *codes.info.shape.as_slice() {
        [experts, height, columns] if experts > 0 && height > 0 && columns > 0 => (experts, height, columns),
        _ => {
            let what = format!("has shape {:?}, expected experts, outputs and inputs", codes.info.shape);
            return Err(codes.malformed(what));
        }
    };
    let found: Vec<_> = SCALES.iter().filter_map(|end| find(checkpoint, name, end)).collect();
    let scales = match found[..] {
        [one] => one.of(&[F32, BF16, F16])?,
        [first, ..] => return Err(first.malformed("the weight also has a _scale; which one counts?")),
        [] => need(checkpoint, name, "_scale_inv")?,
    };
    let scaled = Scaled {
        codes: Codes::Float8(codes.info.element_type),
        rows: experts * height,
        columns,
        block: block(scales, [experts, height, columns], label)?,
        weight: codes.index,
        scales: scales.index,
        scale_type: scales.info.element_type,
        factor: Factor::None,
        first: 0,
        step: 1,
    };
    let activations = ACTIVATIONS.iter().filter_map(|end| find(checkpoint, name, end));
    let parts = [codes, scales].into_iter().chain(activations);
    Ok(PackedLayer::new(name.to_owned(), experts * height, columns, parts, Store::Scaled(scaled)))
}

/// Rows and columns that share a scale.
fn block(scales: Part, [experts, height, columns]: [usize; 3], label: Option<&Label>) -> Result<[usize; 2]> {
    let wrong = || {
        scales.malformed(format!(
            "has shape {:?}, which is neither one scale for each of {experts} experts, nor for each of their {height} outputs, \
             nor a grid of blocks that divide {height} x {columns}",
            scales.info.shape
        ))
    };
    let (down, across) = match *scales.info.shape {
        [count] if count == experts => (1, 1),
        [count, down, across] if count == experts && (1..=height).contains(&down) && across >= 1 => {
            (down, across)
        }
        _ => return Err(wrong()),
    };
    let stated = label.and_then(|l| l.block);
    let size = |length: usize, count: usize, stated: Option<usize>| match stated {
        Some(size) if length.div_ceil(size) == count => Some(size.min(length)),
        _ => length.is_multiple_of(count).then(|| length / count),
    };
    let rows = size(height, down, stated.map(|b| b[0])).filter(|rows| height.is_multiple_of(*rows));
    let wide = size(columns, across, stated.map(|b| b[1]));
    rows.zip(wide).map(|(rows, wide)| [rows, wide]).ok_or_else(wrong)
}
