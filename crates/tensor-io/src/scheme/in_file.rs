//! Layers whose numbers kernels multiply as they are in the file, with scales beside them: FP8 (e4m3), and blocks of a
//! GGUF file with a factor.
//!
//! The scales are copied to f32 (of FP8 in blocks of 128 x 128 a thousandth of the layer), the numbers stay in the map.

use super::scaled::Codes;
use super::{PackedLayer, Store};
use crate::{Checkpoint, ElementType};

/// A layer as a matrix of the file and its scales.
#[derive(Clone, Debug, PartialEq)]
pub struct InFile {
    /// How the file stores the numbers: rows of this type, one after the other.
    pub element_type: ElementType,
    /// Index into [`Checkpoint::tensors`] of the tensor that they are all of.
    pub tensor: usize,
    /// Factors of the numbers, `[rows / block rows][columns / block columns]`, both rounded up.
    pub scales: Vec<f32>,
    /// Rows and columns that share a scale.
    pub block: [usize; 2],
}

impl PackedLayer {
    /// The type of the layer's numbers, if kernels multiply them as they are in the file ([`PackedLayer::in_file`]).
    pub fn in_file_type(&self) -> Option<ElementType> {
        match &self.store {
            Store::Scaled(layer) if layer.codes == Codes::Float8(ElementType::F8E4M3) => {
                Some(ElementType::F8E4M3)
            }
            Store::Beside(layer) => Some(layer.element_type),
            Store::Affine(_) | Store::FourBit(_) | Store::Int8(_) | Store::Scaled(_) | Store::Grouped(_) => {
                None
            }
        }
    }

    /// How many scales [`PackedLayer::in_file`] has; none where kernels need another form.
    pub fn in_file_scales(&self) -> usize {
        match &self.store {
            Store::Scaled(layer) if self.in_file_type().is_some() => {
                self.rows.div_ceil(layer.block[0]) * self.columns.div_ceil(layer.block[1])
            }
            Store::Beside(layer) => layer.factors.len(),
            Store::Affine(_) | Store::FourBit(_) | Store::Int8(_) | Store::Scaled(_) | Store::Grouped(_) => 0,
        }
    }

    /// The layer's numbers in the file and their scales, if kernels multiply them so. Otherwise
    /// [`PackedLayer::block_form`] is the form to use.
    pub fn in_file(&self, checkpoint: &Checkpoint) -> Option<InFile> {
        let element_type = self.in_file_type()?;
        match &self.store {
            Store::Scaled(layer) => {
                let scales = layer.all_scales(checkpoint);
                Some(InFile { element_type, tensor: layer.weight, scales, block: layer.block })
            }
            Store::Beside(layer) => {
                let block = [layer.rows_each, self.columns];
                Some(InFile { element_type, tensor: layer.weight, scales: layer.factors.clone(), block })
            }
            Store::Affine(_) | Store::FourBit(_) | Store::Int8(_) | Store::Grouped(_) => None,
        }
    }
}
