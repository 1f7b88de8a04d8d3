//! NF4 and FP4 layers: codes of a table, one scale for each block of the flattened weight.

use std::ops::Range;

use super::BlockForm;
use crate::decode::four_bit;
use crate::layout::{self, F16, NF4};
use crate::{Checkpoint, ElementType};

/// Values of a kernel's block.
const RUN: usize = 32;

/// A layer, its tensors given by their indices in [`Checkpoint::tensors`], sizes and types checked.
#[derive(Debug)]
pub(super) struct FourBit {
    /// The table: NF4's, else FP4's.
    pub nf4: bool,
    pub block_size: usize,
    pub columns: usize,
    pub codes: usize,
    pub absmax: Absmax,
}

/// How scales are stored.
#[derive(Debug)]
pub(super) enum Absmax {
    Plain { absmax: usize },
    Nested { absmax: usize, outer: usize, map: usize, block_size: usize, offset: f32 },
}

/// The scales.
enum Scales<'a> {
    Plain(&'a [[u8; 4]]),
    Nested { codes: &'a [u8], outer: &'a [[u8; 4]], map: &'a [[u8; 4]], block_size: usize, offset: f32 },
}

impl Scales<'_> {
    fn of(&self, block: usize) -> f32 {
        match self {
            Self::Plain(absmax) => f32::from_le_bytes(absmax[block]),
            Self::Nested { codes, outer, map, block_size, offset } => {
                let value = f32::from_le_bytes(map[usize::from(codes[block])]);
                value * f32::from_le_bytes(outer[block / block_size]) + offset
            }
        }
    }
}

impl FourBit {
    fn scales<'a>(&self, checkpoint: &'a Checkpoint) -> Scales<'a> {
        let bytes = |index: usize| checkpoint.data(&checkpoint.tensors()[index]);
        let floats = |index| bytes(index).as_chunks().0;
        match self.absmax {
            Absmax::Plain { absmax } => Scales::Plain(floats(absmax)),
            Absmax::Nested { absmax, outer, map, block_size, offset } => {
                let (codes, outer, map) = (bytes(absmax), floats(outer), floats(map));
                Scales::Nested { codes, outer, map, block_size, offset }
            }
        }
    }

    fn codes<'a>(&self, checkpoint: &'a Checkpoint) -> &'a [u8] {
        checkpoint.data(&checkpoint.tensors()[self.codes])
    }

    pub fn decode(&self, checkpoint: &Checkpoint, rows: Range<usize>, out: &mut [f32]) {
        let (scales, codes) = (self.scales(checkpoint), self.codes(checkpoint));
        let table = if self.nf4 { &four_bit::NF4 } else { &four_bit::FP4 };
        let mut at = rows.start * self.columns;
        let mut rest = out;
        while !rest.is_empty() {
            let left = self.block_size - at % self.block_size;
            let (values, after) = rest.split_at_mut(left.min(rest.len()));
            let values_scaled = table.map(|v| v * scales.of(at / self.block_size));
            let first = at;
            at += values.len();
            // Rows of odd length may begin with a low nibble.
            let (odd, pairs) = values.split_at_mut(first % 2);
            odd.iter_mut().for_each(|v| *v = values_scaled[usize::from(codes[first / 2] & 15)]);
            for (pair, byte) in pairs.chunks_mut(2).zip(&codes[first.div_ceil(2)..]) {
                pair[0] = values_scaled[usize::from(byte >> 4)];
                if let Some(second) = pair.get_mut(1) {
                    *second = values_scaled[usize::from(byte & 15)];
                }
            }
            rest = after;
        }
    }

    pub fn block_form(&self) -> BlockForm {
        let (element_type, exact) = match (self.columns.is_multiple_of(RUN), self.nf4) {
            (true, true) => (ElementType::NF4, true),
            (true, false) => (ElementType::FP4, true),
            (false, _) => (ElementType::F16, false),
        };
        BlockForm { element_type, exact, permutation: None, factor: 1.0 }
    }

    pub fn blocks(&self, checkpoint: &Checkpoint, form: &BlockForm, rows: Range<usize>, out: &mut [u8]) {
        if form.element_type == ElementType::F16 {
            return super::plain_rows(self.columns, rows, out, |rows, values| {
                self.decode(checkpoint, rows, values);
            });
        }
        let (scales, codes) = (self.scales(checkpoint), self.codes(checkpoint));
        // Rows are whole runs of 32, and blocks on disk too: a run is never in two of them.
        let first = rows.start * self.columns / RUN;
        let source = codes.as_chunks::<{ RUN / 2 }>().0;
        // FP4 has the same layout.
        let runs = layout::blocks_mut::<NF4>(out).iter_mut().zip(&source[first..]);
        let per_block = self.block_size / RUN;
        let mut d = F16::ZERO;
        for ((out, source), run) in runs.zip(first..) {
            if run == first || run % per_block == 0 {
                d = F16::from_f32(scales.of(run / per_block));
            }
            out.d = d;
            let (low, high) = source.split_at(RUN / 4);
            for ((pair, a), b) in out.qs.as_chunks_mut::<2>().0.iter_mut().zip(low).zip(high) {
                *pair = [a >> 4 | b & 0xf0, a & 15 | b << 4];
            }
        }
    }
}
