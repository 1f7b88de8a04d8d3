//! Schemes that keep a linear layer in several tensors: GPTQ, AWQ, compressed-tensors, bitsandbytes, FP8, NVFP4, MLX, HQQ
//! and torchao.
//!
//! [`Packing::read`] finds out from `quantize_config.json` or `config.json` and from the tensors themselves
//! which layers of a checkpoint are packed and how. A packed layer goes by the name its weight would have
//! unquantized (`model.layers.0.mlp.up_proj.weight`) and decodes to the same `[out, in]` matrix.

mod affine;
mod beside;
mod bitsandbytes;
mod compressed;
mod config;
mod exact;
mod four_bit;
mod gptq;
mod grouped;
mod in_file;
mod int8;
mod kind;
mod label;
mod notes;
pub mod pack;
mod parts;
mod read;
mod repack;
mod scaled;
mod stream;

use std::collections::HashMap;
use std::ops::Range;

pub use affine::AffineLayer;
pub use config::{
    CompressedWeights, awq_config, block_fp8_config, compressed_tensors_config, compressed_weights,
};
pub use exact::{ExactForm, Inexact};
pub use in_file::InFile;
pub use kind::{Scaling, Scheme};
pub use repack::{AwqTensors, CodeFormat, CompressedTensors, GptqFormat, GptqTensors, Repacked};

use half::f16;

use crate::{Checkpoint, Container, ElementType, Result};

/// The packed layers of a checkpoint.
#[derive(Debug)]
pub struct Packing {
    scheme: Scheme,
    method: Option<&'static str>,
    layers: Vec<PackedLayer>,
    by_name: HashMap<String, usize>,
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
    store: Store,
}

/// How a layer is kept.
#[derive(Debug)]
enum Store {
    Affine(affine::Affine),
    FourBit(four_bit::FourBit),
    Int8(int8::Int8),
    Scaled(scaled::Scaled),
    Grouped(grouped::Grouped),
    Beside(beside::Beside),
}

/// A packed layer as rows of blocks, the form that kernels multiply and GGUF stores.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockForm {
    /// The block type: `q4_0`, `q4_1`, `q5_0`, `q8_0`, `nf4`, `fp4`, `mxfp4`; `f16` where nothing else fits.
    pub element_type: ElementType,
    /// The codes are the layer's own: every value is what [`PackedLayer::decode`] gives, up to the rounding of
    /// scales (and, in `q4_1`, of minima) to f16. Not so where each value was rounded to f16.
    pub exact: bool,
    /// Column `j` of the blocks is column `permutation[j]` of the layer, where act-order shuffled the groups:
    /// the layer's input must be permuted in the same way.
    pub permutation: Option<Vec<u32>>,
    /// What all numbers of the blocks are multiplied with: the scale of the layer in NVFP4, 1 in all others.
    pub factor: f32,
}

impl Packing {
    /// Finds the packed layers of `checkpoint`; `None` if there are none. Of a GGUF file these are the weights with a
    /// factor in a tensor beside them: blocks alone are no packed layer.
    ///
    /// Reads the configuration, the headers and the small tensors that say what the others mean (zero points,
    /// group numbers, quantization states), not codes and scales. Without data ([`Checkpoint::has_data`]) the
    /// configuration, names and shapes have to do.
    ///
    /// # Errors
    /// A quantization method quern does not read, a configuration that contradicts itself, tensors that are
    /// missing or of a shape or type that does not fit.
    pub fn read(checkpoint: &Checkpoint) -> Result<Option<Self>> {
        match checkpoint.container() {
            Container::Safetensors | Container::PyTorch => read::read(checkpoint),
            Container::Gguf => read::read_gguf(checkpoint),
        }
    }

    fn new(
        scheme: Scheme,
        method: Option<&'static str>,
        layers: Vec<PackedLayer>,
        notes: Vec<String>,
    ) -> Self {
        let by_name = layers.iter().enumerate().map(|(i, l)| (l.name.clone(), i)).collect();
        Self { scheme, method, layers, by_name, notes }
    }

    /// The method as configurations name it: `gptq`, `awq`, `bitsandbytes`, `compressed-tensors`, `fp8`, `fbgemm_fp8`,
    /// `modelopt`, `mlx`, `hqq`, `torchao` or `mxfp4`; `gguf`. `None` where several are, and no configuration says which is meant.
    pub fn method(&self) -> Option<&'static str> {
        self.method
    }

    /// Whether models are released so, so that it is what their numbers are and quantizing them is no second loss: FP8, and
    /// MXFP4 as gpt-oss has it.
    pub fn is_as_released(&self) -> bool {
        self.scheme.is_as_released() || self.method == Some("mxfp4")
    }

    /// How this layer of the packing is stored: the scheme and its bits (`gptq 4-bit`), or its own scheme.
    pub fn stored_as(&self, layer: &PackedLayer) -> String {
        let own = read::scheme_of(layer, self.method);
        own.as_ref().unwrap_or(&self.scheme).with_bits(layer.bits())
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
        self.by_name.get(name).map(|&i| &self.layers[i])
    }

    /// What a user should know: labels that contradict the tensors and the like.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }
}

impl PackedLayer {
    fn new<'a>(
        name: String,
        rows: usize,
        columns: usize,
        parts: impl IntoIterator<Item = parts::Part<'a>>,
        store: Store,
    ) -> Self {
        let (parts, sizes): (Vec<_>, Vec<_>) = parts.into_iter().map(|p| (p.index, p.info.bytes)).unzip();
        Self { name, rows, columns, parts, bytes: sizes.iter().sum(), store }
    }

    /// Bits per code, scales not counted: 2, 3, 4 or 8; of compressed-tensors 1 to 8.
    pub fn bits(&self) -> u32 {
        match &self.store {
            Store::Affine(layer) => layer.bits(),
            Store::FourBit(_) => 4,
            Store::Int8(_) => 8,
            Store::Scaled(layer) => layer.bits(),
            Store::Grouped(layer) => layer.bits,
            Store::Beside(layer) => layer.bits(),
        }
    }

    /// Whether this plain type holds every number that such a layer may have, whatever its codes and scales are. MXFP4's
    /// numbers are codes of at most three bits times powers of two in the range of f32, which is that of bf16.
    pub fn always_fits(&self, to: ElementType) -> bool {
        match to {
            ElementType::F32 => true,
            ElementType::BF16 => matches!(&self.store, Store::Scaled(layer) if layer.is_mxfp4()),
            _ => false,
        }
    }

    /// Decodes some rows (outputs) to f32: `out` is `[rows][columns]`. Rows are taken faster in multiples of 256.
    ///
    /// Products are formed in f32: `scale * (q - zero)` of GPTQ, AWQ and compressed-tensors; `table[q] * absmax` of NF4 and FP4, with
    /// `absmax = map[q8] * nested_absmax + offset` where scales are quantized; `q * SCB * 7.874015718698502e-3`
    /// of int8; `code * scale` of FP8, NVFP4 and MXFP4, the scale times (or over) the layer's factor; `q * scale + bias` of MLX;
    /// `(q - zero) * scale` of HQQ and torchao.
    ///
    /// # Panics
    /// If `rows` is not within the layer, or `out` has another length.
    pub fn decode(&self, checkpoint: &Checkpoint, rows: Range<usize>, out: &mut [f32]) {
        assert!(rows.start <= rows.end && rows.end <= self.rows, "rows {rows:?} of {}", self.rows);
        assert_eq!(out.len(), rows.len() * self.columns);
        match &self.store {
            Store::Affine(layer) => layer.decode(checkpoint, rows, out),
            Store::FourBit(layer) => layer.decode(checkpoint, rows, out),
            Store::Int8(layer) => layer.decode(checkpoint, rows, out),
            Store::Scaled(layer) => layer.decode(checkpoint, rows, out),
            Store::Grouped(layer) => layer.decode(checkpoint, rows, out),
            Store::Beside(layer) => layer.decode(checkpoint, rows, out),
        }
    }

    /// The best form for kernels.
    ///
    /// Codes keep their values wherever a block type of 32 columns can hold them:
    ///
    /// | layer | blocks |
    /// |---|---|
    /// | codes (GPTQ, AWQ, compressed-tensors) of up to 3 bits; of 4 bits with all zero points in the middle | `q4_0` |
    /// | other codes of 4 bits | `q4_1`, whose minimum is `-zero * scale` rounded to f16 |
    /// | codes of 5 bits with all zero points in the middle | `q5_0` |
    /// | other codes of 5 bits, of 6 and 7; of 8 with all zero points in the middle; int8 | `q8_0` |
    /// | NF4, FP4 | `nf4`, `fp4` |
    /// | MXFP4 | `mxfp4` |
    /// | NVFP4 in whole runs of 64 | `nvfp4`, with the layer's factor |
    /// | MLX and HQQ of up to 4 bits, of 5 | `q4_1`, `q5_1` |
    /// | weights of a GGUF file with a factor | their own |
    /// | FP8 (which [`PackedLayer::in_file`] keeps as it is), other NVFP4, MLX, HQQ and torchao | `f16`, not exact |
    /// | codes of 8 bits with other zero points; columns that are not a multiple of 32; groups that share some 32 columns, also after sorting | `f16`, not exact |
    pub fn block_form(&self, checkpoint: &Checkpoint) -> BlockForm {
        let _ = checkpoint; // everything it depends on was found when the layer was read
        match &self.store {
            Store::Affine(layer) => layer.block_form(),
            Store::FourBit(layer) => layer.block_form(),
            Store::Int8(layer) => layer.block_form(),
            Store::Scaled(layer) => layer.block_form(),
            Store::Grouped(layer) => layer.block_form(),
            Store::Beside(layer) => layer.block_form(),
        }
    }

    /// Writes some rows in `form` (which is this layer's [`PackedLayer::block_form`]): `out` is
    /// `form.element_type.row_bytes(columns)` bytes a row. Rows are taken faster in multiples of 256.
    ///
    /// # Panics
    /// If `rows` is not within the layer, or `out` has another length.
    pub fn blocks(&self, checkpoint: &Checkpoint, form: &BlockForm, rows: Range<usize>, out: &mut [u8]) {
        assert!(rows.start <= rows.end && rows.end <= self.rows, "rows {rows:?} of {}", self.rows);
        assert_eq!(form.element_type.row_bytes(self.columns).map(|n| n * rows.len()), Some(out.len()));
        match &self.store {
            Store::Affine(layer) => {
                layer.blocks(checkpoint, form.element_type, form.permutation.as_deref(), rows, out);
            }
            Store::FourBit(layer) => layer.blocks(checkpoint, form, rows, out),
            Store::Int8(layer) => layer.blocks(checkpoint, form, rows, out),
            Store::Scaled(layer) => layer.blocks(checkpoint, form.element_type, rows, out),
            Store::Grouped(layer) => layer.blocks(checkpoint, form.element_type, rows, out),
            Store::Beside(layer) => layer.blocks(checkpoint, form.element_type, rows, out),
        }
    }
}

/// Rows of f16 values, each row decoded by `decode`.
fn plain_rows(columns: usize, rows: Range<usize>, out: &mut [u8], decode: impl Fn(Range<usize>, &mut [f32])) {
    const TOGETHER: usize = 64;
    let mut values = vec![0.0; TOGETHER.min(rows.len()) * columns];
    let starts = rows.clone().step_by(TOGETHER);
    for (start, out) in starts.zip(out.chunks_mut(TOGETHER * columns * 2)) {
        let values = &mut values[..out.len() / 2];
        decode(start..rows.end.min(start + TOGETHER), values);
        let pairs = out.as_chunks_mut().0.iter_mut();
        pairs.zip(values).for_each(|(b, v)| *b = f16::from_f32(*v).to_le_bytes());
    }
}
