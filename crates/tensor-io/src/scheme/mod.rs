//! Schemes that keep a linear layer in several tensors: GPTQ, AWQ and bitsandbytes.
//!
//! [`Packing::read`] finds out from `quantize_config.json` or `config.json` and from the tensors themselves
//! which layers of a checkpoint are packed and how. A packed layer goes by the name its weight would have
//! unquantized (`model.layers.0.mlp.up_proj.weight`) and decodes to the same `[out, in]` matrix.

use std::ops::Range;

use crate::{Checkpoint, ElementType, Result};

/// How a quantized Hugging Face checkpoint keeps its linear layers.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Scheme {
    /// GPTQ: codes, zero points and scales by group of input columns.
    Gptq {
        /// Bits per code where a layer has no rule of its own: 2, 3, 4 or 8.
        bits: u32,
        /// Input columns that share a scale; `None` for all of a row.
        group_size: Option<usize>,
        /// Columns were quantized in the order of their activations (`desc_act`).
        act_order: bool,
        /// Zero points are in the middle of the range.
        symmetric: bool,
        /// Zero points are stored as they are (`gptq_v2`), not less one (`gptq`): as the tensors show it.
        v2: bool,
    },
    /// AWQ, `gemm` version.
    Awq {
        /// Bits per code: 4.
        bits: u32,
        /// Input columns that share a scale; `None` for all of a row.
        group_size: Option<usize>,
    },
    /// bitsandbytes NF4.
    Nf4 {
        /// Values per scale.
        block_size: usize,
        /// Scales are themselves quantized to 8 bits.
        double_quantized: bool,
    },
    /// bitsandbytes FP4.
    Fp4 {
        /// Values per scale.
        block_size: usize,
        /// Scales are themselves quantized to 8 bits.
        double_quantized: bool,
    },
    /// bitsandbytes LLM.int8(): one scale a row.
    Int8,
}

/// The packed layers of a checkpoint.
#[derive(Debug)]
pub struct Packing {
    scheme: Scheme,
    layers: Vec<PackedLayer>,
    notes: Vec<String>,
}

/// One packed linear layer.
#[derive(Debug)]
pub struct PackedLayer {
    /// Name its weight would have unquantized.
    pub name: String,
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub columns: usize,
    /// Indices into [`Checkpoint::tensors`] of all tensors it is made of.
    pub parts: Vec<usize>,
    /// Bytes of all parts.
    pub bytes: usize,
}

/// A packed layer as rows of blocks, the form that kernels multiply and GGUF stores.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockForm {
    /// The block type: `q4_0`, `q4_1`, `q8_0`, `nf4`, `fp4`; `f16` where nothing else fits.
    pub element_type: ElementType,
    /// Every value is exactly what [`PackedLayer::decode`] gives, up to the rounding of scales to f16.
    pub exact: bool,
    /// Column `j` of the blocks is column `permutation[j]` of the layer, where act-order shuffled the groups:
    /// the layer's input must be permuted alike.
    pub permutation: Option<Vec<u32>>,
}

impl Packing {
    /// Finds the packed layers of `checkpoint`; `None` if it is not quantized (or a GGUF file).
    ///
    /// # Errors
    /// A quantization method quern does not read, a configuration that contradicts itself, tensors that are
    /// missing or of a shape or type that does not fit.
    pub fn read(checkpoint: &Checkpoint) -> Result<Option<Self>> {
        let _ = checkpoint;
        Ok(None)
    }

    /// How the layers are kept.
    pub fn scheme(&self) -> &Scheme {
        &self.scheme
    }

    /// All packed layers, in the order of their first tensors.
    pub fn layers(&self) -> &[PackedLayer] {
        &self.layers
    }

    /// The packed layer whose weight would have this name.
    pub fn layer(&self, name: &str) -> Option<&PackedLayer> {
        self.layers.iter().find(|l| l.name == name)
    }

    /// What a user should know: labels that contradict the tensors and the like.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }
}

impl PackedLayer {
    /// Decodes some rows (outputs) to f32: `out` is `[rows][columns]`.
    ///
    /// # Panics
    /// If `rows` is not within the layer, or `out` has another length.
    pub fn decode(&self, checkpoint: &Checkpoint, rows: Range<usize>, out: &mut [f32]) {
        let _ = (checkpoint, rows, out);
        todo!()
    }

    /// The best form for kernels.
    pub fn block_form(&self, checkpoint: &Checkpoint) -> BlockForm {
        let _ = checkpoint;
        todo!()
    }

    /// Writes some rows in `form` (which is this layer's [`PackedLayer::block_form`]): `out` is
    /// `form.element_type.row_bytes(columns)` bytes a row. Rows are taken faster in multiples of 16.
    ///
    /// # Panics
    /// If `rows` is not within the layer, or `out` has another length.
    pub fn blocks(&self, checkpoint: &Checkpoint, form: &BlockForm, rows: Range<usize>, out: &mut [u8]) {
        let _ = (checkpoint, form, rows, out);
        todo!()
    }
}
