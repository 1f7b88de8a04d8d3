//! The integers and scales of a layer, however they are packed.

use std::ops::Range;

use super::{Affine, Groups, RUN, TILE, tiles};
use crate::scheme::{PackedLayer, Store};
use crate::{Checkpoint, ElementType, TensorInfo};

/// A layer of integer codes (GPTQ, AWQ, compressed-tensors) in one neutral form:
/// `W[o, k] = scales[g, o] (codes[o, k] - zeros[g, o])` with `g = g_idx[k]`, codes and zero points unsigned.
#[derive(Clone, Copy, Debug)]
pub struct AffineLayer<'a> {
    layer: &'a PackedLayer,
    pub(in crate::scheme) affine: &'a Affine,
    pub(in crate::scheme) checkpoint: &'a Checkpoint,
}

impl PackedLayer {
    /// The layer's codes, zero points and scales; `None` for NF4, FP4 and int8, which have no such.
    pub fn affine<'a>(&'a self, checkpoint: &'a Checkpoint) -> Option<AffineLayer<'a>> {
        match &self.store {
            Store::Affine(affine) => Some(AffineLayer { layer: self, affine, checkpoint }),
            _ => None,
        }
    }
}

impl<'a> AffineLayer<'a> {
    /// The layer it is.
    pub fn layer(&self) -> &'a PackedLayer {
        self.layer
    }

    /// Bits per code.
    pub fn bits(&self) -> u32 {
        self.affine.bits()
    }

    /// Number of groups: of scales and zero points an output has.
    pub fn group_count(&self) -> usize {
        self.affine.group_count
    }

    /// Columns of a group; `None` if all of them are one group.
    pub fn group_size(&self) -> Option<usize> {
        match &self.affine.groups {
            _ if self.affine.group_count == 1 => None,
            Groups::Even(size) => Some(*size),
            Groups::Listed(_) => Some(self.affine.columns.div_ceil(self.affine.group_count)),
        }
    }

    /// Whether groups are of consecutive columns: act-order shuffled nothing.
    pub fn in_order(&self) -> bool {
        matches!(self.affine.groups, Groups::Even(_))
    }

    /// Whether all zero points are `2^(bits - 1)`.
    pub fn symmetric(&self) -> bool {
        self.affine.symmetric() || self.zeros().iter().all(|&zero| u32::from(zero) == 1 << (self.bits() - 1))
    }

    /// Codes of some outputs, `[rows][columns]`, each below `2^bits`.
    ///
    /// GPTQ and AWQ keep the codes of many outputs side by side: outputs are read 256 at a time, and a range of
    /// fewer costs nearly as much. Take slabs of many hundreds.
    ///
    /// # Panics
    /// If `rows` is not within the layer, or `out` has another length.
    pub fn codes(&self, rows: Range<usize>, out: &mut [u8]) {
        let columns = self.affine.columns;
        assert!(rows.start <= rows.end && rows.end <= self.affine.rows);
        assert_eq!(out.len(), rows.len() * columns);
        let mut codes = [[0; TILE]; RUN];
        for (tile, out) in tiles(rows).zip(out.chunks_mut(TILE * columns)) {
            for first in (0..columns).step_by(RUN) {
                let run = first..columns.min(first + RUN);
                self.affine.codes(self.checkpoint, &tile, run.clone(), &mut codes);
                for (o, row) in out.chunks_exact_mut(columns).enumerate() {
                    row[run.clone()].iter_mut().zip(&codes).for_each(|(q, column)| *q = column[o]);
                }
            }
        }
    }

    /// Zero points, `[groups][rows]`, each below `2^bits`.
    pub fn zeros(&self) -> Vec<u8> {
        self.affine.parameters(self.checkpoint, &(0..self.affine.rows)).zeros
    }

    /// Scales, `[groups][rows]`.
    pub fn scales(&self) -> Vec<f32> {
        self.affine.parameters(self.checkpoint, &(0..self.affine.rows)).scales
    }

    /// How the file stores scales: `f16`, `bf16` or `f32`.
    pub fn scale_type(&self) -> ElementType {
        self.checkpoint.tensors()[self.affine.scales].element_type
    }

    /// Group of each column, `[columns]`.
    pub fn g_idx(&self) -> Vec<u32> {
        (0..self.affine.columns).map(|k| self.affine.group(k) as u32).collect()
    }

    /// The layer's bias, which is an ordinary tensor, if it has one.
    pub fn bias(&self) -> Option<&'a TensorInfo> {
        let prefix = self.layer.name.strip_suffix(".weight")?;
        self.checkpoint.index_of(&format!("{prefix}.bias")).map(|i| &self.checkpoint.tensors()[i])
    }
}
