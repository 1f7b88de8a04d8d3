//! Arguments of `quern convert`.

use std::path::PathBuf;

use clap::Args;
use quern_convert::{Edit, Target};
use quern_tensor_io::ElementType;

use super::record::{CardOptions, NoProvenance};
use super::shared::{Stated, Threads, model_help};
use super::values::{dtypes, size, targets};

const EXAMPLES: &str = "\
Examples:
  Hugging Face to GGUF:
    quern convert ./TinyLlama-1.1B --to gguf -o tinyllama.gguf

  GGUF to a Hugging Face directory, with configuration and tokenizer; weights decoded to f16:
    quern convert tinyllama-q4_k_m.gguf --to safetensors --dtype f16 -o TinyLlama-HF

  Split a GGUF file into parts of at most 4 GB:
    quern convert big.gguf --to gguf --split-max-size 4G -o big

  Change a metadata key:
    quern convert model.gguf --to gguf --set tokenizer.ggml.eos_token_id=32000 -o fixed.gguf";

/// Arguments of `quern convert`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Convert {
    /// Model to convert: a directory, a file, or a name on the Hugging Face Hub
    #[arg(long_help = model_help!("Model to convert"))]
    pub model: PathBuf,
    /// Format to write: gguf, safetensors, gptq, gptq_v2, compressed-tensors or awq
    ///
    /// safetensors writes a Hugging Face directory, in which the weights of a quantized model are decoded. The last four
    /// repack GPTQ, AWQ and compressed-tensors layers without changing a code. gguf holds the values of quantized layers
    /// exactly where it has a type for them (NVFP4 and MXFP4 have their own), and --dtype decodes the others.
    #[arg(long, value_name = "FORMAT", value_parser = targets(), hide_possible_values = true)]
    pub to: Target,
    /// File (gguf) or directory to write; required unless --dry-run is given
    #[arg(short, long, value_name = "OUT", required_unless_present = "dry_run")]
    pub output: Option<PathBuf>,
    /// Cast to f32, f16 or bf16; quantized weights are decoded first [default: numbers stay as they are]
    #[arg(long, value_name = "TYPE", value_parser = dtypes(), hide_possible_values = true)]
    pub dtype: Option<ElementType>,
    /// Print the plan and write nothing: every tensor, its old and new type, whether it stays exact, the total size
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
    /// Write all tensors to one file, whatever its size; this is the default for gguf
    #[arg(long, conflicts_with_all = ["split_max_size", "split_max_tensors", "shard_size"])]
    pub merge: bool,
    /// Largest size of a safetensors file in bytes; K, M and G are powers of 1000 [default: 4294967296]
    #[arg(long, value_name = "N[K|M|G]", value_parser = size)]
    pub shard_size: Option<u64>,
    #[command(flatten)]
    pub stated: Stated,
    #[command(flatten)]
    pub threads: Threads,
    #[command(flatten)]
    pub provenance: NoProvenance,
    #[command(flatten)]
    pub card: CardOptions,
    #[command(flatten)]
    pub gguf: ConvertGguf,
}

/// Options of `quern convert` for GGUF files.
#[derive(Debug, Args)]
#[command(next_help_heading = "GGUF")]
pub struct ConvertGguf {
    /// Split the output: bytes of tensors in one file at most; K, M and G are powers of 1000
    #[arg(long, value_name = "N[K|M|G]", value_parser = size)]
    pub split_max_size: Option<u64>,
    /// Split the output: number of tensors in one file at most
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub split_max_tensors: Option<u32>,
    /// Set a metadata key; a new key needs a type, as in KEY:TYPE=VALUE (repeatable)
    ///
    /// An existing key keeps its type. Types are u8, i8, u16, i16, u32, i32, u64, i64, f32, f64, bool and str.
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
