//! LLM.int8() layers: signed bytes, a scale a row.

use std::ops::Range;

use super::BlockForm;
use crate::layout::{self, F16, Q8_0};
use crate::{Checkpoint, ElementType};

/// Values of a kernel's block.
const RUN: usize = 32;

/// 1/127 as bitsandbytes writes it.
const UNIT: f32 = 7.874_015_718_698_502e-3_f64 as f32;

/// A layer, its tensors given by their indices in [`Checkpoint::tensors`], shapes and types checked.
#[derive(Debug)]
pub(super) struct Int8 {
    pub columns: usize,
    pub weight: usize,
    pub scale: usize,
}

impl Int8 {
    /// The bytes of some rows, each with the row's largest magnitude.
    fn rows<'a>(
        &self,
        checkpoint: &'a Checkpoint,
        rows: Range<usize>,
    ) -> impl Iterator<Item = (&'a [u8], f32)> {
        let bytes = |index: usize| checkpoint.data(&checkpoint.tensors()[index]);
        let weight = &bytes(self.weight)[rows.start * self.columns..rows.end * self.columns];
        let scales = &bytes(self.scale).as_chunks().0[rows];
        weight.chunks_exact(self.columns).zip(scales.iter().map(|&b| f32::from_le_bytes(b)))
    }

    pub fn decode(&self, checkpoint: &Checkpoint, rows: Range<usize>, out: &mut [f32]) {
        for ((row, scale), out) in self.rows(checkpoint, rows).zip(out.chunks_exact_mut(self.columns)) {
            out.iter_mut().zip(row).for_each(|(v, &q)| *v = f32::from(q as i8) * scale * UNIT);
        }
    }

    pub fn block_form(&self) -> BlockForm {
        let exact = self.columns.is_multiple_of(RUN);
        let element_type = if exact { ElementType::Q8_0 } else { ElementType::F16 };
        BlockForm { element_type, exact, permutation: None, factor: 1.0 }
    }

    pub fn blocks(&self, checkpoint: &Checkpoint, form: &BlockForm, rows: Range<usize>, out: &mut [u8]) {
        if form.element_type == ElementType::F16 {
            return super::plain_rows(self.columns, rows, out, |rows, values| {
                self.decode(checkpoint, rows, values);
            });
        }
        let per_row = layout::blocks_mut::<Q8_0>(out).chunks_exact_mut(self.columns / RUN);
        for ((row, scale), out) in self.rows(checkpoint, rows).zip(per_row) {
            let d = F16::from_f32(scale * UNIT);
            for (codes, block) in row.as_chunks::<RUN>().0.iter().zip(out) {
                *block = Q8_0 { d, qs: zerocopy::transmute!(*codes) };
            }
        }
    }
}
