//! Layers of integer codes in the tensors of compressed-tensors (`pack-quantized`), which [`crate::scheme`] reads too:
//! `weight_packed`, `weight_scale`, `weight_shape`, and where they are needed `weight_zero_point` and `weight_g_idx`.
//!
//! Codes keep their number of bits. What is stored as signed codes plus `2^(b-1)` is the unsigned code itself.

use std::ops::Range;

use super::{float_bytes, whole_groups};
use crate::scheme::affine::{TILE, tiles};
use crate::scheme::exact::Why;
use crate::scheme::{AffineLayer, Inexact, PackedLayer, pack, stream};
use crate::{Checkpoint, ElementType, TensorPlan};

/// A layer in the tensors of compressed-tensors, made on demand.
#[derive(Debug)]
pub struct CompressedTensors<'a> {
    layer: AffineLayer<'a>,
    /// `[groups][rows]`; none where all are in the middle.
    zeros: Option<Vec<u8>>,
    /// `[rows][groups]`
    scales: Vec<f32>,
}

/// What the tensors are, in the order in which they are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Packed,
    Scale,
    Shape,
    ZeroPoint,
    Groups,
}

impl PackedLayer {
    /// The layer in the tensors of compressed-tensors, holding the same values.
    ///
    /// # Errors
    /// The reason in words, if it is not of integer codes, if its last group is not whole, or if it is damaged.
    pub fn to_compressed_tensors<'a>(
        &'a self,
        checkpoint: &'a Checkpoint,
    ) -> Result<CompressedTensors<'a>, Inexact> {
        let Some(layer) = self.affine(checkpoint) else {
            let why = "its codes are floats or index a table, which the format pack-quantized of compressed-tensors \
                       cannot express";
            return Err(Why::new(why, "decode it and quantize the values").of(self));
        };
        CompressedTensors::new(layer).map_err(|why| why.of(self))
    }
}

impl<'a> CompressedTensors<'a> {
    fn new(layer: AffineLayer<'a>) -> Result<Self, Why> {
        whole_groups(&layer, "compressed-tensors")?;
        let rows = layer.affine.rows;
        let parameters = layer.affine.parameters(layer.checkpoint, &(0..rows));
        if let Some(at) = parameters.scales.iter().position(|scale| !scale.is_finite()) {
            return Err(Why::scale(parameters.scales[at], "is not a finite number", at % rows, at / rows));
        }
        let middle = 1 << (layer.bits() - 1);
        let symmetric = parameters.zeros.iter().all(|&zero| zero == middle);
        let groups = layer.group_count();
        let by_row = |i: usize| parameters.scales[i % groups * rows + i / groups];
        Ok(Self {
            layer,
            zeros: (!symmetric).then_some(parameters.zeros),
            scales: (0..rows * groups).map(by_row).collect(),
        })
    }

    /// Whether it has no zero points.
    pub fn symmetric(&self) -> bool {
        self.zeros.is_none()
    }

    /// The layer's own form.
    pub fn layer(&self) -> AffineLayer<'a> {
        self.layer
    }

    fn parts(&self) -> impl Iterator<Item = Part> {
        let zeros = self.zeros.as_ref().map(|_| Part::ZeroPoint);
        let groups = (!self.layer.in_order()).then_some(Part::Groups);
        [Part::Packed, Part::Scale, Part::Shape].into_iter().chain(zeros).chain(groups)
    }

    /// Names, types and shapes of the tensors. Scales are of the type they had.
    pub fn plan(&self) -> Vec<TensorPlan> {
        let layer = self.layer.layer();
        let (bits, groups) = (self.layer.bits(), self.layer.group_count());
        let words = |codes| stream::words(codes, bits).unwrap_or_default();
        let planned = |part| {
            let (end, element_type, shape) = match part {
                Part::Packed => ("_packed", ElementType::I32, vec![layer.rows, words(layer.columns)]),
                Part::Scale => ("_scale", self.layer.scale_type(), vec![layer.rows, groups]),
                Part::Shape => ("_shape", ElementType::I64, vec![2]),
                Part::ZeroPoint => ("_zero_point", ElementType::I32, vec![words(layer.rows), groups]),
                Part::Groups => ("_g_idx", ElementType::I32, vec![layer.columns]),
            };
            TensorPlan { name: format!("{}{end}", layer.name), element_type, shape }
        };
        self.parts().map(planned).collect()
    }

    /// Writes the words of some outputs: rows of `weight_packed`. Outputs are read 256 at a time: take multiples.
    ///
    /// # Panics
    /// If `rows` is not within the layer, or `out` has another length.
    pub fn weight_packed(&self, rows: Range<usize>, out: &mut [u8]) {
        let (columns, bits) = (self.layer.layer().columns, self.layer.bits());
        let width = 4 * stream::words(columns, bits).unwrap_or_default();
        assert_eq!(out.len(), rows.len() * width);
        let mut codes = vec![0; rows.len().min(TILE) * columns];
        for (tile, out) in tiles(rows).zip(out.chunks_mut((TILE * width).max(1))) {
            let codes = &mut codes[..tile.len() * columns];
            self.layer.codes(tile, codes);
            let by_row = codes.chunks_exact(columns).zip(out.chunks_exact_mut(width));
            by_row.for_each(|(codes, out)| stream::pack_into(codes, bits, out));
        }
    }

    /// The bytes of tensor number `part`, which is not the first.
    pub fn small(&self, part: usize) -> Vec<u8> {
        let layer = self.layer.layer();
        match self.parts().nth(part) {
            Some(Part::Scale) => float_bytes(&self.scales, self.layer.scale_type()),
            Some(Part::Shape) => {
                [layer.rows as i64, layer.columns as i64].into_iter().flat_map(i64::to_le_bytes).collect()
            }
            Some(Part::ZeroPoint) => {
                let zeros = self.zeros.as_deref().unwrap_or_default();
                pack::zero_points(zeros, layer.rows, self.layer.bits())
            }
            Some(Part::Groups) => self.layer.g_idx().into_iter().flat_map(u32::to_le_bytes).collect(),
            Some(Part::Packed) | None => Vec::new(),
        }
    }
}
