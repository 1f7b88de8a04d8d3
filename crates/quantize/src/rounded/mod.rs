//! Checkpoints as vLLM loads them, by rounding alone: FP8, and the integers of compressed-tensors.
//!
//! ```text
//! fp8                  P.weight            F8_E4M3 [out, in]      w / scale, to the nearest, ties to even
//!                      P.weight_scale      [out, 1]               max |row| / 448, in the type of the weights
//! fp8-block            P.weight            F8_E4M3 [out, in]
//!                      P.weight_scale_inv  F32 [out/128, in/128]  max |block| / 448; the last blocks may have less
//! compressed-tensors   P.weight_packed     I32 [out, in b/32]     codes of b bits
//!                      P.weight_scale      [out, groups]          found by a search, in the type of the weights
//!                      P.weight_shape      I64 [2]
//!                      P.weight_zero_point I32 [out b/32, groups] only where not symmetric
//! ```
//!
//! The first is what llm-compressor calls `FP8_DYNAMIC` (compressed-tensors, `float-quantized`): readers round activations
//! to FP8 too. The second is the form of DeepSeek's and Qwen's releases (`quant_method` `fp8`), the third `W4A16` and
//! `W8A16`. Every linear layer is quantized, experts too; embeddings, output head, norms and routers are not.
//!
//! [`crate::calibrated::gptq`] writes compressed-tensors with calibration.

mod float8;
mod integers;
mod job;
mod piece;
mod plan;

pub use job::{RoundedReport, quantize};
pub use plan::{RoundedPlan, RoundedRow, plan};

use quern_compute::simd::Level;
use quern_model::provenance::Provenance;
use quern_tensor_io::output::Inputs;

/// Outputs and inputs that share a scale in [`Kind::BlockFloat8`].
pub const BLOCK: usize = 128;

/// A form of output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// FP8, a scale for each output.
    Float8,
    /// FP8, a scale for each block of 128 x 128.
    BlockFloat8,
    /// Integers in the format `pack-quantized` of compressed-tensors.
    Integers {
        /// Bits per code: 4 or 8.
        bits: u32,
        /// Columns that share a scale; `None` for all of a row.
        group_size: Option<usize>,
        /// Zero points in the middle, so that none are stored.
        symmetric: bool,
    },
}

impl Kind {
    /// Its name: `fp8`, `fp8-block` or `compressed-tensors`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Float8 => "fp8",
            Self::BlockFloat8 => "fp8-block",
            Self::Integers { .. } => "compressed-tensors",
        }
    }
}

/// What the user asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// The form.
    pub kind: Kind,
    /// Threads that encode; 0 for as many as there are processors. The output does not depend on it.
    pub threads: usize,
    /// Instructions that are used, or the best of the CPU if that is lower. The output does not depend on it, but for
    /// integers in a code here and there.
    pub level: Level,
    /// How the output is made, recorded in `quern.json` with what the job measures.
    pub provenance: Option<Provenance>,
    /// Whether an existing model directory may be replaced.
    pub force: bool,
    /// What the command reads beside the source: never replaced.
    pub inputs: Inputs,
    /// Modules to leave alone besides the output head and routers: the beginning of a path (up to a dot), a regular
    /// expression for one, or the end of a path.
    pub skip: Vec<String>,
    /// Bytes of tensors in one file at most.
    pub shard_bytes: u64,
}

impl Options {
    /// `kind`, with nothing skipped; shards of 4 GiB.
    pub fn new(kind: Kind) -> Self {
        Self {
            kind,
            threads: 0,
            level: Level::detect(),
            provenance: None,
            force: false,
            inputs: Inputs::default(),
            skip: Vec::new(),
            shard_bytes: 4 << 30,
        }
    }
}
