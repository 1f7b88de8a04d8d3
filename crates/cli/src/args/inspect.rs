//! Arguments of `quern inspect`.

use std::path::PathBuf;

use clap::Args;

const EXAMPLES: &str = "\
Examples:
  Show what a model on the Hub is; only its headers are downloaded:
    quern inspect TinyLlama/TinyLlama-1.1B-Chat-v1.0

  List the tensors of a file:
    quern inspect model.gguf --tensors

  Read every value, check shapes against the configuration, exit with 1 if anything is wrong:
    quern inspect ./TinyLlama-GPTQ --check

  List the architectures that quern can run and convert:
    quern inspect --architectures";

/// Arguments of `quern inspect`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Inspect {
    /// Model to inspect: a directory, a file, or a name on the Hugging Face Hub
    #[arg(required_unless_present = "architectures")]
    pub model: Option<PathBuf>,
    /// List the architectures that quern knows, by their names in config.json and in GGUF files
    #[arg(long, conflicts_with_all = ["model", "tensors", "metadata", "check"])]
    pub architectures: bool,
    /// List every tensor with its type, shape and size
    #[arg(long)]
    pub tensors: bool,
    /// List all metadata
    #[arg(long)]
    pub metadata: bool,
    /// Check that all values are finite, shapes match the configuration, and no tensor is missing or left over
    #[arg(long)]
    pub check: bool,
    /// Print everything as JSON
    #[arg(long)]
    pub json: bool,
}
