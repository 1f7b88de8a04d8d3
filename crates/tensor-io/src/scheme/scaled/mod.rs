//! Layers of small floats (or signed bytes) with scales by output, by block or by group: FP8, MXFP8, NVFP4, MXFP4 and the
//! 8-bit integers of compressed-tensors.
//!
//! ```text
//!          codes                                    scales
//! FP8      P.weight         f8[out, in]             one; one an output; or one for each block, 128 x 128 as a rule
//! MXFP8    P.weight         f8[out, in]             E8M0 (u8: 2^(code - 127)) for each 32 columns
//! INT8     P.weight         i8[out, in]             one; or one an output
//! NVFP4    P.weight_packed  u8[out, in/2]           e4m3 for each 16 columns, and one factor of all of them
//!          or P.weight      first column in the low nibble
//! MXFP4    P.weight_packed  u8[out, in/2]           E8M0 for each 32 columns
//!          or all experts in one tensor: `stacked`
//!
//! W[o, k] = codes[o, k] s,  s = scales[o / block rows, k / block columns] (times or over the factor), products in f32
//! ```
//!
//! The codes of FP8 have 4 significant bits, so a product with a power of two, or with a scale of few bits, is a bf16
//! number. Block types of GGUF hold such a layer only in special cases: [`Scaled::exact`].

mod exact;
mod read;
mod stack;
pub(super) mod stacked;

use std::ops::Range;

pub(super) use read::{is_of_activations, layer, read, scales_of_another_kind};
pub(super) use stack::{is_stack, read_stack};

use super::{BlockForm, plain_rows};
use crate::decode::{self, mxfp4};
use crate::layout::{self, F16, MXFP4, NVFP4, Q8_0};
use crate::{Checkpoint, ElementType};

use half::{bf16, f16};

/// Values of a kernel's block.
const RUN: usize = 32;

/// Values of a block of `nvfp4`.
const NVFP4_BLOCK: usize = 64;

/// What the codes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Codes {
    /// 8-bit floats, of this type.
    Float8(ElementType),
    /// Signed bytes.
    Int8,
    /// FP4 (E2M1), two to a byte.
    Float4,
}

/// What multiplies all scales of the layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Factor {
    None,
    /// ModelOpt's `weight_scale_2`.
    Times(f32),
    /// compressed-tensors' `weight_global_scale`.
    Over(f32),
}

impl Factor {
    /// The number to multiply with.
    pub fn as_product(self) -> f32 {
        match self {
            Self::None => 1.0,
            Self::Times(factor) => factor,
            Self::Over(factor) => 1.0 / factor,
        }
    }
}

/// A layer, its tensors given by their indices in [`Checkpoint::tensors`], shapes and types checked.
#[derive(Debug)]
pub(super) struct Scaled {
    pub codes: Codes,
    pub rows: usize,
    pub columns: usize,
    /// Outputs and inputs that share a scale; the last block of either may have fewer.
    pub block: [usize; 2],
    pub weight: usize,
    pub scales: usize,
    /// How scales are stored; u8 is E8M0.
    pub scale_type: ElementType,
    pub factor: Factor,
    /// Rows of the tensors: the first of this layer, and from each to the next. Others than 0 and 1 for layers whose
    /// scales are of single rows ([`stacked`]).
    pub first: usize,
    pub step: usize,
}

/// What an E8M0 scale means: 2^(code - 127); 255 is NaN.
fn e8m0(code: u8) -> f32 {
    match code {
        0 => f32::from_bits(0x0040_0000),
        255 => f32::NAN,
        _ => f32::from_bits(u32::from(code) << 23),
    }
}

impl Scaled {
    /// Bits of a code.
    pub fn bits(&self) -> u32 {
        match self.codes {
            Codes::Float8(_) | Codes::Int8 => 8,
            Codes::Float4 => 4,
        }
    }

    /// Scales of an output.
    fn across(&self) -> usize {
        self.columns.div_ceil(self.block[1])
    }

    fn data<'a>(&self, checkpoint: &'a Checkpoint, tensor: usize) -> &'a [u8] {
        checkpoint.data(&checkpoint.tensors()[tensor])
    }

    /// The codes of a row, as stored.
    fn row<'a>(&self, checkpoint: &'a Checkpoint, row: usize) -> &'a [u8] {
        let bytes = self.columns * self.bits() as usize / 8;
        &self.data(checkpoint, self.weight)[(self.first + row * self.step) * bytes..][..bytes]
    }

    /// The scales of a row, with the factor.
    fn scales(&self, checkpoint: &Checkpoint, row: usize, out: &mut Vec<f32>) {
        let across = self.across();
        let first = (self.first + row / self.block[0] * self.step) * across;
        let data = self.data(checkpoint, self.scales);
        let pairs = || data.as_chunks::<2>().0[first..][..across].iter();
        out.clear();
        match self.scale_type {
            ElementType::F16 => out.extend(pairs().map(|b| f16::from_le_bytes(*b).to_f32())),
            ElementType::BF16 => out.extend(pairs().map(|b| bf16::from_le_bytes(*b).to_f32())),
            ElementType::U8 => out.extend(data[first..][..across].iter().map(|b| e8m0(*b))),
            ElementType::F8E4M3 => {
                out.resize(across, 0.0);
                let _ = decode::to_f32(ElementType::F8E4M3, &data[first..][..across], out);
            }
            _ => out.extend(data.as_chunks().0[first..][..across].iter().map(|b| f32::from_le_bytes(*b))),
        }
        match self.factor {
            Factor::None => {}
            Factor::Times(factor) => out.iter_mut().for_each(|s| *s *= factor),
            Factor::Over(factor) => out.iter_mut().for_each(|s| *s /= factor),
        }
    }

    /// The codes of a row as numbers.
    fn values(&self, row: &[u8], out: &mut [f32]) {
        match self.codes {
            Codes::Float8(element_type) => drop(decode::to_f32(element_type, row, out)),
            Codes::Int8 => out.iter_mut().zip(row).for_each(|(v, &q)| *v = f32::from(q as i8)),
            Codes::Float4 => {
                for (pair, &byte) in out.as_chunks_mut::<2>().0.iter_mut().zip(row) {
                    *pair = [byte & 15, byte >> 4].map(|q| f32::from(mxfp4::TABLE[usize::from(q)]) * 0.5);
                }
            }
        }
    }

    pub fn decode(&self, checkpoint: &Checkpoint, rows: Range<usize>, out: &mut [f32]) {
        let mut scales = Vec::with_capacity(self.across());
        for (row, out) in rows.zip(out.chunks_exact_mut(self.columns)) {
            self.values(self.row(checkpoint, row), out);
            self.scales(checkpoint, row, &mut scales);
            for (out, scale) in out.chunks_mut(self.block[1]).zip(&scales) {
                out.iter_mut().for_each(|v| *v *= scale);
            }
        }
    }

    /// Whether every run of 32 columns has one scale.
    fn has_whole_runs(&self) -> bool {
        self.columns.is_multiple_of(RUN)
            && (self.block[1].is_multiple_of(RUN) || self.block[1] >= self.columns)
    }

    /// The form for kernels. Those of FP4 without a factor and of whole bytes keep their codes; the others have no block
    /// type of their own and become f16.
    pub fn block_form(&self) -> BlockForm {
        let (element_type, exact) = match self.codes {
            Codes::Float4 if self.is_mxfp4() => (ElementType::MXFP4, true),
            Codes::Float4 if self.is_nvfp4_in_blocks() => (ElementType::NVFP4, true),
            Codes::Int8 if self.has_whole_runs() => (ElementType::Q8_0, true),
            Codes::Float4 | Codes::Int8 | Codes::Float8(_) => (ElementType::F16, false),
        };
        let factor = if element_type == ElementType::NVFP4 { self.factor.as_product() } else { 1.0 };
        BlockForm { element_type, exact, permutation: None, factor }
    }

    /// Whether it is FP4 with scales in e4m3 of 16 values, in whole blocks of GGUF's `nvfp4`.
    pub fn is_nvfp4_in_blocks(&self) -> bool {
        self.codes == Codes::Float4
            && self.scale_type == ElementType::F8E4M3
            && self.block == [1, 16]
            && self.columns.is_multiple_of(NVFP4_BLOCK)
    }

    /// The scales of all blocks, row of blocks by row of blocks.
    pub fn all_scales(&self, checkpoint: &Checkpoint) -> Vec<f32> {
        let mut all = Vec::with_capacity(self.rows.div_ceil(self.block[0]) * self.across());
        let mut scales = Vec::new();
        for row in (0..self.rows).step_by(self.block[0]) {
            self.scales(checkpoint, row, &mut scales);
            all.extend_from_slice(&scales);
        }
        all
    }

    /// Whether it is FP4 with scales of E8M0, as GGUF's `mxfp4` has them.
    pub fn is_mxfp4(&self) -> bool {
        self.codes == Codes::Float4 && self.scale_type == ElementType::U8 && self.factor == Factor::None
    }

    /// Writes `rows` in blocks of this type: one of [`Scaled::block_form`] or [`Scaled::exact`].
    pub fn blocks(
        &self,
        checkpoint: &Checkpoint,
        element_type: ElementType,
        rows: Range<usize>,
        out: &mut [u8],
    ) {
        match (element_type, self.codes) {
            (ElementType::MXFP4, Codes::Float4) => self.mxfp4_blocks(checkpoint, rows, out),
            (ElementType::NVFP4, Codes::Float4) => self.nvfp4_blocks(checkpoint, rows, out),
            (ElementType::Q8_0, Codes::Int8) => self.byte_blocks(checkpoint, rows, out),
            (ElementType::Q8_0, _) => self.step_blocks(checkpoint, rows, out),
            (ElementType::BF16, _) => {
                let mut values = vec![0.0; self.columns];
                for (row, out) in rows.zip(out.chunks_exact_mut(self.columns * 2)) {
                    self.decode(checkpoint, row..row + 1, &mut values);
                    let pairs = out.as_chunks_mut().0.iter_mut();
                    pairs.zip(&values).for_each(|(b, v)| *b = bf16::from_f32(*v).to_le_bytes());
                }
            }
            _ => plain_rows(self.columns, rows, out, |rows, values| self.decode(checkpoint, rows, values)),
        }
    }

    /// The same codes, a block's first half in low nibbles and its second half in high ones.
    fn mxfp4_blocks(&self, checkpoint: &Checkpoint, rows: Range<usize>, out: &mut [u8]) {
        let across = self.across();
        let all = self.data(checkpoint, self.scales);
        let per_row = layout::blocks_mut::<MXFP4>(out).chunks_exact_mut(across);
        for (row, out) in rows.zip(per_row) {
            let scales = &all[(self.first + row / self.block[0] * self.step) * across..][..across];
            let codes = self.row(checkpoint, row).as_chunks::<{ RUN / 2 }>().0;
            for ((block, codes), &e) in out.iter_mut().zip(codes).zip(scales) {
                block.e = e;
                let (low, high) = codes.split_at(RUN / 4);
                for ((pair, a), b) in block.qs.as_chunks_mut::<2>().0.iter_mut().zip(low).zip(high) {
                    *pair = [a & 15 | b << 4, a >> 4 | b & 0xf0];
                }
            }
        }
    }

    /// The same codes, the first half of each 16 in low nibbles and the second half in high ones. A negative scale becomes a
    /// positive one with the codes' signs changed.
    fn nvfp4_blocks(&self, checkpoint: &Checkpoint, rows: Range<usize>, out: &mut [u8]) {
        let across = self.across();
        let all = self.data(checkpoint, self.scales);
        let per_row = layout::blocks_mut::<NVFP4>(out).chunks_exact_mut(self.columns / NVFP4_BLOCK);
        for (row, out) in rows.zip(per_row) {
            let scales = all[row * across..][..across].as_chunks::<4>().0;
            let codes = self.row(checkpoint, row).as_chunks::<{ NVFP4_BLOCK / 2 }>().0;
            for ((block, codes), scales) in out.iter_mut().zip(codes).zip(scales) {
                block.d = scales.map(|scale| scale & 0x7f);
                for ((qs, codes), scale) in block.qs.iter_mut().zip(codes.as_chunks::<8>().0).zip(scales) {
                    let sign = if scale & 0x80 == 0 { 0 } else { 0x88 };
                    let (low, high) = codes.split_at(4);
                    for ((pair, a), b) in qs.as_chunks_mut::<2>().0.iter_mut().zip(low).zip(high) {
                        *pair = [a & 15 | b << 4, a >> 4 | b & 0xf0].map(|byte| byte ^ sign);
                    }
                }
            }
        }
    }

    /// Signed bytes as they are.
    fn byte_blocks(&self, checkpoint: &Checkpoint, rows: Range<usize>, out: &mut [u8]) {
        let mut scales = Vec::new();
        let per_row = layout::blocks_mut::<Q8_0>(out).chunks_exact_mut(self.columns / RUN);
        for (row, out) in rows.zip(per_row) {
            self.scales(checkpoint, row, &mut scales);
            let codes = self.row(checkpoint, row).as_chunks::<RUN>().0;
            for (run, (block, codes)) in out.iter_mut().zip(codes).enumerate() {
                let d = F16::from_f32(scales[run * RUN / self.block[1]]);
                *block = Q8_0 { d, qs: zerocopy::transmute!(*codes) };
            }
        }
    }
}
