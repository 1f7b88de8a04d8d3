//! MXFP4 as gpt-oss was released in it: all experts of a block in one tensor, gate and up projections in turn.
//!
//! ```text
//! P.gate_up_proj_blocks   u8[experts, 2 * out, in / 32, 16]   codes, the first of two in the low nibble
//! P.gate_up_proj_scales   u8[experts, 2 * out, in / 32]       E8M0; even rows are the gate's, odd ones up's
//! P.down_proj_blocks, P.down_proj_scales                      the same, all rows of one matrix
//!
//! layers  P.EXPERT.gate_proj.weight, P.EXPERT.up_proj.weight, P.EXPERT.down_proj.weight
//! ```

use super::{Codes, Factor, Scaled};
use crate::scheme::label::ADVICE;
use crate::scheme::parts::need;
use crate::scheme::{PackedLayer, Store};
use crate::{Checkpoint, ElementType, Result, TensorInfo};

/// Ends of the tensors' names.
const BLOCKS: &str = "_blocks";
const SCALES: &str = "_scales";

/// Columns of a block, and bytes of its codes.
const COLUMNS: usize = 32;
const BYTES: usize = COLUMNS / 2;

/// What such a tensor's name begins with, if it is one: blocks with scales beside them.
pub(in crate::scheme) fn stack<'n>(checkpoint: &Checkpoint, info: &'n TensorInfo) -> Option<&'n str> {
    let prefix = info.name.strip_suffix(BLOCKS)?;
    let scales = checkpoint.index_of(&format!("{prefix}{SCALES}"));
    (info.element_type == ElementType::U8 && scales.is_some()).then_some(prefix)
}

/// Reads the layers of all experts.
pub(in crate::scheme) fn read(checkpoint: &Checkpoint, prefix: &str) -> Result<Vec<PackedLayer>> {
    let blocks = need(checkpoint, prefix, BLOCKS)?;
    let scales = need(checkpoint, prefix, SCALES)?.of(&[ElementType::U8])?;
    let &[experts, height, groups, BYTES] = blocks.info.shape.as_slice() else {
        let what = format!(
            "has shape {:?}, expected [experts, outputs, blocks, {BYTES}]; {ADVICE}",
            blocks.info.shape
        );
        return Err(blocks.unsupported(what));
    };
    scales.shaped(&[experts, height, groups])?;
    let (parent, last) = prefix.rsplit_once('.').unwrap_or(("", prefix));
    let matrices: &[&str] = match last {
        "gate_up_proj" => &["gate_proj", "up_proj"],
        _ => &[last],
    };
    let columns =
        groups.checked_mul(COLUMNS).ok_or_else(|| blocks.malformed("has rows that are too long"))?;
    if experts == 0 || columns == 0 || height == 0 || !height.is_multiple_of(matrices.len()) {
        let what = format!("has shape {:?}, which is no stack of matrices", blocks.info.shape);
        return Err(blocks.malformed(what));
    }
    let rows = height / matrices.len();
    let bytes = rows * groups * (BYTES + 1);
    let layer = |expert: usize, which: usize, matrix: &str| {
        let scaled = Scaled {
            codes: Codes::Float4,
            rows,
            columns,
            block: [1, COLUMNS],
            weight: blocks.index,
            scales: scales.index,
            scale_type: ElementType::U8,
            factor: Factor::None,
            first: expert * height + which,
            step: matrices.len(),
        };
        let dot = if parent.is_empty() { "" } else { "." };
        PackedLayer {
            name: format!("{parent}{dot}{expert}.{matrix}.weight"),
            rows,
            columns,
            parts: vec![blocks.index, scales.index],
            bytes,
            store: Store::Scaled(scaled),
        }
    };
    let of_expert = |expert| matrices.iter().enumerate().map(move |(which, matrix)| (expert, which, *matrix));
    Ok((0..experts).flat_map(of_expert).map(|(expert, which, matrix)| layer(expert, which, matrix)).collect())
}
