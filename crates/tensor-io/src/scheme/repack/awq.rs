//! Layers of 4-bit codes in AWQ's tensors, `gemm` version, as AutoAWQ writes them:
//!
//! ```text
//! qweight  I32 [columns][rows/8]   codes of eight outputs a word, in the order 0 2 4 6 1 3 5 7
//! qzeros   I32 [groups][rows/8]    zero points, in the same order
//! scales   F16 [groups][rows]
//! ```

use std::ops::Range;

use super::{float_bytes, scale_type, whole_groups};
use crate::scheme::affine::{RUN, TILE, tiles};
use crate::scheme::exact::Why;
use crate::scheme::{AffineLayer, Inexact, PackedLayer};
use crate::{Checkpoint, ElementType, TensorPlan};

/// Outputs to a word.
const TOGETHER: usize = 8;

/// A layer as AWQ's three tensors, made on demand.
#[derive(Debug)]
pub struct AwqTensors<'a> {
    layer: AffineLayer<'a>,
    /// `[groups][rows]`
    zeros: Vec<u8>,
    /// `[groups][rows]`
    scales: Vec<f32>,
    scale_type: ElementType,
}

impl PackedLayer {
    /// The layer as AWQ's tensors, holding the same values.
    ///
    /// # Errors
    /// The reason in words, if it has not codes of 4 bits in groups of consecutive columns, all of them whole, or if
    /// its outputs do not fill words.
    pub fn to_awq<'a>(&'a self, checkpoint: &'a Checkpoint) -> Result<AwqTensors<'a>, Inexact> {
        let Some(layer) = self.affine(checkpoint) else {
            let why = "its codes are floats or index a table, which AWQ's tensors cannot express";
            return Err(Why::new(why, "decode it and quantize the values").of(self));
        };
        AwqTensors::new(layer).map_err(|why| why.of(self))
    }
}

impl<'a> AwqTensors<'a> {
    fn new(layer: AffineLayer<'a>) -> Result<Self, Why> {
        let rows = layer.affine.rows;
        if layer.bits() != 4 {
            let why = format!("its codes have {} bits, and AWQ's have 4", layer.bits());
            return Err(Why::new(why, "write compressed-tensors"));
        }
        if !layer.in_order() {
            let why = "act-order (desc_act) spread its groups over all columns, and AWQ stores no order";
            return Err(Why::new(why, "quantize the model with desc_act=false"));
        }
        if !rows.is_multiple_of(TOGETHER) {
            let why = format!("its {rows} outputs do not fill words of eight codes");
            return Err(Why::new(why, "leave the layer unquantized"));
        }
        whole_groups(&layer, "AWQ")?;
        let parameters = layer.affine.parameters(layer.checkpoint, &(0..rows));
        let (zeros, scales) = (parameters.zeros, parameters.scales);
        if let Some(at) = scales.iter().position(|scale| !scale.is_finite()) {
            return Err(Why::scale(scales[at], "is not a finite number", at % rows, at / rows));
        }
        let scale_type = match layer.scale_type() {
            ElementType::F32 => scale_type(&scales, &layer),
            half => half,
        };
        Ok(Self { layer, zeros, scales, scale_type })
    }

    /// The layer's own form.
    pub fn layer(&self) -> AffineLayer<'a> {
        self.layer
    }

    /// Names, types and shapes of `qweight`, `qzeros` and `scales`, in this order. Scales are of the type they
    /// had, but `f16` where that holds f32 ones.
    pub fn plan(&self) -> [TensorPlan; 3] {
        let layer = self.layer.layer();
        let prefix = layer.name.strip_suffix(".weight").unwrap_or(&layer.name);
        let (groups, words) = (self.layer.group_count(), layer.rows / TOGETHER);
        let tensor = |end: &str, element_type, shape: [usize; 2]| TensorPlan {
            name: format!("{prefix}.{end}"),
            element_type,
            shape: shape.to_vec(),
        };
        [
            tensor("qweight", ElementType::I32, [layer.columns, words]),
            tensor("qzeros", ElementType::I32, [groups, words]),
            tensor("scales", self.scale_type, [groups, layer.rows]),
        ]
    }

    /// Writes the words of some columns: rows of `qweight`. Columns are read 32 at a time: take multiples.
    ///
    /// # Panics
    /// If `columns` is not within the layer, or `out` has another length.
    pub fn qweight(&self, columns: Range<usize>, out: &mut [u8]) {
        let AffineLayer { affine, checkpoint, .. } = self.layer;
        let width = affine.rows / TOGETHER * 4;
        assert_eq!(out.len(), columns.len() * width);
        let mut codes = [[0; TILE]; RUN];
        for tile in tiles(0..affine.rows) {
            for (first, out) in columns.clone().step_by(RUN).zip(out.chunks_mut(RUN * width)) {
                let run = first..columns.end.min(first + RUN);
                affine.codes(checkpoint, &tile, run, &mut codes);
                for (codes, out) in codes.iter().zip(out.chunks_exact_mut(width)) {
                    interleave(&codes[..tile.len()], &mut out[tile.start / 2..tile.end / 2]);
                }
            }
        }
    }

    /// The bytes of `qzeros`.
    pub fn qzeros(&self) -> Vec<u8> {
        let mut out = vec![0; self.zeros.len() / 2];
        interleave(&self.zeros, &mut out);
        out
    }

    /// The bytes of `scales`.
    pub fn scales(&self) -> Vec<u8> {
        float_bytes(&self.scales, self.scale_type)
    }
}

/// Packs codes of whole words.
fn interleave(codes: &[u8], out: &mut [u8]) {
    // Four codes, every other byte apart, side by side.
    let four = |x: u64| {
        let x = x & 0x000f_000f_000f_000f;
        let x = (x | x >> 12) & 0x0000_00ff_0000_00ff;
        (x | x >> 24) as u32 & 0xffff
    };
    for (codes, out) in codes.as_chunks::<TOGETHER>().0.iter().zip(out.as_chunks_mut::<4>().0) {
        let codes = u64::from_le_bytes(*codes);
        *out = (four(codes) | four(codes >> 8) << 16).to_le_bytes();
    }
}
