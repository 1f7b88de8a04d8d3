//! What the user asked for.

use quern_model::provenance::Provenance;
use quern_tensor_io::ElementType;
use quern_tensor_io::gguf::Split;
use quern_tensor_io::output::Inputs;
use quern_tensor_io::scheme::{CodeFormat, GptqFormat};

use crate::Edit;

/// What a checkpoint becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A GGUF file, or several.
    Gguf,
    /// A Hugging Face directory of plain tensors.
    Safetensors,
    /// A Hugging Face directory with packed layers: their codes, scales and zero points in the places of another format.
    Packed(CodeFormat),
}

impl Target {
    /// All targets.
    pub const ALL: [Self; 6] = [
        Self::Gguf,
        Self::Safetensors,
        Self::Packed(CodeFormat::Gptq(GptqFormat::V1)),
        Self::Packed(CodeFormat::Gptq(GptqFormat::V2)),
        Self::Packed(CodeFormat::CompressedTensors),
        Self::Packed(CodeFormat::Awq),
    ];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gguf => "gguf",
            Self::Safetensors => "safetensors",
            Self::Packed(format) => format.name(),
        }
    }

    /// The target of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|t| t.name().eq_ignore_ascii_case(name))
    }
}

/// What the user asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// What the checkpoint becomes.
    pub target: Target,
    /// The element type of matrices in GGUF, of all tensors of floats elsewhere: f32, f16 or bf16. `None` keeps
    /// the numbers as they are.
    pub dtype: Option<ElementType>,
    /// Where to split a GGUF file; `None` for one file whatever its size.
    pub split: Option<Split>,
    /// Bytes of tensors in one safetensors file at most, unless one module has more.
    pub shard_bytes: u64,
    /// Changes of GGUF metadata, in order.
    pub edits: Vec<Edit>,
    /// How the output is made, recorded in its metadata or in `quern.json`. `None` records nothing.
    pub provenance: Option<Provenance>,
    /// Whether an existing output may be replaced.
    pub force: bool,
    /// What the command reads beside the source: never replaced.
    pub inputs: Inputs,
    /// Threads; 0 for as many as there are processors. The output does not depend on it.
    pub threads: usize,
}

impl Options {
    /// `target`, with nothing changed; shards of 4 GiB.
    pub fn new(target: Target) -> Self {
        Self {
            target,
            dtype: None,
            split: None,
            shard_bytes: 4 << 30,
            edits: Vec::new(),
            provenance: None,
            force: false,
            inputs: Inputs::default(),
            threads: 0,
        }
    }
}
