//! bitsandbytes: NF4, FP4 and LLM.int8() checkpoints, the bytes that transformers with bitsandbytes writes
//! on a CPU.
//!
//! ```text
//! 4 bits   K                                  U8 [ceil(n/2), 1]     two codes a byte, the first in the high nibble
//!          K.absmax                           F32 [blocks]          max |w| of 64 consecutive values, across rows
//!          K.quant_map                        F32 [16]              the code's values
//!          K.quant_state.bitsandbytes__nf4    U8 [bytes]            JSON: type, block size, dtype, shape
//!          doubly quantized:
//!          K.absmax                           U8 [blocks]           (absmax - mean) in the dynamic 8-bit code
//!          K.nested_absmax                    F32 [ceil(blocks/256)]
//!          K.nested_quant_map                 F32 [256]
//! 8 bits   P.weight                           I8 [out, in]          round(w * 127 / max |row|), w as f16
//!          P.SCB                              F32 [out]             max |row|
//!          P.weight_format                    U8 []                 0: rows
//! ```
//!
//! `K` is a linear layer's `P.weight`. Which layers: all but the output head, as transformers chooses them
//! (`modules` decides by the architecture's roles, or by name where quern does not know it).
//!
//! Sources: bitsandbytes 0.50 (`backends/default/ops.py`, `csrc/cpu_ops.cpp`), transformers 5; Dettmers et al.,
//! LLM.int8() (2022), QLoRA (2023).

mod code;
mod config;
mod four_bit;
mod int8;
mod job;
mod memory;
mod modules;
mod nested;
mod piece;
mod plan;
mod state;

pub use job::{BitsandbytesReport, quantize};
pub use memory::{InMemoryError, encode_in_memory};
pub use plan::{BitsandbytesPlan, BitsandbytesRow, plan};

use quern_compute::simd::Level;
use quern_model::provenance::Provenance;
use quern_tensor_io::ElementType;
use quern_tensor_io::output::Inputs;

/// A scheme of bitsandbytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// 4-bit NormalFloat.
    Nf4,
    /// 4-bit float.
    Fp4,
    /// LLM.int8(): 8 bits, a scale for each row.
    Int8,
}

impl Kind {
    /// bitsandbytes' name for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nf4 => "nf4",
            Self::Fp4 => "fp4",
            Self::Int8 => "int8",
        }
    }

    /// The scheme of this name, in any case.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Nf4, Self::Fp4, Self::Int8].into_iter().find(|k| k.name().eq_ignore_ascii_case(name))
    }

    /// The blocks [`encode_in_memory`] makes: `q8_0` for int8.
    pub const fn in_memory(self) -> ElementType {
        match self {
            Self::Nf4 => ElementType::NF4,
            Self::Fp4 => ElementType::FP4,
            Self::Int8 => ElementType::Q8_0,
        }
    }
}

/// What the user asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// The scheme.
    pub scheme: Kind,
    /// Values that share a scale in the 4-bit schemes: 32, 64, 128 … 4096.
    pub block_size: usize,
    /// The scales of the 4-bit schemes are themselves quantized to 8 bits.
    pub double_quant: bool,
    /// Threads that encode; 0 for as many as there are processors. The output does not depend on it.
    pub threads: usize,
    /// Instructions that are used, or the best of the CPU if that is lower. The output does not depend on it.
    pub level: Level,
    /// How the output is made, recorded in `quern.json` with what the job measures.
    pub provenance: Option<Provenance>,
    /// Whether an existing model directory may be replaced.
    pub force: bool,
    /// What the command reads beside the source: never replaced.
    pub inputs: Inputs,
    /// Modules to leave alone besides the output head, as transformers' `llm_int8_skip_modules`: the beginning
    /// of a path (up to a dot), a regular expression for one, or the end of a path.
    pub skip: Vec<String>,
    /// Bytes of tensors in one file at most.
    pub shard_bytes: u64,
}

impl Options {
    /// `scheme` in blocks of 64 with double quantization, which costs next to nothing and saves 0.37 bits a
    /// weight.
    pub fn new(scheme: Kind) -> Self {
        Self {
            scheme,
            block_size: 64,
            double_quant: true,
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

/// What bitsandbytes and Python gave (`tools/make_bitsandbytes_golden.py`).
#[cfg(test)]
fn golden(key: &str) -> Vec<serde_json::Value> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/bitsandbytes/parts.json");
    let text = std::fs::read_to_string(path).expect("the golden file");
    let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    value[key].as_array().expect("a list").clone()
}
