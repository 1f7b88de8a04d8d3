//! Packed layers as GGUF blocks that hold exactly the same values.
//!
//! | layer | blocks | needs |
//! |---|---|---|
//! | all `q - z` within -8..=7: symmetric 4 bits; 1 to 3 bits with any zero points | `q4_0` | |
//! | 4 bits, other zero points | `q4_1` | every `-z scale` is an f16 number |
//! | all `q - z` within -16..=15: 4 bits with any zero points, symmetric 5 bits | `q5_0` | |
//! | all `q - z` within -128..=127: symmetric 8 bits, 5 to 7 bits; 8 bits whose codes happen to | `q8_0` | |
//!
//! All of them need scales that are f16 numbers, columns in multiples of 32, and groups that share no run of 32
//! columns, be it after sorting columns by group.
//!
//! Layers of scaled codes (FP8, NVFP4, MXFP4) have rules of their own: [`super::scaled`].
//!
//! So asymmetric GPTQ and AWQ layers of 4 bits are converted without loss: `q - z` has 31 values, which take a fifth
//! bit, where a minimum would have to be rounded. NF4 and FP4 have tables that no GGUF type has, and the scales of
//! LLM.int8() are f32.

use std::fmt;
use std::ops::Range;

use super::{PackedLayer, Store};
use crate::{Checkpoint, ElementType};

/// A GGUF block type that holds exactly the values of a packed layer.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ExactForm {
    /// The type: `q4_0`, `q4_1`, `q5_0`, `q8_0`, `mxfp4`, `bf16` or `f16`.
    pub element_type: ElementType,
    /// Column `j` of the blocks is column `permutation[j]` of the layer, where act-order shuffled the groups.
    /// GGUF cannot say so: whatever makes the layer's input must give its outputs in this order, that is, row `j`
    /// of the layer before must be its row `permutation[j]`. For `down_proj` that is possible (the rows of
    /// `up_proj` and `gate_proj`); for layers that read the residual stream it is not:
    /// [`ExactForm::without_permutation`].
    pub permutation: Option<Vec<u32>>,
    /// What the blocks' values are multiplied with, in a tensor beside them: the scale of an NVFP4 layer.
    pub factor: Option<f32>,
}

/// Why a packed layer has no exact form, and what to do.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub struct Inexact {
    /// The layer's name.
    pub layer: String,
    /// The reason.
    pub why: String,
    /// What to do about it.
    pub remedy: &'static str,
}

impl fmt::Display for Inexact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.layer, self.why, self.remedy)
    }
}

/// [`Inexact`] before the layer's name is known.
#[derive(Debug)]
pub(super) struct Why {
    pub why: String,
    pub remedy: &'static str,
}

/// What always works.
const QUANTIZE: &str = "decode it and quantize the values again, which is not lossless";

impl Why {
    pub fn new(why: impl Into<String>, remedy: &'static str) -> Self {
        Self { why: why.into(), remedy }
    }

    pub fn columns(columns: usize) -> Self {
        Self::new(format!("its {columns} columns are not whole blocks of 32"), "keep the layer in f16")
    }

    pub fn groups() -> Self {
        Self::new("several groups of its columns share a block of 32, which has one scale", QUANTIZE)
    }

    pub fn scale(scale: f32, what: &str, row: usize, group: usize) -> Self {
        let remedy = match scale.is_finite() {
            true => QUANTIZE,
            false => "the checkpoint is damaged; download or make it again",
        };
        Self::new(format!("the scale {scale:e} of output {row}, group {group}, {what}"), remedy)
    }

    pub fn too_many_steps(steps: i16, row: usize, column: usize) -> Self {
        let why = format!(
            "output {row} is {steps} steps from zero in column {column}, and a byte holds -128 to 127"
        );
        Self::new(why, QUANTIZE)
    }

    pub fn of(self, layer: &PackedLayer) -> Inexact {
        Inexact { layer: layer.name.clone(), why: self.why, remedy: self.remedy }
    }
}

impl ExactForm {
    /// The form, if its columns are in the layer's order: for layers whose input cannot be permuted.
    ///
    /// # Errors
    /// The reason in words, if they are not.
    pub fn without_permutation(self, layer: &PackedLayer) -> Result<Self, Inexact> {
        match self.permutation {
            None => Ok(self),
            Some(_) => Err(Why::new(
                "act-order (desc_act) spread its groups over all columns, GGUF cannot store their order, and \
                 the layer's input cannot be permuted",
                "quantize the model with desc_act=false or with static_groups=true, or decode this layer and \
                 quantize the values again, which is not lossless",
            )
            .of(layer)),
        }
    }
}

impl PackedLayer {
    /// The GGUF block type that holds exactly the values of [`PackedLayer::decode`], if there is one. Found from
    /// the scales, zero points and group numbers of the file, which are all read; from codes too where 8-bit
    /// codes have zero points out of the middle.
    ///
    /// # Errors
    /// The reason in words, if there is none.
    pub fn exact_form(&self, checkpoint: &Checkpoint) -> Result<ExactForm, Inexact> {
        let mut factor = None;
        let (element_type, permutation) = match &self.store {
            Store::Affine(layer) => layer.exact(checkpoint).map_err(|why| why.of(self))?,
            Store::Grouped(layer) => (layer.exact(checkpoint).map_err(|why| why.of(self))?, None),
            Store::Beside(layer) => match layer.factors[..] {
                [one] => {
                    factor = Some(one);
                    (layer.element_type, None)
                }
                _ => return Err(Why::new("its experts have factors of their own", QUANTIZE).of(self)),
            },
            Store::FourBit(layer) => {
                let kind = if layer.nf4 { "NF4" } else { "FP4" };
                let why = format!("no GGUF block type has the table of bitsandbytes' {kind}");
                return Err(Why::new(why, QUANTIZE).of(self));
            }
            Store::Int8(_) => {
                let why = "an output's scale is an f32 over 127 in bitsandbytes' int8, an f16 in a block";
                return Err(Why::new(why, QUANTIZE).of(self));
            }
            Store::Scaled(layer) => {
                let element_type = layer.exact(checkpoint).map_err(|why| why.of(self))?;
                if element_type == ElementType::NVFP4 {
                    factor = Some(layer.factor.as_product());
                }
                (element_type, None)
            }
        };
        Ok(ExactForm { element_type, permutation, factor })
    }

    /// Writes some rows in `form` (which is this layer's [`PackedLayer::exact_form`]): `out` is
    /// `form.element_type.row_bytes(columns)` bytes a row. Decoded, they are [`PackedLayer::decode`]'s values to
    /// the bit, columns permuted as the form says. Any rows may be asked for, but 256 outputs at a time share
    /// their reads: take slabs of many hundreds, or whole layers, where speed matters.
    ///
    /// # Panics
    /// If `rows` is not within the layer, or `out` has another length.
    pub fn exact_blocks(
        &self,
        checkpoint: &Checkpoint,
        form: &ExactForm,
        rows: Range<usize>,
        out: &mut [u8],
    ) {
        assert!(rows.start <= rows.end && rows.end <= self.rows, "rows {rows:?} of {}", self.rows);
        assert_eq!(form.element_type.row_bytes(self.columns).map(|n| n * rows.len()), Some(out.len()));
        match &self.store {
            Store::Affine(layer) => {
                layer.blocks(checkpoint, form.element_type, form.permutation.as_deref(), rows, out);
            }
            Store::Scaled(layer) => layer.blocks(checkpoint, form.element_type, rows, out),
            Store::Grouped(layer) => layer.blocks(checkpoint, form.element_type, rows, out),
            Store::Beside(layer) => layer.blocks(checkpoint, form.element_type, rows, out),
            Store::FourBit(_) | Store::Int8(_) => panic!("{} has no exact form", self.name),
        }
    }
}
