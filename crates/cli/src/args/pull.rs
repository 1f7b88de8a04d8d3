//! Arguments of `quern pull`.

use std::path::PathBuf;

use clap::Args;

const EXAMPLES: &str = "\
Examples:
  Download a model into the cache:
    quern pull TinyLlama/TinyLlama-1.1B-Chat-v1.0

  Download one quantization from a repository of GGUF files:
    quern pull bartowski/Llama-3.2-1B-Instruct-GGUF:Q4_K_M

  Download a tag into a directory of its own:
    quern pull org/name@v1.0 -o ./model";

/// Arguments of `quern pull`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Pull {
    /// Model on the Hub: ORG/NAME, ORG/NAME@REVISION, ORG/NAME:FILE.gguf or ORG/NAME:Q4_K_M
    #[arg(value_name = "NAME")]
    pub name: quern_hub::Name,
    /// Download only the files that match, where * also matches / (repeatable) [default: what the model needs]
    #[arg(long, value_name = "GLOB")]
    pub include: Vec<String>,
    /// Do not download the files that match (repeatable)
    #[arg(long, value_name = "GLOB")]
    pub exclude: Vec<String>,
    /// Write plain files to a new directory instead of the cache
    #[arg(short, long, value_name = "DIR")]
    pub output: Option<PathBuf>,
    /// Use only cached files; make no network requests
    #[arg(long)]
    pub offline: bool,
    /// Download files again that are already cached; with -o, replace the directory
    #[arg(long)]
    pub force: bool,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}
