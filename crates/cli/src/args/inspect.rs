//! Arguments of `quern inspect`.

use std::path::PathBuf;

use clap::Args;

use super::shared::{Stated, Threads};

const EXAMPLES: &str = "\
Examples:
  Show what a model on the Hub is; only its headers are downloaded:
    quern inspect TinyLlama/TinyLlama-1.1B-Chat-v1.0

  Read every value, check shapes against the configuration, exit with 1 if anything is wrong:
    quern inspect ./TinyLlama-GPTQ --check

  Write a page with sizes, types by layer, histograms and outlier channels, with a second model beside the first:
    quern inspect model-F16.gguf --report report.html --against model-Q4_K_M.gguf

  Show the histogram of a tensor, by its name in GGUF or at Hugging Face, or a part of it:
    quern inspect ./TinyLlama-1.1B --histogram blk.0.attn_q.weight";

/// Arguments of `quern inspect`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Inspect {
    /// Model to inspect: a directory, a file, or a name on the Hugging Face Hub
    #[arg(required_unless_present = "architectures")]
    pub model: Option<PathBuf>,
    /// List the architectures that quern knows, by their names in config.json and in GGUF files
    #[arg(long, conflicts_with_all = ["model", "tensors", "metadata", "check", "report", "histogram"])]
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
    /// Write an HTML page about the model: sizes, types by layer, value histograms, outlier channels, metadata, tokenizer
    ///
    /// Every value is read once. The page is one file that needs no network. With --json, the figures of all tensors are
    /// printed too, as "statistics".
    #[arg(long, value_name = "OUT.html")]
    pub report: Option<PathBuf>,
    /// Show this second model beside the first in the report, with the error of every tensor
    #[arg(long, value_name = "MODEL", requires = "report")]
    pub against: Option<PathBuf>,
    /// Show the histogram and the figures of a tensor: its name, the end of its name, or a regular expression
    ///
    /// Names of GGUF and of Hugging Face are accepted for either kind of file, where quern knows the architecture.
    #[arg(long, value_name = "TENSOR", conflicts_with_all = ["tensors", "metadata", "check", "report"])]
    pub histogram: Option<String>,
    /// Replace the report if it exists
    #[arg(long, requires = "report")]
    pub force: bool,
    /// Print everything as JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub stated: Stated,
    #[command(flatten)]
    pub threads: Threads,
}
