//! Stacks of MXFP4 blocks of GGUF as gpt-oss's released files hold them: codes and scales apart, all experts and roles in
//! one tensor.
//!
//! ```text
//! GGUF's block    E8M0 scale, 16 bytes: code c < 16 in the low nibble of byte c, code c >= 16 in the high one of c - 16
//! _blocks         [experts, roles * rows, columns / 32, 16]: code c in byte c / 2, even ones in the low nibble
//! _scales         [experts, roles * rows, columns / 32]
//!                 row roles * r + w is row r of role w
//! ```

use std::ops::Range;

use quern_tensor_io::ElementType;

use super::ViewTensor;
use super::data::{Data, Part};

/// Bytes of GGUF's block, and of its codes.
const BLOCK: usize = ElementType::MXFP4.block_bytes();
const CODES: usize = BLOCK - 1;

/// One of the two tensors.
#[derive(Debug)]
pub(super) struct Split<'a> {
    /// Of each expert one for each role: `[rows][blocks]`.
    parts: Vec<&'a [u8]>,
    roles: usize,
    /// Rows of a part, and blocks of a row.
    rows: usize,
    across: usize,
    /// The scales, not the codes.
    scales: bool,
}

/// The two tensors of a stack, if its parts are such blocks; `fused` is the tensor that they would be decoded to.
pub(super) fn split<'a>(
    fused: &ViewTensor,
    parts: &[Part<'a>],
    roles: usize,
) -> Option<[(ViewTensor, Data<'a>); 2]> {
    let &[experts, columns, wide] = fused.shape.as_slice() else { return None };
    let parts: Option<Vec<&'a [u8]>> = parts
        .iter()
        .map(|part| match part {
            Part::Bytes(data) => Some(*data),
            Part::Woven { .. } | Part::Packed { .. } => None,
        })
        .collect();
    let parts = parts?;
    let (rows, across) = (wide / roles.max(1), columns / (2 * CODES));
    let of = |end: &str, shape: Vec<usize>, scales: bool| {
        let tensor = ViewTensor {
            name: format!("{}{end}", fused.name),
            row_bytes: shape.last().copied().unwrap_or(1),
            shape,
            element_type: ElementType::U8,
            role: None,
            together: 1,
            ..fused.clone()
        };
        (tensor, Data::Mxfp4(Split { parts: parts.clone(), roles, rows, across, scales }))
    };
    let scales = vec![experts, wide, across];
    Some([of("_blocks", [&*scales, &[CODES]].concat(), false), of("_scales", scales, true)])
}

impl<'a> Split<'a> {
    pub fn read(&self, rows: Range<usize>, out: &mut [u8]) {
        let &Self { across, scales, .. } = self;
        match scales {
            true => {
                for (row, out) in rows.zip(out.chunks_exact_mut(across.max(1))) {
                    let blocks = self.row(row).chunks_exact(BLOCK);
                    out.iter_mut().zip(blocks).for_each(|(scale, block)| *scale = block[0]);
                }
            }
            // Rows of the tensor are those of single blocks.
            false => {
                for (row, out) in rows.zip(out.chunks_exact_mut(CODES)) {
                    let codes = &self.row(row / across)[row % across * BLOCK + 1..][..CODES];
                    let (low, high) = out.split_at_mut(CODES / 2);
                    let pairs = codes.as_chunks::<2>().0.iter();
                    for ((low, high), &[a, b]) in low.iter_mut().zip(high).zip(pairs) {
                        (*low, *high) = (a & 15 | b << 4, a >> 4 | b & 0xf0);
                    }
                }
            }
        }
    }

    /// The blocks of a row of the stack.
    fn row(&self, row: usize) -> &'a [u8] {
        let &Self { roles, rows, across, .. } = self;
        let (expert, within) = (row / (roles * rows), row % (roles * rows));
        let part = self.parts[expert * roles + within % roles];
        &part[within / roles * across * BLOCK..][..across * BLOCK]
    }

    /// All bytes of the map that it comes from, once its last row is read.
    pub fn spans(&self, last: bool) -> Vec<&'a [u8]> {
        if last { self.parts.clone() } else { Vec::new() }
    }
}
