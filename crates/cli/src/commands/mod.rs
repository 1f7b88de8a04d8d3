//! One file per subcommand: arguments in, library calls, results out.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use quern_run::{LoadOptions, Model};
use quern_tensor_io::Checkpoint;
use serde::Serialize;

pub mod bench;
pub mod demo;
pub mod inspect;
pub mod perplexity;
pub mod quantize;
pub mod run;

/// What a command returns to `main`.
pub type Outcome = anyhow::Result<ExitCode>;

/// Opens the model and prepares it for running.
fn load(path: &Path, threads: usize) -> anyhow::Result<Model> {
    let checkpoint = Arc::new(Checkpoint::open(path)?);
    Ok(Model::load(checkpoint, LoadOptions { threads, ..LoadOptions::default() })?)
}

/// Reads a text file whole; it must be UTF-8.
fn read_text(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("{}: cannot read the text", path.display()))
}

/// Prints a report as JSON.
fn print_json(report: &impl Serialize) -> anyhow::Result<()> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, report).map_err(std::io::Error::from)?;
    writeln!(out)?;
    Ok(())
}
