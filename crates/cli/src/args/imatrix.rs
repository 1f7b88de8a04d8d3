//! Arguments of `quern imatrix`.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use quern_quantize::imatrix::Format;

use super::placement::Devices;
use super::record::NoProvenance;
use super::shared::{Stated, Threads, model_help};

const EXAMPLES: &str = "\
Examples:
  Measure over the text that comes with quern:
    quern imatrix ./TinyLlama-1.1B -o tinyllama.imatrix.gguf

  Measure over the first 100 chunks of your own text:
    quern imatrix ./TinyLlama-1.1B --text calibration.txt --chunks 100 -o tinyllama.imatrix.gguf";

/// Arguments of `quern imatrix`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Imatrix {
    /// Model to measure: a directory, a file, or a name on the Hugging Face Hub
    #[arg(long_help = model_help!("Model to measure"))]
    pub model: PathBuf,
    /// Text to run through the model, plain or JSONL, or - for standard input [default: a text that comes with quern]
    #[arg(long, value_name = "FILE")]
    pub text: Option<PathBuf>,
    /// File to write
    #[arg(short, long, value_name = "OUT", required_unless_present = "dry_run")]
    output: Option<PathBuf>,
    /// Length of a chunk in tokens
    #[arg(long, value_name = "N", default_value_t = 512)]
    pub context: usize,
    /// Number of chunks to process at most [default: all]
    #[arg(long, value_name = "N")]
    pub chunks: Option<usize>,
    /// Number of chunks to skip at the start of the text
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub from_chunk: usize,
    /// Also measure output.weight, if the model has a separate output head
    #[arg(long)]
    pub process_output: bool,
    /// File format to write
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    pub output_format: ImatrixFormat,
    /// Replace an existing output
    #[arg(long)]
    pub force: bool,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub stated: Stated,
    #[command(flatten)]
    pub threads: Threads,
    #[command(flatten)]
    pub provenance: NoProvenance,
    #[command(flatten)]
    pub devices: Devices,
    /// Print where every layer would be and how much memory that takes, and measure nothing
    #[arg(long, help_heading = "Devices and memory")]
    pub dry_run: bool,
}

impl Imatrix {
    /// The file to write; empty in a dry run.
    pub fn output(&self) -> &Path {
        self.output.as_deref().unwrap_or(Path::new(""))
    }
}

/// The two formats of an importance matrix.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub enum ImatrixFormat {
    /// A GGUF file with sums and counts, as llama-imatrix writes today
    #[default]
    Gguf,
    /// The older format, for older programs
    Dat,
}

impl From<ImatrixFormat> for Format {
    fn from(format: ImatrixFormat) -> Self {
        match format {
            ImatrixFormat::Gguf => Self::Gguf,
            ImatrixFormat::Dat => Self::Dat,
        }
    }
}
