//! The command line. clap is its only source: the reference in `docs/` is printed from here.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use quern_quantize::imatrix::Format;
use quern_quantize::recipe::{FileType, Override};
use quern_tensor_io::ElementType;

/// A hand mill for model weights: quantize, inspect, run and measure language models.
#[derive(Debug, Parser)]
#[command(name = "quern", version, max_term_width = 100, propagate_version = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The jobs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// The whole mill on the small model that comes with quern, in under a minute
    Demo(Demo),
    /// Quantize a checkpoint (safetensors or GGUF) to a GGUF file
    Quantize(Quantize),
    /// Measure an importance matrix over a text, as llama-imatrix does
    Imatrix(Imatrix),
    /// Say what a model file is, list its tensors, check it
    Inspect(Inspect),
    /// Generate text
    Run(Run),
    /// Measure perplexity over a text, as llama-perplexity does
    Perplexity(Perplexity),
    /// Measure prompt and generation speed
    Bench(Bench),
}

/// Arguments of `quern demo`.
#[derive(Debug, Args)]
pub struct Demo {
    /// Directory of the demo model and text [default: the fixtures folder of the checkout]
    #[arg(long, value_name = "DIR")]
    pub fixtures: Option<PathBuf>,
    #[command(flatten)]
    pub threads: Threads,
}

/// How many threads compute.
#[derive(Debug, Args)]
pub struct Threads {
    /// Threads to compute with [default: all processors]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
}

impl Threads {
    /// The number asked for, or one per available processor.
    pub fn count(&self) -> usize {
        match self.threads {
            Some(n) => n.into(),
            None => std::thread::available_parallelism().map_or(1, |n| n.get()),
        }
    }
}

/// Arguments of `quern quantize`.
#[derive(Debug, Args)]
pub struct Quantize {
    /// Checkpoint: a directory, a .safetensors file or a .gguf file
    pub model: PathBuf,
    /// Target scheme: any file type of llama-quantize (q4_k_m, q8_0, iq4_xs, f16 …), in any case
    #[arg(long, value_name = "SCHEME", value_parser = file_type)]
    pub to: FileType,
    /// The file to write [required unless --dry-run]
    #[arg(short, long, value_name = "OUT", required_unless_present = "dry_run")]
    pub output: Option<PathBuf>,
    /// Importance matrix from llama-imatrix (GGUF or legacy .dat)
    #[arg(long, value_name = "FILE")]
    pub imatrix: Option<PathBuf>,
    /// One type for every tensor, no mix
    #[arg(long)]
    pub pure: bool,
    /// Element type for tensors whose name matches (first match wins; repeatable)
    #[arg(long, value_name = "REGEX=TYPE", value_parser = type_override)]
    pub tensor_type: Vec<Override>,
    /// Element type of the output head
    #[arg(long, value_name = "TYPE", value_parser = element_type)]
    pub output_tensor_type: Option<ElementType>,
    /// Element type of the token embedding
    #[arg(long, value_name = "TYPE", value_parser = element_type)]
    pub token_embedding_type: Option<ElementType>,
    /// Leave output.weight in the type it has
    #[arg(long)]
    pub leave_output_tensor: bool,
    /// Quantize again what is quantized already (loses quality twice)
    #[arg(long)]
    pub allow_requantize: bool,
    /// Only print the plan: tensor, from, to, size
    #[arg(long)]
    pub dry_run: bool,
    /// Replace an existing output
    #[arg(long)]
    pub force: bool,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub threads: Threads,
}

/// Arguments of `quern imatrix`.
#[derive(Debug, Args)]
pub struct Imatrix {
    /// Checkpoint: a directory, a .safetensors file or a .gguf file
    pub model: PathBuf,
    /// Text to run through the model: plain or JSONL, - for standard input [default: quern's own text]
    #[arg(long, value_name = "FILE")]
    pub text: Option<PathBuf>,
    /// The file to write
    #[arg(short, long, value_name = "OUT")]
    pub output: PathBuf,
    /// Tokens per chunk
    #[arg(long, value_name = "N", default_value_t = 512)]
    pub context: usize,
    /// Chunks to run at most [default: all]
    #[arg(long, value_name = "N")]
    pub chunks: Option<usize>,
    /// Chunks to leave out at the beginning of the text
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub from_chunk: usize,
    /// Measure output.weight too, if the model has one of its own
    #[arg(long)]
    pub process_output: bool,
    /// gguf as llama-imatrix writes today, or dat for old programs
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    pub output_format: ImatrixFormat,
    /// Replace an existing output
    #[arg(long)]
    pub force: bool,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub threads: Threads,
}

/// The two formats of an importance matrix.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub enum ImatrixFormat {
    /// Sums and counts in a GGUF file.
    #[default]
    Gguf,
    /// The legacy format.
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

/// Arguments of `quern inspect`.
#[derive(Debug, Args)]
pub struct Inspect {
    /// Checkpoint: a directory, a .safetensors file or a .gguf file
    pub model: PathBuf,
    /// List every tensor with type, shape and size
    #[arg(long)]
    pub tensors: bool,
    /// List all metadata
    #[arg(long)]
    pub metadata: bool,
    /// Check it: finite values and scales, shapes against the config, nothing missing, nothing extra
    #[arg(long)]
    pub check: bool,
    /// Print everything as JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `quern run`.
#[derive(Debug, Args)]
pub struct Run {
    /// Checkpoint: a directory, a .safetensors file or a .gguf file
    pub model: PathBuf,
    /// Text to continue
    #[arg(short, long)]
    pub prompt: String,
    /// Tokens to generate at most
    #[arg(short = 'n', long = "predict", value_name = "N", default_value_t = 128)]
    pub predict: usize,
    /// Context length in tokens [default: the model's, at most 4096]
    #[arg(long, value_name = "N")]
    pub context: Option<usize>,
    /// Temperature; 0 always takes the likeliest token
    #[arg(long, default_value_t = 0.8)]
    pub temp: f32,
    /// Sample among the K likeliest tokens; 0 for all
    #[arg(long, value_name = "K", default_value_t = 40)]
    pub top_k: usize,
    /// Sample among the likeliest tokens that together reach this probability
    #[arg(long, value_name = "P", default_value_t = 0.95)]
    pub top_p: f32,
    /// Drop tokens less likely than this share of the likeliest
    #[arg(long, value_name = "P", default_value_t = 0.05)]
    pub min_p: f32,
    /// Penalty on tokens among the last 64; 1 for none
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    pub repeat_penalty: f32,
    /// Seed; the same seed gives the same text on any number of threads [default: random]
    #[arg(long)]
    pub seed: Option<u64>,
    /// Print the result as JSON instead of streaming text
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub threads: Threads,
}

/// Arguments of `quern perplexity`.
#[derive(Debug, Args)]
pub struct Perplexity {
    /// Checkpoint: a directory, a .safetensors file or a .gguf file
    pub model: PathBuf,
    /// Text to measure over
    #[arg(long, value_name = "FILE")]
    pub text: PathBuf,
    /// Tokens per chunk; the second half of each is scored
    #[arg(long, value_name = "N", default_value_t = 512)]
    pub context: usize,
    /// Chunks to measure at most [default: all]
    #[arg(long, value_name = "N")]
    pub chunks: Option<usize>,
    /// Also compare with this model's predictions: KL divergence, agreement, perplexity ratio
    #[arg(long, value_name = "MODEL")]
    pub reference: Option<PathBuf>,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub threads: Threads,
}

/// Arguments of `quern bench`.
#[derive(Debug, Args)]
pub struct Bench {
    /// Checkpoint: a directory, a .safetensors file or a .gguf file
    pub model: PathBuf,
    /// Prompt length in tokens; 0 to skip
    #[arg(long, value_name = "N", default_value_t = 512)]
    pub prompt: usize,
    /// Tokens to generate; 0 to skip
    #[arg(long, value_name = "N", default_value_t = 128)]
    pub generate: usize,
    /// Repetitions after one warm-up
    #[arg(short, long, value_name = "N", default_value_t = 5)]
    pub repetitions: usize,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub threads: Threads,
}

fn file_type(name: &str) -> Result<FileType, String> {
    FileType::from_name(name).ok_or_else(|| {
        let known: Vec<_> = FileType::ALL.iter().map(|t| t.name().to_lowercase()).collect();
        format!("there is no such scheme; known are {}", known.join(", "))
    })
}

fn element_type(name: &str) -> Result<ElementType, String> {
    ElementType::from_name(name).ok_or_else(|| {
        let known: Vec<_> =
            ElementType::ALL.iter().filter(|t| t.ggml_id().is_some()).map(|t| t.name()).collect();
        format!("there is no such element type; known are {}", known.join(", "))
    })
}

fn type_override(text: &str) -> Result<Override, String> {
    Override::parse(text).map_err(|e| e.to_string())
}
