//! Where a tensor's rows are.

use std::ops::Range;

use quern_tensor_io::{Checkpoint, TensorInfo};

/// Where a tensor's rows are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the file as they are.
    Plain(Span),
    /// In packed layer number so of [`Contents::packing`](super::Contents::packing).
    Packed(usize),
    /// In some rows of one: a matrix of a stack of experts.
    PackedRows {
        /// Number of the layer.
        layer: usize,
        /// First row.
        first: usize,
        /// Number of rows.
        rows: usize,
    },
    /// In the file, at even distances.
    Woven(Woven),
}

impl Place {
    /// The number of the packed layer that has the rows.
    pub fn packed_layer(self) -> Option<usize> {
        match self {
            Self::Plain(_) | Self::Woven(_) => None,
            Self::Packed(layer) | Self::PackedRows { layer, .. } => Some(layer),
        }
    }
}

/// Plain values of one tensor of the checkpoint at even distances: a matrix that is transposed, or whose rows are between
/// those of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Woven {
    /// Where the values are, with others between them.
    pub span: Span,
    /// Which value of the span is the first.
    pub first: usize,
    /// Values from a row to the next.
    pub row_stride: usize,
    /// Values from a column to the next.
    pub column_stride: usize,
    /// So many rows are at even distances, then come others between them.
    pub run: usize,
    /// Values from the first row of so many to the first of the next.
    pub run_stride: usize,
}

impl Woven {
    /// The bytes of some rows of `columns` values, each of `size` bytes, one after the other, from those of the span.
    ///
    /// # Panics
    /// If the rows are not all in `data`, or `out` has another length.
    pub fn gather(&self, data: &[u8], rows: Range<usize>, (columns, size): (usize, usize), out: &mut [u8]) {
        /// Rows at a time: their values of a column are near each other.
        const TOGETHER: usize = 32;
        assert_eq!(out.len(), rows.len() * columns * size);
        let row_bytes = columns * size;
        let start = |row: usize| {
            let run = self.run.max(1);
            self.first + row / run * self.run_stride + row % run * self.row_stride
        };
        if self.column_stride == 1 {
            for (row, out) in rows.zip(out.chunks_exact_mut(row_bytes.max(1))) {
                out.copy_from_slice(&data[start(row) * size..][..row_bytes]);
            }
            return;
        }
        for (some, out) in rows.step_by(TOGETHER).zip(out.chunks_mut((TOGETHER * row_bytes).max(1))) {
            for column in 0..columns {
                let across = column * self.column_stride;
                for (row, out) in (some..).zip(out.chunks_exact_mut(row_bytes)) {
                    let value = &data[(start(row) + across) * size..][..size];
                    out[column * size..][..size].copy_from_slice(value);
                }
            }
        }
    }
}

/// Consecutive bytes of one tensor of the checkpoint: all of it, or one matrix of a stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Index into [`Checkpoint::tensors`].
    pub tensor: usize,
    /// First byte, counted from the tensor's own first.
    pub start: usize,
    /// Number of bytes.
    pub bytes: usize,
}

impl Span {
    /// The bytes, in the checkpoint this span was made for.
    ///
    /// # Panics
    /// If it was made for another checkpoint and reaches outside the tensor.
    pub fn data<'c>(&self, checkpoint: &'c Checkpoint) -> &'c [u8] {
        &checkpoint.data(self.info(checkpoint))[self.start..][..self.bytes]
    }

    /// The tensor it is part of.
    ///
    /// # Panics
    /// If it was made for another checkpoint that has more tensors.
    pub fn info<'c>(&self, checkpoint: &'c Checkpoint) -> &'c TensorInfo {
        &checkpoint.tensors()[self.tensor]
    }
}
