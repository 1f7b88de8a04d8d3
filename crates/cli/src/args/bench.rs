//! Arguments of `quern bench`.

use std::path::{Path, PathBuf};

use clap::Args;

use super::placement::Placement;
use super::shared::{Load, Stated, Threads};

const EXAMPLES: &str = "\
Examples:
  Measure a prompt of 512 tokens and the generation of 128:
    quern bench model-q4_0.gguf

  Compare two models at several lengths, with an empty and a filled context:
    quern bench a.gguf b.gguf --prompt 128,512 --generate 32,128 --depth 0,4096";

/// Arguments of `quern bench`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Bench {
    /// Models to measure: each a directory, a file, or a name on the Hugging Face Hub
    #[arg(value_name = "MODEL", required_unless_present = "model_option")]
    models: Vec<PathBuf>,
    /// Model to measure, in place of MODEL: llama.cpp's form (repeatable)
    #[arg(short, long = "model", value_name = "MODEL", conflicts_with = "models")]
    model_option: Vec<PathBuf>,
    /// Prompt lengths in tokens, separated by commas; 0 skips this test
    #[arg(short, long, value_name = "N,…", value_delimiter = ',', default_value = "512")]
    pub prompt: Vec<usize>,
    /// Numbers of tokens to generate, separated by commas; 0 skips this test
    #[arg(short = 'n', long, value_name = "N,…", value_delimiter = ',', default_value = "128")]
    pub generate: Vec<usize>,
    /// Numbers of context positions that are filled before a test, separated by commas
    #[arg(short, long, value_name = "N,…", value_delimiter = ',', default_value = "0")]
    pub depth: Vec<usize>,
    /// Number of measured repetitions of each test, after one warm-up
    #[arg(short, long, value_name = "N", default_value_t = 5)]
    pub repetitions: usize,
    /// Print the result as JSON: one object, or a list for several models
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub stated: Stated,
    #[command(flatten)]
    pub threads: Threads,
    #[command(flatten)]
    pub load: Load,
    #[command(flatten)]
    pub placement: Placement,
}

impl Bench {
    /// The models, in the order given.
    pub fn models(&self) -> impl Iterator<Item = &Path> {
        self.models.iter().chain(&self.model_option).map(PathBuf::as_path)
    }
}
