//! Layers of integer codes in the tensors of another format, whatever packed them: the same codes, zero points, scales
//! and groups, so the same weights. Here GPTQ's tensors; the others are in [`compressed`] and [`awq`].
//!
//! | from | to | |
//! |---|---|---|
//! | GPTQ v1 | v2, and back | zero points are stored as they are, or less one |
//! | AWQ, compressed-tensors | v2; v1 if no zero point is 0 | |
//! | codes of 1, 5, 6 and 7 bits | 2 and 8 bits | code and zero point moved by the same amount |
//!
//! A zero point of 0 cannot be stored reliably in v1: less one it is all ones, which some readers read as 0, some as
//! `2^bits`, and some writers spilled into the next field.

mod awq;
mod compressed;
mod format;

use std::ops::Range;

pub use awq::AwqTensors;
pub use compressed::CompressedTensors;
pub use format::{CodeFormat, Repacked};

use super::exact::Why;
use super::{AffineLayer, Inexact, PackedLayer, pack, stream};
use crate::{Checkpoint, ElementType, TensorPlan};

use half::{bf16, f16};

/// How GPTQ's zero points are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GptqFormat {
    /// `gptq`: less one. What every reader takes, for symmetric layers above all.
    V1,
    /// `gptq_v2`: as they are.
    V2,
}

impl GptqFormat {
    /// As `checkpoint_format` spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::V1 => "gptq",
            Self::V2 => "gptq_v2",
        }
    }
}

/// A layer as GPTQ's four tensors, made on demand.
#[derive(Debug)]
pub struct GptqTensors<'a> {
    layer: AffineLayer<'a>,
    bits: u32,
    /// Added to codes and zero points of fewer bits.
    more: u8,
    format: GptqFormat,
    zeros: Vec<u8>,
    scales: Vec<f32>,
    scale_type: ElementType,
}

impl PackedLayer {
    /// The layer as GPTQ's tensors, holding the same values.
    ///
    /// # Errors
    /// The reason in words, if it is not of integer codes, if v1 cannot say its zero points, or if its shape does
    /// not fill whole words, which no reader takes (a GPTQ layer's own shape is kept).
    pub fn to_gptq<'a>(
        &'a self,
        checkpoint: &'a Checkpoint,
        format: GptqFormat,
    ) -> Result<GptqTensors<'a>, Inexact> {
        let Some(layer) = self.affine(checkpoint) else {
            let why = "its codes are floats, index a table or have one scale per output, which GPTQ's tensors cannot express";
            return Err(Why::new(why, "decode it and quantize the values with GPTQ").of(self));
        };
        GptqTensors::new(layer, format).map_err(|why| why.of(self))
    }
}

impl<'a> GptqTensors<'a> {
    fn new(layer: AffineLayer<'a>, format: GptqFormat) -> Result<Self, Why> {
        let affine = layer.affine;
        let (rows, columns) = (affine.rows, affine.columns);
        let bits = Self::bits_for(layer.bits());
        let more = (1u8 << (bits - 1)) - (1 << (layer.bits() - 1));
        let whole = |n: usize| (n * bits as usize).is_multiple_of(32);
        if !(affine.layout.is_gptq() || whole(rows) && whole(columns)) {
            let why = format!(
                "its {rows} outputs and {columns} inputs do not fill 32-bit words with {bits}-bit codes, as GPTQ's \
                 readers expect"
            );
            return Err(Why::new(why, "leave the layer unquantized"));
        }
        let parameters = affine.parameters(layer.checkpoint, &(0..rows));
        let (mut zeros, scales) = (parameters.zeros, parameters.scales);
        zeros.iter_mut().for_each(|zero| *zero += more);
        if let Some(at) = zeros.iter().position(|&zero| zero == 0).filter(|_| format == GptqFormat::V1) {
            let why = format!(
                "the zero point of output {}, group {}, is 0, which the format gptq stores as all ones: readers \
                 disagree whether that means 0 or {}",
                at % rows,
                at / rows,
                1 << bits
            );
            return Err(Why::new(why, "write the format gptq_v2"));
        }
        if let Some(at) = scales.iter().position(|scale| !scale.is_finite()) {
            return Err(Why::scale(scales[at], "is not a finite number", at % rows, at / rows));
        }
        let scale_type = scale_type(&scales, &layer);
        Ok(Self { layer, bits, more, format, zeros, scales, scale_type })
    }

    /// Bits of GPTQ's codes that hold codes of so many bits.
    pub fn bits_for(bits: u32) -> u32 {
        match bits {
            1 => 2,
            bits @ 2..=4 => bits,
            _ => 8,
        }
    }

    /// Bits per code: 2, 3, 4 or 8.
    pub fn bits(&self) -> u32 {
        self.bits
    }

    /// How zero points are stored.
    pub fn format(&self) -> GptqFormat {
        self.format
    }

    /// The layer's own form, for its groups and its bias.
    pub fn layer(&self) -> AffineLayer<'a> {
        self.layer
    }

    /// Names, types and shapes of `qweight`, `qzeros`, `scales` and `g_idx`, in this order. Scales are `f16`
    /// where that holds them all, otherwise of the type they had: readers that know only f16 round those.
    pub fn plan(&self) -> [TensorPlan; 4] {
        let layer = self.layer.layer();
        let prefix = layer.name.strip_suffix(".weight").unwrap_or(&layer.name);
        let groups = self.layer.group_count();
        let words = |n| stream::words(n, self.bits).unwrap_or_default();
        let tensor = |suffix: &str, element_type, shape: &[usize]| TensorPlan {
            name: format!("{prefix}.{suffix}"),
            element_type,
            shape: shape.to_vec(),
        };
        [
            tensor("qweight", ElementType::I32, &[words(layer.columns), layer.rows]),
            tensor("qzeros", ElementType::I32, &[groups, words(layer.rows)]),
            tensor("scales", self.scale_type, &[groups, layer.rows]),
            tensor("g_idx", ElementType::I32, &[layer.columns]),
        ]
    }

    /// Writes the words of some columns of the weight: rows of `qweight`. `columns` begin at a multiple of 32 and
    /// end at one, or with the layer; `out` takes 4 bytes a word. AWQ and GPTQ are read column by column, so
    /// small ranges cost no more than large ones.
    ///
    /// # Panics
    /// If `columns` are others, or `out` has another length.
    pub fn qweight(&self, columns: Range<usize>, out: &mut [u8]) {
        let all = self.layer.layer().columns;
        assert!(columns.end == all || columns.end < all && columns.end.is_multiple_of(32), "{columns:?}");
        let AffineLayer { affine, checkpoint, .. } = self.layer;
        pack::pack(affine.rows, columns, self.bits, out, |tile, run, codes| {
            affine.codes(checkpoint, &tile, run, codes);
            if self.more > 0 {
                codes.as_flattened_mut().iter_mut().for_each(|q| *q = q.wrapping_add(self.more));
            }
        });
    }

    /// The bytes of `qzeros`.
    pub fn qzeros(&self) -> Vec<u8> {
        pack::qzeros(&self.zeros, self.layer.layer().rows, self.bits, self.format == GptqFormat::V2)
    }

    /// The bytes of `scales`.
    pub fn scales(&self) -> Vec<u8> {
        float_bytes(&self.scales, self.scale_type)
    }

    /// The bytes of `g_idx`.
    pub fn g_idx(&self) -> Vec<u8> {
        self.layer.g_idx().into_iter().flat_map(u32::to_le_bytes).collect()
    }
}

/// Values in this type of floats, little-endian.
fn float_bytes(values: &[f32], element_type: ElementType) -> Vec<u8> {
    let values = values.iter();
    match element_type {
        ElementType::F16 => values.flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect(),
        ElementType::BF16 => values.flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect(),
        _ => values.flat_map(|v| v.to_le_bytes()).collect(),
    }
}

/// f16 where that holds all scales, otherwise the type they had.
fn scale_type(scales: &[f32], layer: &AffineLayer<'_>) -> ElementType {
    let is_f16 = |&scale: &f32| f16::from_f32(scale).to_f32() == scale;
    match scales.iter().all(is_f16) {
        true => ElementType::F16,
        false => layer.scale_type(),
    }
}

/// Refuses layers whose last group has fewer columns, which readers of `format` take for a mistake.
fn whole_groups(layer: &AffineLayer<'_>, format: &str) -> Result<(), Why> {
    let columns = layer.affine.columns;
    match layer.group_size() {
        Some(size) if size * layer.group_count() != columns => {
            let why = format!("its {columns} columns are not whole groups of {size}, which {format} expects");
            Err(Why::new(why, "keep the format gptq, or quantize the model with another group size"))
        }
        Some(_) | None => Ok(()),
    }
}
