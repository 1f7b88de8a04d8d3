//! Weights of a GGUF file whose blocks have a factor in a tensor beside them: NVFP4, whose scales of 16 values are relative
//! to one of the whole weight.
//!
//! ```text
//! P.weight        blocks [out, in], or [experts, out, in]
//! P.scale         f32[1], or f32[experts]       W = block values times it
//! P.input_scale   the same for activations, which are not quantized here
//! ```
//!
//! llama.cpp multiplies the layer's output with it; a factor of 1 is left out of the file.
//!
//! Gemma 4 has numbers of the model itself under such names, which are no factors of blocks: [`OWN`].

use std::ops::Range;

use super::parts::find;
use super::{BlockForm, PackedLayer, Store};
use crate::decode::mxfp4::TABLE;
use crate::decode::nvfp4::half_ue4m3;
use crate::layout::{self, NVFP4};
use crate::{Checkpoint, ElementType, Result, decode};

/// By `general.architecture`, ends of tensors of the model itself: what a router's input is multiplied with, and the share
/// of each expert.
const OWN: [(&str, [&str; 2]); 1] = [("gemma4", ["ffn_gate_inp", "ffn_down_exps"])];

/// Values of a block of `nvfp4`.
const NVFP4_BLOCK: usize = 64;

/// A layer, its tensors given by their indices in [`Checkpoint::tensors`], shapes and types checked.
#[derive(Debug)]
pub(super) struct Beside {
    pub element_type: ElementType,
    pub columns: usize,
    pub weight: usize,
    /// One, or one for each expert.
    pub factors: Vec<f32>,
    /// Rows that share a factor.
    pub rows_each: usize,
}

/// The layer whose factor this tensor is, by its name and what the model's architecture is called.
pub(super) fn layer_of<'n>(called: &[&str], name: &'n str) -> Option<&'n str> {
    let own = OWN.iter().find(|(of, _)| called.contains(of)).map_or(&[][..], |(_, ends)| ends);
    name.strip_suffix(".scale").filter(|prefix| !own.iter().any(|end| prefix.ends_with(end)))
}

/// Reads the weight with this prefix, which has a tensor `.scale`; `None` if there is no such weight, so that the tensor is
/// something else.
pub(super) fn read(checkpoint: &Checkpoint, prefix: &str) -> Result<Option<PackedLayer>> {
    let (Some(weight), Some(scale)) =
        (find(checkpoint, prefix, ".weight"), find(checkpoint, prefix, ".scale"))
    else {
        return Ok(None);
    };
    let scale = scale.of(&[ElementType::F32])?;
    let [outer @ .., columns] = weight.info.shape.as_slice() else { return Ok(None) };
    let (rows, columns) = (outer.iter().product::<usize>(), *columns);
    if outer.is_empty() || rows == 0 || columns == 0 {
        return Ok(None);
    }
    let element_type = weight.info.element_type;
    if element_type.row_bytes(columns).is_none() || !decode::can_decode(element_type) {
        let what = format!("has a scale beside it, and numbers of type {element_type} are not read");
        return Err(weight.unsupported(what));
    }
    let stacked = if outer.len() > 1 { outer[0] } else { 1 };
    let count = scale.info.elements();
    if count != 1 && count != stacked {
        let what = format!("has {count} numbers; a scale has one, or one for each of {stacked} experts");
        return Err(scale.malformed(what));
    }
    let factors: Vec<f32> = match checkpoint.has_data() {
        true => scale.data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        false => vec![1.0; count],
    };
    if let Some(factor) = factors.iter().find(|factor| !factor.is_finite()) {
        return Err(scale.malformed(format!("holds {factor}, which weights cannot be multiplied with")));
    }
    let beside = Beside { element_type, columns, weight: weight.index, factors, rows_each: rows / count };
    let input = find(checkpoint, prefix, ".input_scale");
    let parts = [Some(weight), Some(scale), input].into_iter().flatten();
    let name = format!("{prefix}.weight");
    Ok(Some(PackedLayer::new(name, rows, columns, parts, Store::Beside(beside))))
}

impl Beside {
    pub fn bits(&self) -> u32 {
        self.element_type.bits_per_element() as u32
    }

    /// The bytes of some rows.
    fn bytes<'a>(&self, checkpoint: &'a Checkpoint, rows: Range<usize>) -> &'a [u8] {
        let row_bytes = self.element_type.row_bytes(self.columns).unwrap_or(0);
        &checkpoint.data(&checkpoint.tensors()[self.weight])[rows.start * row_bytes..rows.end * row_bytes]
    }

    pub fn decode(&self, checkpoint: &Checkpoint, rows: Range<usize>, out: &mut [f32]) {
        if self.element_type == ElementType::NVFP4 {
            return self.decode_nvfp4(checkpoint, rows, out);
        }
        let decoded = decode::to_f32(self.element_type, self.bytes(checkpoint, rows.clone()), out);
        debug_assert!(decoded, "the type was checked when the layer was read");
        for (row, out) in rows.zip(out.chunks_exact_mut(self.columns)) {
            let factor = self.factors[row / self.rows_each];
            out.iter_mut().for_each(|v| *v *= factor);
        }
    }

    /// Scales are multiplied with the factor first, as the values of the model's own release are computed.
    fn decode_nvfp4(&self, checkpoint: &Checkpoint, rows: Range<usize>, out: &mut [f32]) {
        let blocks = layout::blocks::<NVFP4>(self.bytes(checkpoint, rows.clone()));
        let per_row = blocks.chunks_exact(self.columns / NVFP4_BLOCK);
        for ((row, blocks), out) in rows.zip(per_row).zip(out.chunks_exact_mut(self.columns)) {
            let factor = self.factors[row / self.rows_each];
            for (block, out) in blocks.iter().zip(out.as_chunks_mut::<NVFP4_BLOCK>().0) {
                let groups = block.qs.iter().zip(&block.d).zip(out.as_chunks_mut::<16>().0);
                for ((qs, scale), out) in groups {
                    let scale = half_ue4m3(*scale) * factor;
                    let (low, high) = out.split_at_mut(8);
                    for ((q, low), high) in qs.iter().zip(low).zip(high) {
                        *low = f32::from(TABLE[usize::from(q & 15)]) * scale;
                        *high = f32::from(TABLE[usize::from(q >> 4)]) * scale;
                    }
                }
            }
        }
    }

    /// Its own blocks, if one factor is all it has.
    pub fn block_form(&self) -> BlockForm {
        match self.factors[..] {
            [factor] => BlockForm { element_type: self.element_type, exact: true, permutation: None, factor },
            _ => BlockForm { element_type: ElementType::F16, exact: false, permutation: None, factor: 1.0 },
        }
    }

    pub fn blocks(
        &self,
        checkpoint: &Checkpoint,
        element_type: ElementType,
        rows: Range<usize>,
        out: &mut [u8],
    ) {
        match element_type == self.element_type {
            true => out.copy_from_slice(self.bytes(checkpoint, rows)),
            false => super::plain_rows(self.columns, rows, out, |rows, values| {
                self.decode(checkpoint, rows, values);
            }),
        }
    }
}
