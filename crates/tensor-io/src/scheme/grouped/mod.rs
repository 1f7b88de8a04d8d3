//! Layers of integer codes with a scale and an offset of their own, both floats, for each group: MLX, HQQ, and torchao's
//! where zero points are not zero.
//!
//! ```text
//!          codes                                     scales                offsets
//! MLX      P.weight u32[out, b in/32]: a row's        P.scales              P.biases           W = q scale + bias
//!          codes as a bit stream, lowest bit first    [out, in/group]       [out, in/group]
//! HQQ      P.W_q: the weight in groups, [groups][size] P.scale              P.zero             W = (q - zero) scale
//!          (axis 1) or [size][groups] (axis 0), cut    one a group          one a group
//!          into as many slabs of rows as a word has
//!          codes: the first slab in the highest bits
//! torchao  P._weight_qdata i8[out, in]                P._weight_scale       P._weight_zero_point
//!                                                     [out, in/group]       [out, in/group]    W = (q - zero) scale
//! ```
//!
//! Layers of MLX in the modes mxfp4, nvfp4 and mxfp8, and those of torchao without zero points, are in [`super::scaled`].

mod hqq;
mod mlx;
mod torchao;

use std::ops::Range;

pub(super) use hqq::read as read_hqq;
pub(super) use mlx::{is_codes as is_mlx, read as read_mlx};
pub(super) use torchao::read as read_torchao;

use super::exact::Why;
use super::{BlockForm, Scheme, plain_rows, stream};
use crate::layout::{self, F16, Q4_1, Q5_1, U32};
use crate::{Checkpoint, ElementType, decode};

use half::f16;

/// Values of a kernel's block.
const RUN: usize = 32;

/// How codes are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packing {
    /// A bit stream along each row.
    Stream,
    /// Signed bytes.
    Bytes,
    /// Slabs of `height` rows of `width` codes in each word of `word` bytes, the first in the highest bits.
    Slabs { height: usize, width: usize, word: usize },
}

/// Which group a weight belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Groups {
    /// So many consecutive weights, counted through all rows.
    Consecutive(usize),
    /// Weights a whole number of so many apart: as many groups.
    Strided(usize),
}

/// What offsets are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Offset {
    /// Added to the product.
    Bias,
    /// Taken from the code.
    Zero,
}

/// A layer, its tensors given by their indices in [`Checkpoint::tensors`], shapes and types checked.
#[derive(Debug)]
pub(super) struct Grouped {
    pub bits: u32,
    pub rows: usize,
    pub columns: usize,
    pub packing: Packing,
    pub groups: Groups,
    pub codes: usize,
    pub scales: usize,
    pub offsets: usize,
    pub offset: Offset,
}

impl Grouped {
    /// The scheme that has such layers.
    pub fn scheme(&self) -> Scheme {
        let (bits, size) = (self.bits, |count: usize| (self.rows * self.columns / count.max(1)).max(1));
        match (self.packing, self.groups) {
            (Packing::Stream, Groups::Consecutive(group_size)) => Scheme::Mlx { bits, group_size },
            (Packing::Stream, Groups::Strided(count)) => Scheme::Mlx { bits, group_size: size(count) },
            (Packing::Bytes, _) => Scheme::TorchAo,
            (Packing::Slabs { .. }, Groups::Consecutive(group_size)) => Scheme::Hqq { bits, group_size },
            (Packing::Slabs { .. }, Groups::Strided(count)) => Scheme::Hqq { bits, group_size: size(count) },
        }
    }

    fn data<'a>(&self, checkpoint: &'a Checkpoint, tensor: usize) -> &'a [u8] {
        checkpoint.data(&checkpoint.tensors()[tensor])
    }

    /// Numbers `range` of a tensor of floats or bytes.
    fn numbers(&self, checkpoint: &Checkpoint, tensor: usize, range: Range<usize>, out: &mut Vec<f32>) {
        let element_type = checkpoint.tensors()[tensor].element_type;
        let size = element_type.block_bytes();
        let data = &self.data(checkpoint, tensor)[range.start * size..range.end * size];
        out.resize(range.len(), 0.0);
        if element_type == ElementType::I8 {
            return out.iter_mut().zip(data).for_each(|(v, byte)| *v = f32::from(*byte as i8));
        }
        let decoded = decode::to_f32(element_type, data, out);
        debug_assert!(decoded, "the type was checked when the layer was read");
    }

    /// The codes of a row.
    fn codes(&self, checkpoint: &Checkpoint, row: usize, out: &mut [i16]) {
        let data = self.data(checkpoint, self.codes);
        match self.packing {
            Packing::Stream => {
                let words = data.as_chunks::<4>().0;
                let words = &words[row * (words.len() / self.rows)..][..words.len() / self.rows];
                for (k, code) in out.iter_mut().enumerate() {
                    *code = i16::from(stream::code(words, k, self.bits));
                }
            }
            Packing::Bytes => {
                let bytes = &data[row * self.columns..][..self.columns];
                out.iter_mut().zip(bytes).for_each(|(code, byte)| *code = i16::from(*byte as i8));
            }
            Packing::Slabs { height, width, word } => {
                let mask = stream::mask(self.bits);
                let highest = (8 * word as u32 / self.bits - 1) * self.bits;
                for (code, at) in out.iter_mut().zip(row * self.columns..) {
                    let (line, column) = (at / width, at % width);
                    let shift = highest - (line / height) as u32 * self.bits;
                    let bytes = &data[(line % height * width + column) * word..][..word];
                    let value = bytes.iter().rev().fold(0u32, |value, byte| value << 8 | u32::from(*byte));
                    *code = i16::from((value >> shift) as u8 & mask);
                }
            }
        }
    }

    /// Scale and offset of each weight of a row (`Strided`), or of each group of it.
    fn parameters(&self, checkpoint: &Checkpoint, row: usize, scales: &mut Vec<f32>, offsets: &mut Vec<f32>) {
        let first = row * self.columns;
        let range = match self.groups {
            Groups::Consecutive(size) => first / size..(first + self.columns).div_ceil(size),
            Groups::Strided(count) => 0..count,
        };
        self.numbers(checkpoint, self.scales, range.clone(), scales);
        self.numbers(checkpoint, self.offsets, range, offsets);
    }

    /// The group of a row's column, counted from the first that [`Self::parameters`] gives.
    fn group(&self, row: usize, column: usize) -> usize {
        let at = row * self.columns + column;
        match self.groups {
            Groups::Consecutive(size) => at / size - row * self.columns / size,
            Groups::Strided(count) => at % count,
        }
    }

    pub fn decode(&self, checkpoint: &Checkpoint, rows: Range<usize>, out: &mut [f32]) {
        let (mut scales, mut offsets, mut codes) = (Vec::new(), Vec::new(), vec![0; self.columns]);
        for (row, out) in rows.clone().zip(out.chunks_exact_mut(self.columns)) {
            self.codes(checkpoint, row, &mut codes);
            // Those of strided groups are the same for all rows.
            if row == rows.start || matches!(self.groups, Groups::Consecutive(_)) {
                self.parameters(checkpoint, row, &mut scales, &mut offsets);
            }
            for (column, (out, code)) in out.iter_mut().zip(&codes).enumerate() {
                let group = self.group(row, column);
                let (scale, offset, code) = (scales[group], offsets[group], f32::from(*code));
                *out = match self.offset {
                    Offset::Bias => code * scale + offset,
                    Offset::Zero => (code - offset) * scale,
                };
            }
        }
    }

    /// The block type that has a scale and an offset, where runs of 32 columns have one each.
    fn block_type(&self) -> Option<ElementType> {
        let whole = matches!(self.groups, Groups::Consecutive(size) if size.is_multiple_of(RUN));
        match self.bits {
            _ if !whole || !self.columns.is_multiple_of(RUN) || self.packing == Packing::Bytes => None,
            1..=4 => Some(ElementType::Q4_1),
            5 => Some(ElementType::Q5_1),
            _ => None,
        }
    }

    pub fn block_form(&self) -> BlockForm {
        let (element_type, exact) = match self.block_type() {
            Some(element_type) => (element_type, true),
            None => (ElementType::F16, false),
        };
        BlockForm { element_type, exact, permutation: None, factor: 1.0 }
    }

    /// The GGUF type that holds exactly the layer's values. Reads all scales and biases.
    pub fn exact(&self, checkpoint: &Checkpoint) -> Result<ElementType, Why> {
        const QUANTIZE: &str = "decode it and quantize the values again, which is not lossless";
        if self.offset == Offset::Zero {
            let why = "its zero points are numbers between the codes, and products with scales would be rounded in blocks";
            return Err(Why::new(why, QUANTIZE));
        }
        let Some(element_type) = self.block_type() else {
            return Err(match self.columns.is_multiple_of(RUN) && self.bits > 5 {
                true => {
                    Why::new(format!("no GGUF block type has {} bits and a minimum", self.bits), QUANTIZE)
                }
                false if self.columns.is_multiple_of(RUN) => Why::groups(),
                false => Why::columns(self.columns),
            });
        };
        let (mut scales, mut offsets) = (Vec::new(), Vec::new());
        for row in 0..self.rows {
            self.parameters(checkpoint, row, &mut scales, &mut offsets);
            for (group, (scale, offset)) in scales.iter().zip(&offsets).enumerate() {
                for (value, name) in [(scale, "scale"), (offset, "bias")] {
                    if !value.is_finite() {
                        return Err(Why::scale(*value, "is not a finite number", row, group));
                    }
                    if f16::from_f32(*value).to_f32() != *value {
                        let what = format!("(or bias) is not an f16 number ({name}), which blocks store");
                        return Err(Why::scale(*value, &what, row, group));
                    }
                }
            }
        }
        Ok(element_type)
    }

    /// Writes rows in [`Self::block_form`]'s type.
    pub fn blocks(
        &self,
        checkpoint: &Checkpoint,
        element_type: ElementType,
        rows: Range<usize>,
        out: &mut [u8],
    ) {
        match element_type {
            ElementType::Q4_1 => self.place(checkpoint, rows, layout::blocks_mut::<Q4_1>(out), |d, m, q| {
                Q4_1 { d, m, qs: std::array::from_fn(|j| q[j] as u8 | (q[j + RUN / 2] as u8) << 4) }
            }),
            ElementType::Q5_1 => self.place(checkpoint, rows, layout::blocks_mut::<Q5_1>(out), |d, m, q| {
                let fifths = q.iter().enumerate().fold(0, |bits, (j, q)| bits | (*q as u32 >> 4 & 1) << j);
                let qs = std::array::from_fn(|j| q[j] as u8 & 15 | (q[j + RUN / 2] as u8) << 4);
                Q5_1 { d, m, qh: U32::new(fifths), qs }
            }),
            _ => plain_rows(self.columns, rows, out, |rows, values| self.decode(checkpoint, rows, values)),
        }
    }

    fn place<B>(
        &self,
        checkpoint: &Checkpoint,
        rows: Range<usize>,
        out: &mut [B],
        block: impl Fn(F16, F16, &[i16; RUN]) -> B,
    ) {
        let (mut scales, mut offsets, mut codes) = (Vec::new(), Vec::new(), vec![0; self.columns]);
        for (row, out) in rows.zip(out.chunks_exact_mut(self.columns / RUN)) {
            self.codes(checkpoint, row, &mut codes);
            self.parameters(checkpoint, row, &mut scales, &mut offsets);
            for (run, (out, codes)) in out.iter_mut().zip(codes.as_chunks::<RUN>().0).enumerate() {
                let group = self.group(row, run * RUN);
                let minimum = match self.offset {
                    Offset::Bias => offsets[group],
                    Offset::Zero => -offsets[group] * scales[group],
                };
                *out = block(F16::from_f32(scales[group]), F16::from_f32(minimum), codes);
            }
        }
    }
}
