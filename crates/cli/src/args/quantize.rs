//! Arguments of `quern quantize`.

use std::path::PathBuf;

use clap::Args;
use clap::builder::ArgPredicate;
use quern_quantize::bitsandbytes::Kind;
use quern_quantize::recipe::{FileType, Override};
use quern_tensor_io::ElementType;
use quern_tensor_io::scheme::CodeFormat;

use super::auto::AutoOptions;
use super::calibration::CalibrationOptions;
use super::placement::CalibrationDevice;
use super::record::{CardOptions, NoProvenance};
use super::shared::{Stated, Threads, model_help};
use super::values::{bits, element_types, group_size, packings, schemes, type_override};

const EXAMPLES: &str = "\
Examples:
  Quantize to GGUF with every layer rounded for the inputs it gets on a text of your own:
    quern quantize ./TinyLlama-1.1B --to q4_k_m --calibrate --calibration text.txt -o q4_k_m.gguf

  Quantize to a GGUF file of at most 700 MiB, with the types that change the predictions least:
    quern quantize ./TinyLlama-1.1B --to auto --target-size 700MiB -o tinyllama.gguf

  Quantize to GPTQ with groups of 32 columns, calibrated on a text of your own:
    quern quantize ./TinyLlama-1.1B --to gptq --group-size 32 --calibration text.txt -o GPTQ

  Quantize to NF4, as bitsandbytes does:
    quern quantize ./TinyLlama-1.1B --to nf4 -o TinyLlama-NF4";

/// Arguments of `quern quantize`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Quantize {
    /// Model to quantize: a directory, a file, or a name on the Hugging Face Hub
    #[arg(long_help = model_help!("Model to quantize"))]
    pub model: PathBuf,
    /// Scheme to quantize to: gptq, fp8, fp8-block, compressed-tensors, nf4, fp4, int8, any file type of llama-quantize
    /// (q4_k_m, q8_0, iq4_xs …), or auto for types chosen by measurement
    #[arg(long, value_name = "SCHEME", value_parser = schemes(), hide_possible_values = true, required = false)]
    #[arg(required_unless_present = "recipe", default_value_if("recipe", ArgPredicate::IsPresent, "recipe"))]
    pub to: Scheme,
    /// File (GGUF types) or directory (the other schemes) to write; required unless --dry-run is given
    #[arg(short, long, value_name = "OUT", required_unless_present = "dry_run")]
    pub output: Option<PathBuf>,
    /// Print the plan and write nothing: every tensor or module, its new type, the total size
    #[arg(long)]
    pub dry_run: bool,
    /// Replace an existing output
    #[arg(long)]
    pub force: bool,
    /// Accept a model that is already quantized, which adds the errors of both quantizations
    #[arg(long)]
    pub allow_requantize: bool,
    /// Compare the result with its source over FILE, or - for standard input: perplexity, KL divergence, same first token
    ///
    /// Both models are run over the text in chunks of 512 tokens, as quern perplexity --reference does. The figures are
    /// printed, and recorded in the card and in the quern.json of a directory.
    #[arg(long, value_name = "FILE")]
    pub evaluate: Option<PathBuf>,
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
    pub card: CardOptions,
    #[command(flatten)]
    pub device: CalibrationDevice,
    #[command(flatten)]
    pub gguf: GgufOptions,
    #[command(flatten)]
    pub auto: AutoOptions,
    #[command(flatten)]
    pub gptq: GptqOptions,
    #[command(flatten)]
    pub calibration: CalibrationOptions,
    #[command(flatten)]
    pub rules: RuleOptions,
    #[command(flatten)]
    pub bitsandbytes: BitsandbytesOptions,
}

/// What `--to` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// A GGUF file type.
    Gguf(FileType),
    /// GGUF with types chosen by measurement.
    Auto,
    /// GGUF with the types of a recipe file.
    Recipe,
    /// GPTQ.
    Gptq,
    /// NF4, FP4 or int8.
    Bitsandbytes(Kind),
    /// FP8, a scale for each output.
    Fp8,
    /// FP8, a scale for each block of 128 x 128.
    Fp8Block,
    /// Integers of compressed-tensors, by rounding.
    CompressedTensors,
}

impl Scheme {
    /// Whether it is by rounding, for vLLM.
    pub fn is_rounded(self) -> bool {
        matches!(self, Self::Fp8 | Self::Fp8Block | Self::CompressedTensors)
    }
}

/// Options for GGUF types.
#[derive(Debug, Args)]
#[command(next_help_heading = "GGUF types")]
pub struct GgufOptions {
    /// Importance matrix made by quern imatrix or llama-imatrix (GGUF or the older .dat)
    #[arg(long, value_name = "FILE")]
    pub imatrix: Option<PathBuf>,
    /// Run the model on a calibration text and round each linear layer for the inputs it gets
    ///
    /// The types are those of the file type, and programs read the file like any other. An importance matrix is not
    /// needed: the calibration measures what it has. See docs/quantizing.md.
    #[arg(long)]
    pub calibrate: bool,
    /// Use one type for all tensors instead of the mix of types that the file type stands for
    #[arg(long)]
    pub pure: bool,
    /// Type for the tensors whose name contains a match of REGEX; the first match counts (repeatable)
    #[arg(long, value_name = "REGEX=TYPE", value_parser = type_override)]
    pub tensor_type: Vec<Override>,
    /// Type of the output head, output.weight
    #[arg(long, value_name = "TYPE", value_parser = element_types(), hide_possible_values = true)]
    pub output_tensor_type: Option<ElementType>,
    /// Type of the token embedding, token_embd.weight
    #[arg(long, value_name = "TYPE", value_parser = element_types(), hide_possible_values = true)]
    pub token_embedding_type: Option<ElementType>,
    /// Keep the output head in the type it has
    #[arg(long)]
    pub leave_output_tensor: bool,
}

impl GgufOptions {
    /// Whether any of them was given.
    pub fn any_given(&self) -> bool {
        self.imatrix.is_some()
            || self.calibrate
            || self.pure
            || !self.tensor_type.is_empty()
            || self.output_tensor_type.is_some()
            || self.token_embedding_type.is_some()
            || self.leave_output_tensor
    }
}

/// Options for GPTQ.
#[derive(Debug, Args)]
#[command(next_help_heading = "GPTQ and compressed-tensors")]
pub struct GptqOptions {
    /// Bits per weight: 2, 3, 4 or 8; compressed-tensors 4 or 8 [default: 4]
    #[arg(long, value_name = "N", value_parser = bits)]
    pub bits: Option<u32>,
    /// Number of input columns that share a scale, or -1 for one scale per row [default: 128]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = group_size)]
    pub group_size: Option<GroupSize>,
    /// Form groups in the order of activation size (act-order), which makes inference slower
    #[arg(long)]
    pub desc_act: bool,
    /// Store a zero point per group (asymmetric); GPTQ's tensors are then written as gptq_v2
    #[arg(long)]
    pub asym: bool,
    /// Tensors to write the codes of gptq in: gptq, compressed-tensors or awq [default: gptq]
    ///
    /// vLLM and transformers read all of them; with --asym, vLLM reads compressed-tensors and awq only.
    #[arg(long, value_name = "FORMAT", value_parser = packings(), hide_possible_values = true)]
    pub packing: Option<CodeFormat>,
}

impl GptqOptions {
    /// Whether any of them was given.
    pub fn any_given(&self) -> bool {
        self.bits.is_some() || self.group_size.is_some() || self.asym || self.beyond_rounding()
    }

    /// Whether any was given that rounding alone has no use for.
    pub fn beyond_rounding(&self) -> bool {
        self.desc_act || self.packing.is_some()
    }
}

/// Rules for GPTQ. They follow the options of the calibration in recorded commands.
#[derive(Debug, Args)]
#[command(next_help_heading = "GPTQ and compressed-tensors")]
pub struct RuleOptions {
    /// Settings for single modules, as JSON or in a file (@FILE)
    ///
    /// Keys are regular expressions that are matched from the start of a module's name. {"-:REGEX": {}} leaves matching
    /// modules unquantized; {"REGEX": {"bits": 8}} changes bits, group_size, sym, desc_act or damp_percent.
    #[arg(long, value_name = "JSON|@FILE")]
    pub dynamic: Option<String>,
}

/// Columns that share a scale; `None` for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupSize(pub Option<usize>);

/// Options for NF4, FP4 and int8.
#[derive(Debug, Args)]
#[command(next_help_heading = "NF4, FP4 and int8")]
pub struct BitsandbytesOptions {
    /// Number of values that share a scale: a power of two from 32 to 4096; nf4 and fp4 only [default: 64]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(32..=4096))]
    pub block_size: Option<u16>,
    /// Quantize the scales to 8 bits: 4.13 instead of 4.5 bits per weight; nf4 and fp4 only [this is the default]
    #[arg(long, overrides_with = "no_double_quant")]
    pub double_quant: bool,
    /// Keep the scales in f32
    #[arg(long)]
    pub no_double_quant: bool,
    /// Leave a module unquantized: the start or end of its name, or a regular expression (repeatable); also with fp8,
    /// fp8-block and compressed-tensors
    #[arg(long, value_name = "NAME")]
    pub skip_module: Vec<String>,
}

impl BitsandbytesOptions {
    /// Whether any of them was given.
    pub fn any_given(&self) -> bool {
        self.beyond_modules() || !self.skip_module.is_empty()
    }

    /// Whether any was given that does not choose modules.
    pub fn beyond_modules(&self) -> bool {
        self.block_size.is_some() || self.double_quant || self.no_double_quant
    }
}
