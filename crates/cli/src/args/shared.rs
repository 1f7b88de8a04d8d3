//! Arguments that several commands share: the model, threads, loading.

use std::path::{Path, PathBuf};

use clap::Args;
use quern_quantize::load_in::LoadScheme;

use super::values::load_schemes;

/// The long help of MODEL arguments, after what the model is for.
macro_rules! model_help {
    ($purpose:literal) => {
        concat!(
            $purpose,
            ": a directory, a file (.gguf, .safetensors, .bin, or the .json index of shards), or a name on the Hugging \
             Face Hub (ORG/NAME, ORG/NAME@REVISION, ORG/NAME:FILE, or ORG/NAME:Q4_K_M for a GGUF file of that \
             type)\n\nAn existing path takes precedence over a name on the Hub. A model on the Hub that is not in the \
             cache is downloaded first."
        )
    };
}
pub(super) use model_help;

/// How many threads to use.
#[derive(Debug, Args)]
pub struct Threads {
    /// Number of threads; results do not depend on it [default: the physical cores]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
}

impl Threads {
    /// The number asked for, or one per physical core that may be used.
    pub fn count(&self) -> usize {
        match self.threads {
            Some(n) => n.into(),
            None => quern_run::default_threads(),
        }
    }
}

/// What a user says of a model that quern does not know by its name.
#[derive(Debug, Args)]
pub struct Stated {
    /// Treat a model of an architecture that quern does not know as one of this architecture
    ///
    /// For models that are another one under a new name. Their tensors and configuration must be those of such a model;
    /// keys of the configuration that such models do not have are named in a note and have no effect. The option has no
    /// effect where quern knows the architecture. "quern inspect --architectures" lists the names.
    #[arg(long, value_name = "NAME")]
    pub architecture: Option<String>,
}

/// How a model is loaded.
#[derive(Debug, Args)]
#[command(next_help_heading = "Loading")]
pub struct Load {
    /// Quantize an f16, bf16 or f32 model while loading it: nf4, fp4, int8 or a GGUF type such as q4_k
    ///
    /// The file is not changed. f32, f16 and bf16 are accepted too; they expand the weights of any model, quantized or
    /// not.
    #[arg(long, value_name = "SCHEME", value_parser = load_schemes(), hide_possible_values = true)]
    pub load_in: Option<LoadScheme>,
}

/// The model of a command that takes it as MODEL or with -m: clap sees to it that one of them is there.
pub(super) fn given<'a>(positional: &'a Option<PathBuf>, option: &'a Option<PathBuf>) -> &'a Path {
    positional.as_deref().or(option.as_deref()).unwrap_or(Path::new(""))
}
