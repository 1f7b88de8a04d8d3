//! The command line: one file per subcommand, and what several of them share.
//!
//! clap prints the help from these definitions. The names of commands and options are a contract with users and
//! scripts: they may be added to, never renamed.

mod argv;
mod auto;
mod bench;
mod calibration;
mod choice;
mod completions;
mod convert;
mod demo;
mod diff;
mod doctor;
mod fit;
mod imatrix;
mod inspect;
mod man;
#[cfg(test)]
mod markdown;
mod output;
mod perplexity;
mod placement;
mod pull;
mod quantize;
mod record;
mod reduced;
mod run;
mod sampling;
mod shared;
#[cfg(test)]
mod tests;
mod values;

use std::ffi::OsString;

use clap::{CommandFactory, Parser, Subcommand};

pub use bench::Bench;
pub use completions::Completions;
pub use convert::Convert;
pub use demo::Demo;
pub use diff::Diff;
pub use doctor::Doctor;
pub use fit::Fit;
pub use imatrix::Imatrix;
pub use inspect::Inspect;
pub use man::Man;
pub use output::Output;
pub use perplexity::Perplexity;
pub use placement::{CalibrationDevice, Devices, Placement};
pub use pull::Pull;
pub use quantize::{Quantize, Scheme};
pub use record::{CardOptions, NoProvenance};
pub use reduced::this_command;
pub use run::Run;
pub use shared::Stated;

/// Shown after the list of commands.
const FIRST_STEPS: &str = "\
First steps:
  quern inspect MODEL                              What a model is, and how it is stored
  quern quantize MODEL --to q4_k_m -o OUT.gguf     Make it smaller
  quern run OUT.gguf -p \"Once upon a time\"         Generate text with it

MODEL is a directory, a file, or a name on the Hugging Face Hub.
Results go to standard output, everything else to standard error.
Exit codes: 0 on success, 1 on failure, 2 for wrong usage.";

/// Download, quantize, convert, inspect and run language models
#[derive(Debug, Parser)]
#[command(name = "quern", version, max_term_width = 100, propagate_version = true, after_help = FIRST_STEPS)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    #[command(flatten)]
    pub output: Output,
}

impl Cli {
    /// Parses a command line, the program's name first.
    ///
    /// # Errors
    /// clap's, with the text to print and the exit code.
    pub fn from_args(args: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let mut cli = Self::command();
        // With it, each command also has the options of all.
        cli.build();
        Self::try_parse_from(argv::rewritten(&cli, args))
    }
}

/// The subcommands.
#[derive(Debug, Subcommand)]
#[allow(clippy::large_enum_variant)] // one a run
pub enum Command {
    /// Quantize, convert, measure and run the small model that comes with quern
    ///
    /// Takes less than a minute, needs no network, and leaves no file behind.
    Demo(Demo),
    /// Quantize a model to a GGUF type, GPTQ, NF4, FP4 or int8
    ///
    /// GGUF types give one file for llama.cpp and programs built on it. GPTQ, NF4, FP4 and int8 give a directory for
    /// transformers, vLLM and other programs that read Hugging Face checkpoints. The output appears under its name only
    /// when it is complete.
    Quantize(Quantize),
    /// Change the container of a model: GGUF, safetensors or GPTQ; split, merge or edit GGUF files
    ///
    /// The numbers of a model stay exactly as they are unless --dtype asks for another type. After writing, the output
    /// is read again and compared with the source.
    Convert(Convert),
    /// Measure an importance matrix over a text, as llama-imatrix does
    ///
    /// The importance matrix records how strongly each input column of each linear layer is used. quern quantize
    /// --imatrix uses it to keep more precision where it matters.
    Imatrix(Imatrix),
    /// Show what a model is, list its tensors and metadata, check its files, write a report
    ///
    /// Without --check, --report and --histogram only headers are read, so this takes milliseconds whatever the size of
    /// the model. Of a model on the Hub that is not in the cache, only the headers are downloaded.
    Inspect(Inspect),
    /// Choose a model, a scheme and a placement that fit a machine, and show how fast and how good they are
    ///
    /// Without MODEL, published models are listed that fit this machine (or the memory given), what to try first at the
    /// top. With MODEL, all schemes are listed that it can be quantized to, with the memory and the speed that quern run
    /// will reach and the quality that was measured, and the commands that make and run the best. Only headers are read.
    Fit(Fit),
    /// Show what this machine offers: processor, memory, disks, GPUs, access to the Hub; and what is missing
    ///
    /// Measures the bandwidth of memory and the speed of disks, which takes some seconds. For each thing that is missing
    /// or set in a way that makes quern slow, it shows what to do.
    Doctor(Doctor),
    /// Compare two models: tensors, configuration, metadata, tokenizer
    ///
    /// The models may be in any container and scheme: tensors are matched by their meaning, and quantized weights are
    /// decoded. Each tensor has the same bytes, equal values in another type or layout, or errors that are measured.
    /// With --text, the predictions of both models are compared too.
    Diff(Box<Diff>),
    /// Generate text from a prompt, or hold a conversation with --chat
    ///
    /// Runs GGUF, safetensors and PyTorch models on the CPU, and checkpoints in GPTQ, AWQ, compressed-tensors, FP8, NVFP4,
    /// MXFP4, AutoRound, MLX, HQQ, torchao and bitsandbytes. The generated text is written to standard output while it is
    /// generated.
    Run(Box<Run>),
    /// Measure perplexity over a text, as llama-perplexity does
    ///
    /// The text is split into chunks of --context tokens, and the second half of each chunk is scored. With
    /// --reference, the predictions of two models are compared token by token.
    Perplexity(Perplexity),
    /// Measure prompt processing and text generation speed, as llama-bench does
    Bench(Bench),
    /// Download a model from the Hugging Face Hub
    ///
    /// Downloads the files a model needs into the cache that huggingface_hub uses, resumes interrupted downloads and
    /// checks the length and hash of every file. Access tokens and mirrors are taken from the environment variables of
    /// huggingface_hub: HF_TOKEN, HF_HOME, HF_ENDPOINT and others.
    Pull(Pull),
    /// Print the completions of a shell: bash, zsh, fish, powershell or elvish
    ///
    /// The script completes commands, options and the names of schemes and types. It is written to standard output; where
    /// it belongs depends on the shell.
    Completions(Completions),
    /// Print or write manual pages
    ///
    /// Without -o, the page of quern itself is written to standard output. The pages say what --help says.
    Man(Man),
}
