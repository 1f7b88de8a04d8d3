//! Arguments of `quern perplexity`.

use std::path::{Path, PathBuf};

use clap::Args;

use super::placement::Placement;
use super::shared::{Load, Stated, Threads, given, model_help};

const EXAMPLES: &str = "\
Examples:
  Measure a model:
    quern perplexity model-q4_k_m.gguf --text wiki.test.txt

  Compare a quantized model with the original:
    quern perplexity model-q4_k_m.gguf --text wiki.test.txt --reference ./original

  Measure what NF4 would cost, without writing a file:
    quern perplexity ./original --load-in nf4 --text wiki.test.txt --reference ./original";

/// Arguments of `quern perplexity`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Perplexity {
    /// Model to measure: a directory, a file, or a name on the Hugging Face Hub
    #[arg(long_help = model_help!("Model to measure"), required_unless_present = "model_option")]
    model: Option<PathBuf>,
    /// Model to measure, in place of MODEL: llama.cpp's form
    #[arg(short, long = "model", value_name = "MODEL", conflicts_with = "model")]
    model_option: Option<PathBuf>,
    /// Text to measure over, in UTF-8
    #[arg(short = 'f', long, value_name = "FILE")]
    pub text: PathBuf,
    /// Length of a chunk in tokens; the second half of each chunk is scored
    #[arg(short, long, value_name = "N", default_value_t = 512)]
    pub context: usize,
    /// Number of chunks to process at most [default: all]
    #[arg(long, value_name = "N")]
    pub chunks: Option<usize>,
    /// Model to compare with: adds KL divergence, the ratio of perplexities, and top-token agreement
    #[arg(long, value_name = "MODEL")]
    pub reference: Option<PathBuf>,
    /// Print the result as JSON
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

impl Perplexity {
    /// The model.
    pub fn model(&self) -> &Path {
        given(&self.model, &self.model_option)
    }
}
