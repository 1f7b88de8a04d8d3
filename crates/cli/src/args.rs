//! The command line. clap is its only source: the reference in `docs/` is printed from here.

mod run;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use quern_convert::{Edit, Target};
use quern_quantize::bitsandbytes::Kind;
use quern_quantize::imatrix::Format;
use quern_quantize::load_in::LoadScheme;
use quern_quantize::recipe::{FileType, Override};
use quern_run::KvType;
use quern_tensor_io::ElementType;

pub use run::Run;

use crate::format;

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
    /// Quantize a checkpoint to GGUF types, GPTQ, NF4, FP4 or int8
    Quantize(Quantize),
    /// Put a checkpoint into another container: GGUF, safetensors, GPTQ's packing; split, merge, edit
    Convert(Convert),
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
    /// Download a model from the Hugging Face Hub
    Pull(Pull),
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
    /// Checkpoint: a directory, a .safetensors or .gguf file, or a name on the Hub (see quern pull)
    pub model: PathBuf,
    /// Target scheme: any file type of llama-quantize (q4_k_m, q8_0, iq4_xs, f16 …), gptq, nf4, fp4 or int8
    #[arg(long, value_name = "SCHEME", value_parser = scheme)]
    pub to: Scheme,
    /// The file (GGUF) or directory (gptq, nf4, fp4, int8) to write [required unless --dry-run]
    #[arg(short, long, value_name = "OUT", required_unless_present = "dry_run")]
    pub output: Option<PathBuf>,
    /// Only print the plan: tensor, from, to, size
    #[arg(long)]
    pub dry_run: bool,
    /// Replace an existing output
    #[arg(long)]
    pub force: bool,
    /// Quantize again what is quantized already, in any scheme (loses quality twice)
    #[arg(long)]
    pub allow_requantize: bool,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub gguf: GgufOptions,
    #[command(flatten)]
    pub gptq: GptqOptions,
    #[command(flatten)]
    pub bitsandbytes: BitsandbytesOptions,
    #[command(flatten)]
    pub threads: Threads,
}

/// What `--to` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// A GGUF file type.
    Gguf(FileType),
    /// GPTQ.
    Gptq,
    /// NF4, FP4 or int8.
    Bitsandbytes(Kind),
}

/// Options for GGUF types.
#[derive(Debug, Args)]
#[command(next_help_heading = "GGUF types")]
pub struct GgufOptions {
    /// Importance matrix from quern imatrix or llama-imatrix (GGUF or legacy .dat)
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
}

impl GgufOptions {
    /// Whether any of them was given.
    pub fn any_given(&self) -> bool {
        self.imatrix.is_some()
            || self.pure
            || !self.tensor_type.is_empty()
            || self.output_tensor_type.is_some()
            || self.token_embedding_type.is_some()
            || self.leave_output_tensor
    }
}

/// Options for GPTQ.
#[derive(Debug, Args)]
#[command(next_help_heading = "GPTQ")]
pub struct GptqOptions {
    /// Bits per weight: 2, 3, 4 or 8 [default: 4]
    #[arg(long, value_name = "N", value_parser = bits)]
    pub bits: Option<u32>,
    /// Input columns that share a scale, -1 for all [default: 128]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = group_size)]
    pub group_size: Option<GroupSize>,
    /// Quantize columns in the order of their activations (readers then compute more slowly)
    #[arg(long)]
    pub desc_act: bool,
    /// Zero points of their own instead of the middle of the range (written as gptq_v2)
    #[arg(long)]
    pub asym: bool,
    /// Damping, as a share of the Hessian's mean diagonal [default: 0.02, or columns per calibration token]
    #[arg(long, value_name = "X", value_parser = damp)]
    pub damp: Option<f64>,
    /// Calibration text or JSONL file, - for standard input [default: a text that comes with quern]
    #[arg(long, value_name = "FILE")]
    pub calibration: Option<PathBuf>,
    /// Calibration samples [default: 128]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub samples: Option<u32>,
    /// Tokens in a sample [default: 2048, or what the model was trained for]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(16..))]
    pub context: Option<u32>,
    /// Rules for single modules as JSON, or @FILE: {"-:REGEX": {}} leaves out, {"REGEX": {"bits": 8}} overrides
    #[arg(long, value_name = "JSON|@FILE")]
    pub dynamic: Option<String>,
    /// Also write an importance matrix of the calibration text
    #[arg(long, value_name = "FILE")]
    pub save_imatrix: Option<PathBuf>,
    /// Discard an unfinished run with the same output instead of going on with it
    #[arg(long)]
    pub restart: bool,
}

impl GptqOptions {
    /// Whether any of them was given.
    pub fn any_given(&self) -> bool {
        self.bits.is_some()
            || self.group_size.is_some()
            || self.desc_act
            || self.asym
            || self.damp.is_some()
            || self.calibration.is_some()
            || self.samples.is_some()
            || self.context.is_some()
            || self.dynamic.is_some()
            || self.save_imatrix.is_some()
            || self.restart
    }
}

/// Columns that share a scale; `None` for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupSize(pub Option<usize>);

/// Options for NF4, FP4 and int8.
#[derive(Debug, Args)]
#[command(next_help_heading = "NF4, FP4, int8")]
pub struct BitsandbytesOptions {
    /// Values that share a scale: 32, 64 … 4096 [default: 64]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(32..=4096))]
    pub block_size: Option<u16>,
    /// Quantize the scales too: 4.13 bits per weight instead of 4.5 [this is the default]
    #[arg(long, overrides_with = "no_double_quant")]
    pub double_quant: bool,
    /// Keep the scales in f32
    #[arg(long)]
    pub no_double_quant: bool,
    /// Leave a module as it is: the beginning or the end of its path, or a regular expression (repeatable)
    #[arg(long, value_name = "NAME")]
    pub skip_module: Vec<String>,
}

impl BitsandbytesOptions {
    /// Whether any of them was given.
    pub fn any_given(&self) -> bool {
        self.block_size.is_some() || self.double_quant || self.no_double_quant || !self.skip_module.is_empty()
    }
}

/// Arguments of `quern convert`.
#[derive(Debug, Args)]
pub struct Convert {
    /// Checkpoint: a directory, a .safetensors file, a .gguf file, or a name on the Hub
    pub model: PathBuf,
    /// What it becomes: gguf, safetensors (a Hugging Face directory), gptq or gptq_v2 (another packing of the same
    /// layers)
    #[arg(long, value_name = "FORMAT", value_parser = target)]
    pub to: Target,
    /// The file (gguf) or directory to write [required unless --dry-run]
    #[arg(short, long, value_name = "OUT", required_unless_present = "dry_run")]
    pub output: Option<PathBuf>,
    /// Element type: f32, f16 or bf16; quantized weights are decoded [default: numbers stay as they are]
    #[arg(long, value_name = "TYPE", value_parser = dtype)]
    pub dtype: Option<ElementType>,
    /// Only print the plan: tensor, from, to, exact or lossy, size
    #[arg(long)]
    pub dry_run: bool,
    /// Do not read the output again to compare it with the source
    #[arg(long)]
    pub no_verify: bool,
    /// Replace an existing output
    #[arg(long)]
    pub force: bool,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
    /// One file, whatever its size (of GGUF that is the default)
    #[arg(long, conflicts_with_all = ["split_max_size", "split_max_tensors", "shard_size"])]
    pub merge: bool,
    /// safetensors, gptq: bytes in one file at most, with K, M or G for powers of 1000 [default: 4294967296]
    #[arg(long, value_name = "N[K|M|G]", value_parser = size)]
    pub shard_size: Option<u64>,
    #[command(flatten)]
    pub gguf: ConvertGguf,
    #[command(flatten)]
    pub threads: Threads,
}

/// Options of `quern convert` for GGUF files.
#[derive(Debug, Args)]
#[command(next_help_heading = "GGUF")]
pub struct ConvertGguf {
    /// Split: bytes of tensors in one file at most, with K, M or G for powers of 1000
    #[arg(long, value_name = "N[K|M|G]", value_parser = size)]
    pub split_max_size: Option<u64>,
    /// Split: tensors in one file at most
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub split_max_tensors: Option<u32>,
    /// Set a metadata key; a new one with its type, KEY:TYPE=VALUE (repeatable)
    #[arg(long, value_name = "KEY=VALUE", value_parser = Edit::parse_set)]
    pub set: Vec<Edit>,
    /// Remove a metadata key (repeatable)
    #[arg(long, value_name = "KEY")]
    pub remove: Vec<String>,
}

impl ConvertGguf {
    /// Whether any of them was given.
    pub fn any_given(&self) -> bool {
        self.split_max_size.is_some()
            || self.split_max_tensors.is_some()
            || !self.set.is_empty()
            || !self.remove.is_empty()
    }
}

/// Arguments of `quern imatrix`.
#[derive(Debug, Args)]
pub struct Imatrix {
    /// Checkpoint: a directory, a .safetensors or .gguf file, or a name on the Hub (see quern pull)
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
    /// Checkpoint: a directory, a .safetensors or .gguf file, or a name on the Hub (see quern pull)
    #[arg(required_unless_present = "architectures")]
    pub model: Option<PathBuf>,
    /// List the architectures that quern knows, by their names in config.json and in GGUF files
    #[arg(long, conflicts_with_all = ["model", "tensors", "metadata", "check"])]
    pub architectures: bool,
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

/// How a model is loaded.
#[derive(Debug, Args)]
pub struct Load {
    /// Quantize an f16, bf16 or f32 model while loading it: nf4, fp4, int8, or a GGUF type (q4_k, q8_0 …)
    #[arg(long, value_name = "SCHEME", value_parser = load_scheme)]
    pub load_in: Option<LoadScheme>,
}

/// What a run may take of memory.
#[derive(Clone, Debug, Args)]
pub struct Memory {
    /// How keys and values are kept: f16, q8_0 (17/32 of the memory) or f32
    #[arg(long, value_name = "TYPE", default_value = "f16", value_parser = kv_type)]
    pub kv: KvType,
    /// Stay within this much resident memory, e.g. cpu=8GiB; weights that do not fit are read from the file
    /// again for every token
    #[arg(long, value_name = "cpu=SIZE", value_parser = max_memory)]
    pub max_memory: Option<MaxMemory>,
}

impl Memory {
    /// Bytes that the process may have resident.
    pub fn limit(&self) -> Option<u64> {
        self.max_memory.as_ref().map(|limits| limits.cpu)
    }
}

/// The value of `--max-memory`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MaxMemory {
    /// Bytes on the CPU's side.
    pub cpu: u64,
}

/// Arguments of `quern perplexity`.
#[derive(Debug, Args)]
pub struct Perplexity {
    /// Checkpoint: a directory, a .safetensors or .gguf file, or a name on the Hub (see quern pull)
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
    pub load: Load,
    #[command(flatten)]
    pub memory: Memory,
    #[command(flatten)]
    pub threads: Threads,
}

/// Arguments of `quern bench`.
#[derive(Debug, Args)]
pub struct Bench {
    /// Checkpoints, each a directory, a .safetensors or .gguf file, or a name on the Hub (see quern pull)
    #[arg(required = true, value_name = "MODEL")]
    pub models: Vec<PathBuf>,
    /// Prompt lengths in tokens, e.g. 128,512; 0 to skip
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "512")]
    pub prompt: Vec<usize>,
    /// Tokens to generate, e.g. 32,128; 0 to skip
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "128")]
    pub generate: Vec<usize>,
    /// Positions of the context filled before a test, e.g. 0,4096
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "0")]
    pub depth: Vec<usize>,
    /// Repetitions after one warm-up
    #[arg(short, long, value_name = "N", default_value_t = 5)]
    pub repetitions: usize,
    /// Print the result as JSON: one object, or a list for several models
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub load: Load,
    #[command(flatten)]
    pub memory: Memory,
    #[command(flatten)]
    pub threads: Threads,
}

fn scheme(name: &str) -> Result<Scheme, String> {
    if name.eq_ignore_ascii_case("gptq") {
        return Ok(Scheme::Gptq);
    }
    let kind = Kind::from_name(name).map(Scheme::Bitsandbytes);
    kind.or_else(|| FileType::from_name(name).map(Scheme::Gguf)).ok_or_else(|| {
        let known: Vec<_> = FileType::ALL.iter().map(|t| t.name().to_lowercase()).collect();
        format!("there is no such scheme; known are gptq, nf4, fp4, int8, {}", known.join(", "))
    })
}

fn target(name: &str) -> Result<Target, String> {
    Target::from_name(name).ok_or_else(|| {
        let known = Target::ALL.map(Target::name).join(", ");
        format!("there is no such format; known are {known} (other schemes: quern quantize)")
    })
}

fn dtype(name: &str) -> Result<ElementType, String> {
    let known = [ElementType::F32, ElementType::F16, ElementType::BF16];
    let found = ElementType::from_name(name).filter(|t| known.contains(t));
    found.ok_or_else(|| "f32, f16 or bf16 (for others see quern quantize)".to_owned())
}

/// Bytes, with K, M or G for powers of 1000.
fn size(text: &str) -> Result<u64, String> {
    let units = [('K', 1000), ('M', 1_000_000), ('G', 1_000_000_000)];
    let unit = text.chars().next_back().and_then(|c| units.iter().find(|u| u.0 == c.to_ascii_uppercase()));
    let (digits, factor) = unit.map_or((text, 1), |&(_, factor)| (&text[..text.len() - 1], factor));
    let bytes = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(factor));
    bytes.filter(|&n| n > 0).ok_or_else(|| "a number of bytes, such as 500M or 4G".to_owned())
}

fn load_scheme(name: &str) -> Result<LoadScheme, String> {
    LoadScheme::from_name(name).ok_or_else(|| {
        "there is no such scheme to load in; take nf4, fp4, int8 or a GGUF type such as q4_k or q8_0"
            .to_owned()
    })
}

fn kv_type(name: &str) -> Result<KvType, String> {
    KvType::from_name(name).ok_or_else(|| {
        let known: Vec<_> = KvType::ALL.iter().map(|kv| kv.name()).collect();
        format!("there is no such type for keys and values; take {}", known.join(", "))
    })
}

/// `cpu=SIZE`, or just a size. Devices (`0=SIZE`) are for builds that compute on them.
fn max_memory(text: &str) -> Result<MaxMemory, String> {
    let mut cpu = None;
    for part in text.split(',') {
        let (place, size) = part.split_once('=').unwrap_or(("cpu", part));
        if place.parse::<u32>().is_ok() {
            return Err(format!(
                "{part}: quern computes on the CPU only so far, there is no device {place} to place weights \
                 on; give cpu=SIZE alone"
            ));
        }
        if place != "cpu" {
            return Err(format!("{part}: expected cpu=SIZE, for example cpu=8GiB"));
        }
        if cpu.replace(format::parse_bytes(size)?).is_some() {
            return Err("cpu is given twice".to_owned());
        }
    }
    cpu.map(|cpu| MaxMemory { cpu }).ok_or_else(|| "expected cpu=SIZE, for example cpu=8GiB".to_owned())
}

fn bits(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(bits @ (2 | 3 | 4 | 8)) => Ok(bits),
        _ => Err("GPTQ has 2, 3, 4 or 8 bits".to_owned()),
    }
}

fn group_size(text: &str) -> Result<GroupSize, String> {
    match text.parse::<i64>() {
        Ok(-1) => Ok(GroupSize(None)),
        Ok(size @ 8..=65536) => Ok(GroupSize(Some(size as usize))),
        _ => Err("a number of columns (32, 64, 128 are usual), or -1 for one group a row".to_owned()),
    }
}

fn damp(text: &str) -> Result<f64, String> {
    let value: Option<f64> = text.parse().ok();
    value.filter(|v| (0.0..1.0).contains(v)).ok_or_else(|| "a share from 0 to below 1".to_owned())
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

/// Arguments of `quern pull`.
#[derive(Debug, Args)]
pub struct Pull {
    /// Model on the Hub: org/name, org/name@revision, org/name:file.gguf or org/name:Q4_K_M
    #[arg(value_name = "NAME")]
    pub name: quern_hub::Name,
    /// Take the files that match, and only those; * also matches / (repeatable) [default: what the model needs]
    #[arg(long, value_name = "GLOB")]
    pub include: Vec<String>,
    /// Leave out the files that match (repeatable)
    #[arg(long, value_name = "GLOB")]
    pub exclude: Vec<String>,
    /// Put plain files into this new folder instead of the cache that Python's tools share
    #[arg(short, long, value_name = "DIR")]
    pub output: Option<PathBuf>,
    /// Ask nobody: take what the cache has
    #[arg(long)]
    pub offline: bool,
    /// Download again what is there; with -o, replace the folder
    #[arg(long)]
    pub force: bool,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}
