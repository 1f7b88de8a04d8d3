//! Arguments of `quern fit`.

use std::path::PathBuf;

use clap::Args;
use quern_run::KvType;
use quern_run::placement::DeviceChoice;

use super::shared::{Threads, model_help};
use super::values::{bandwidth, device, kv_types, memory_sizes};
use crate::format::parse_bytes;

const EXAMPLES: &str = "\
Examples:
  Show which published models run well on this machine:
    quern fit

  Show the same for another machine, with a GPU of 8 GiB whose memory delivers 360 GB/s:
    quern fit --vram 8GiB --gpu-bandwidth 360GB --ram 16GiB

  Show which schemes of a model fit, how fast and how good they are, and the commands that make and run the best:
    quern fit Qwen/Qwen3-8B --context 8192

  Take the best quality that reaches 20 tokens per second:
    quern fit ./TinyLlama-1.1B --speed 20";

/// Arguments of `quern fit`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Fit {
    /// Model to fit: a directory, a file, or a name on the Hugging Face Hub [default: a catalogue of published models]
    #[arg(long_help = model_help!("Model to fit"))]
    pub model: Option<PathBuf>,
    /// GPU memory to plan with, such as 8GiB; several cards as 24GiB,24GiB; 0 for none [default: this machine's GPUs]
    #[arg(long, value_name = "SIZE,…", value_parser = memory_sizes)]
    // Not `Vec`: clap would take that for one value each time the option is given.
    pub vram: Option<std::vec::Vec<u64>>,
    /// Bytes a second that the memory of the GPUs of --vram delivers, such as 360GB [default: what this machine's has]
    #[arg(long, value_name = "SIZE", value_parser = bandwidth, requires = "vram")]
    pub gpu_bandwidth: Option<u64>,
    /// RAM to plan with, such as 16GiB [default: what is free]
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    pub ram: Option<u64>,
    /// Context length in tokens [default: the model's, at most 4096]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub context: Option<u32>,
    /// Type of the key-value cache: f16, q8_0 (17/32 of the size of f16) or f32
    #[arg(long, value_name = "TYPE", default_value = "f16", value_parser = kv_types(), hide_possible_values = true)]
    pub kv: KvType,
    /// Tokens per second to reach when the best is chosen
    #[arg(long, value_name = "N", default_value_t = 10.0, value_parser = positive)]
    pub speed: f64,
    /// Device to plan for: auto, cpu, cuda (all cards) or cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "auto", value_parser = device, conflicts_with = "vram")]
    pub device: DeviceChoice,
    /// List all models of the catalogue that fit, also slow ones and those of poor quality
    #[arg(long, conflicts_with = "model")]
    pub all: bool,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub threads: Threads,
}

fn positive(text: &str) -> Result<f64, String> {
    let value: Option<f64> = text.parse().ok();
    value.filter(|v| v.is_finite() && *v > 0.0).ok_or_else(|| "expected a number above 0".to_owned())
}
