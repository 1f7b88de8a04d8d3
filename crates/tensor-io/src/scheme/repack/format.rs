//! One face for the places that integer codes can be stored in.

use std::ops::Range;

use super::{AwqTensors, CompressedTensors, GptqFormat, GptqTensors};
use crate::scheme::affine::{RUN, TILE};
use crate::scheme::{Inexact, PackedLayer};
use crate::{Checkpoint, TensorPlan};

/// Where the codes, zero points and scales of a layer are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CodeFormat {
    /// In GPTQ's tensors.
    Gptq(GptqFormat),
    /// In those of compressed-tensors, `pack-quantized`.
    CompressedTensors,
    /// In AWQ's, `gemm` version.
    Awq,
}

impl CodeFormat {
    /// `gptq`, `gptq_v2`, `compressed-tensors` or `awq`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gptq(format) => format.name(),
            Self::CompressedTensors => "compressed-tensors",
            Self::Awq => "awq",
        }
    }

    /// Rows of tensor `part` of a layer with codes of `bits` bits that are made together: pieces begin and end at
    /// multiples of it, or with the tensor. `None` for the small tensors, which are made whole.
    pub fn step(self, bits: u32, part: usize) -> Option<usize> {
        match self {
            _ if part > 0 => None,
            // Runs of 32 columns, of as many words as a code has bits.
            Self::Gptq(_) => Some(GptqTensors::bits_for(bits) as usize),
            Self::CompressedTensors => Some(TILE),
            Self::Awq => Some(RUN),
        }
    }
}

/// A layer of integer codes in the tensors of a format, made on demand.
#[derive(Debug)]
pub enum Repacked<'a> {
    /// GPTQ's.
    Gptq(GptqTensors<'a>),
    /// Those of compressed-tensors.
    CompressedTensors(CompressedTensors<'a>),
    /// AWQ's.
    Awq(AwqTensors<'a>),
}

impl PackedLayer {
    /// The layer in the tensors of `format`, holding the same values.
    ///
    /// # Errors
    /// The reason in words, if the format cannot hold it.
    pub fn repacked<'a>(
        &'a self,
        checkpoint: &'a Checkpoint,
        format: CodeFormat,
    ) -> Result<Repacked<'a>, Inexact> {
        match format {
            CodeFormat::Gptq(format) => self.to_gptq(checkpoint, format).map(Repacked::Gptq),
            CodeFormat::CompressedTensors => {
                self.to_compressed_tensors(checkpoint).map(Repacked::CompressedTensors)
            }
            CodeFormat::Awq => self.to_awq(checkpoint).map(Repacked::Awq),
        }
    }
}

impl Repacked<'_> {
    /// Names, types and shapes of the tensors, in the order of their numbers.
    pub fn plan(&self) -> Vec<TensorPlan> {
        match self {
            Self::Gptq(tensors) => tensors.plan().to_vec(),
            Self::CompressedTensors(tensors) => tensors.plan(),
            Self::Awq(tensors) => tensors.plan().to_vec(),
        }
    }

    /// Writes some rows of tensor number `part`: all of them, or as [`CodeFormat::step`] says.
    ///
    /// # Panics
    /// If `rows` are others, or `out` has another length.
    pub fn write(&self, part: usize, rows: Range<usize>, out: &mut [u8]) {
        match self {
            Self::Gptq(tensors) => match part {
                0 => {
                    let bits = tensors.bits() as usize;
                    let columns = tensors.layer().layer().columns;
                    // The last word may be a part of one only.
                    let column = |word: usize| (word * 32 / bits).min(columns);
                    let all = (columns * bits).div_ceil(32);
                    let end = if rows.end == all { columns } else { column(rows.end) };
                    tensors.qweight(column(rows.start)..end, out);
                }
                1 => out.copy_from_slice(&tensors.qzeros()),
                2 => out.copy_from_slice(&tensors.scales()),
                _ => out.copy_from_slice(&tensors.g_idx()),
            },
            Self::CompressedTensors(tensors) => match part {
                0 => tensors.weight_packed(rows, out),
                _ => out.copy_from_slice(&tensors.small(part)),
            },
            Self::Awq(tensors) => match part {
                0 => tensors.qweight(rows, out),
                1 => out.copy_from_slice(&tensors.qzeros()),
                _ => out.copy_from_slice(&tensors.scales()),
            },
        }
    }
}
