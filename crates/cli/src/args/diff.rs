//! Arguments of `quern diff`.

use std::path::PathBuf;

use clap::Args;
use quern_model::pattern::NamePattern;

use super::placement::Placement;
use super::shared::{Threads, model_help};
use super::values::tolerance;

const EXAMPLES: &str = "\
Examples:
  Check that a conversion changed nothing:
    quern diff ./original model.gguf

  See what quantizing cost, tensor by tensor and over a text:
    quern diff ./original model-q4_k_m.gguf --tensors --text wiki.test.txt --chunks 20

  Compare the feed-forward networks of two quantized models:
    quern diff a-q4_k_m.gguf ./b-gptq --only ffn

Exit codes: 0 if both are the same, 1 if they differ, 2 for wrong usage and for a model that cannot be read.
Differences in what only says how a file was made or is stored (quern.provenance, quantize.imatrix.*, \
    general.file_type …) are listed and leave the exit code at 0.";

/// Arguments of `quern diff`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Diff {
    /// First model: a directory, a file, or a name on the Hugging Face Hub
    #[arg(long_help = model_help!("First model, from which errors are counted"))]
    pub a: PathBuf,
    /// Second model
    #[arg(long_help = model_help!("Second model"))]
    pub b: PathBuf,
    /// List every tensor, also those that are the same [default: the 20 that differ most]
    #[arg(long)]
    pub tensors: bool,
    /// Compare only tensors whose name matches this regular expression
    ///
    /// Names are those of the comparison: GGUF's, or Hugging Face's where both models are Hugging Face checkpoints.
    #[arg(long, value_name = "REGEX")]
    pub only: Option<NamePattern>,
    /// Relative RMSE up to which a tensor counts as the same [default: values must be equal]
    #[arg(long, value_name = "X", value_parser = tolerance)]
    pub tolerance: Option<f64>,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub threads: Threads,
    #[command(flatten)]
    pub text: DiffText,
}

/// Options of `quern diff` for the comparison over a text.
#[derive(Debug, Args)]
#[command(next_help_heading = "Comparing predictions")]
pub struct DiffText {
    /// Also run both models over this text (UTF-8): KL divergence of B from A, top-token agreement, perplexities
    ///
    /// The figures are those of quern perplexity B --reference A.
    #[arg(short = 'f', long = "text", value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Length of a chunk in tokens; the second half of each chunk is scored
    #[arg(short, long, value_name = "N", default_value_t = 512)]
    pub context: usize,
    /// Number of chunks to process at most [default: all]
    #[arg(long, value_name = "N", requires = "file")]
    pub chunks: Option<usize>,
    #[command(flatten)]
    pub placement: Placement,
}
