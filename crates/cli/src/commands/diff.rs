//! `quern diff`: what distinguishes two models.

mod text;

use std::path::Path;
use std::process::ExitCode;

use clap::CommandFactory;
use clap::error::ErrorKind;
use quern_inspect::diff::{self, Options};
use serde::Serialize;

use super::perplexity::{Measurement, divergence};
use super::{Outcome, print, print_json, read_text};
use crate::progress::{Bar, Unit};
use crate::{args, is_broken_pipe, messages, model};

/// Compares, and prints what differs. Exit code 1 if anything does.
pub fn run(args: &args::Diff) -> Outcome {
    let (a, b) = (&args.a, &args.b);
    let measurement = Measurement {
        model: b,
        load_in: None,
        reference: Some(a),
        context: args.text.context,
        chunks: args.text.chunks,
        placement: &args.text.placement,
        threads: args.threads.count(),
    };
    if args.text.placement.dry_run {
        if args.text.file.is_none() {
            let what = "--dry-run shows where the models would be run, which --text asks for";
            args::Cli::command().error(ErrorKind::MissingRequiredArgument, what).exit();
        }
        return measurement.dry_run(args.json);
    }
    // What cannot be read is reported before long work.
    let text = args.text.file.as_deref().map(read_text).transpose()?;
    let options =
        Options { threads: args.threads.count(), only: args.only.clone(), tolerance: args.tolerance };
    let (of_a, of_b) = (model::open(a)?, model::open(b)?);
    let found = diff::diff(&of_a, &of_b, &options, &Bar::new(Unit::Bytes, "comparing"))?;
    drop((of_a, of_b));
    let verdict = if found.same { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    if args.json {
        let text = match text {
            Some(text) => Some(serde_json::to_value(measurement.measure(&text)?.0)?),
            None => None,
        };
        return finished(print_json(&Printed { a, b, found: &found, text }), verdict);
    }
    for note in found.tensors.notes.iter().chain(&found.tokenizer.notes) {
        messages::note(note);
    }
    if let Err(error) = print(&text::describe(&found, args.tensors)) {
        return finished(Err(error), verdict);
    }
    let Some(text) = text else { return Ok(verdict) };
    let report = measurement.measure(&text)?.0;
    let mut text = format!(
        "\npredictions over {} tokens ({} chunks of {}), A as the reference\nperplexity of B {:.4} ± {:.4}\n",
        report.tokens, report.chunks, report.context, report.perplexity, report.stderr
    );
    if let Some(against) = &report.against {
        text += &divergence(against);
    }
    finished(print(&text), verdict)
}

/// What is printed as JSON.
#[derive(Serialize)]
struct Printed<'a> {
    a: &'a Path,
    b: &'a Path,
    #[serde(flatten)]
    found: &'a diff::Diff,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<serde_json::Value>,
}

/// The verdict, also where the reader of the output has seen enough.
fn finished(printed: anyhow::Result<()>, verdict: ExitCode) -> Outcome {
    match printed {
        Err(error) if !is_broken_pipe(&error) => Err(error),
        Ok(()) | Err(_) => Ok(verdict),
    }
}
