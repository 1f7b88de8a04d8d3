//! `quern inspect`: what a model file holds, and whether it is valid.

mod histogram;
mod report;

use std::path::Path;
use std::process::ExitCode;

use anyhow::bail;
use quern_hub::Remote;
use quern_inspect::{CheckReport, Finding, MetadataEntry, Summary, words};
use quern_model::architectures::ALL;
use quern_model::{Architecture, identify};
use quern_tensor_io::{Checkpoint, pipeline};
use serde::Serialize;
use serde_json::json;

use super::quantize::grids;
use super::{Outcome, print, print_json};
use crate::format::escape;
use crate::progress::{Bar, Unit};
use crate::{args, format, model};

/// What is printed as JSON.
#[derive(Serialize)]
struct Printed<'a> {
    #[serde(flatten)]
    summary: &'a Summary,
    #[serde(skip_serializing_if = "Option::is_none")]
    remote: Option<serde_json::Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<&'a [MetadataEntry]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    check: Option<&'a CheckReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    report: Option<serde_json::Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    statistics: Option<serde_json::Value>,
}

/// Prints the summary; with `--check` fails if anything is wrong.
pub fn run(args: &args::Inspect) -> Outcome {
    model::state(&args.stated);
    let Some(model) = args.model.as_deref().filter(|_| !args.architectures) else {
        return architectures(args.json);
    };
    let found = find(model, needs_values(args))?;
    let checkpoint = match &found {
        Remote::Cached(path) => model::stated(identify::open_any(path)?)?,
        Remote::Headers(headers) => headers.open()?,
    };
    let pool = pipeline::pool(args.threads.count(), checkpoint.path())?;
    if let Some(tensor) = &args.histogram {
        return pool.install(|| histogram::run(&checkpoint, tensor, args.json));
    }
    let mut summary = quern_inspect::summarize(&checkpoint);
    match &found {
        Remote::Headers(headers) => {
            summary.notes.iter_mut().for_each(|note| *note = headers.renamed(note));
        }
        Remote::Cached(_) => {
            let grid = quern_inspect::seeming_grid(&checkpoint);
            summary.notes.extend(grid.map(|(matrices, grid)| grids::seeming(matrices, grid)));
        }
    }
    let metadata = args.metadata.then(|| quern_inspect::metadata(&checkpoint));
    let report = args.check.then(|| pool.install(|| check(&checkpoint)));
    let page = args.report.as_deref().map(|output| {
        let against = args.against.as_deref();
        report::write(
            &report::Job { model, checkpoint: &checkpoint, summary: &summary, against, args },
            output,
            &pool,
        )
    });
    let page = page.transpose()?;
    if args.json {
        let remote = match &found {
            Remote::Headers(headers) => Some(json!({
                "repository": headers.name().repository(),
                "revision": headers.name().revision(),
                "commit": headers.commit,
                "requests": headers.requests,
                "bytes": headers.bytes,
            })),
            Remote::Cached(_) => None,
        };
        let written = page.as_ref().map(|p| json!({ "output": p.output, "file_size": p.file_size }));
        let statistics = page.as_ref().map(|p| serde_json::to_value(&p.statistics)).transpose()?;
        print_json(&Printed {
            summary: &summary,
            remote,
            metadata: metadata.as_deref(),
            check: report.as_ref(),
            report: written,
            statistics,
        })?;
    } else {
        // Messages of the check are not repeated.
        let findings = || report.iter().flat_map(|report| &report.findings);
        summary.notes.retain(|note| findings().all(|finding| finding.problem != *note));
        let mut text = describe(&model.display().to_string(), &summary);
        if let Remote::Headers(headers) = &found {
            text += &format!(
                "{:<15} headers alone, of {} at {}: {} in {} requests\n",
                "from the Hub",
                headers.name().repository(),
                headers.commit,
                format::bytes(headers.bytes),
                headers.requests
            );
        }
        if let Some(metadata) = &metadata {
            let rows = metadata.iter().map(|m| vec![m.key.clone(), m.value_type.clone(), m.value.clone()]);
            text += &format!("\n{}\n", format::table(&["key", "type", "value"], &[], rows));
        }
        if args.tensors {
            text += &format!("\n{}\n", tensors(&summary));
        }
        if let Some(report) = &report {
            text += &verdict(report);
        }
        if let Some(page) = &page {
            text +=
                &format!("{:<15} {}, {}\n", "report", page.output.display(), format::bytes(page.file_size));
        }
        print(&text)?;
    }
    let sound = report.is_none_or(|r| r.findings.is_empty());
    Ok(if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Checks the model; for anything else, reports what it is.
fn check(checkpoint: &Checkpoint) -> CheckReport {
    match identify::of_checkpoint(checkpoint) {
        None => quern_inspect::check(checkpoint, &Bar::new(Unit::Bytes, "reading all values")),
        Some(found) => CheckReport {
            tensors_checked: 0,
            values_checked: 0,
            notes: Vec::new(),
            findings: vec![Finding { tensor: None, problem: found.error().to_string() }],
        },
    }
}

/// The families of models that quern knows.
fn architectures(json: bool) -> Outcome {
    if json {
        let family = |a: &&Architecture| {
            json!({
                "family": a.family(),
                "classes": a.hf_architectures,
                "model_types": a.hf_model_types,
                "gguf": a.no_gguf.is_none().then_some(a.name),
                "experts": a.has_experts,
            })
        };
        print_json(&ALL.iter().map(family).collect::<Vec<_>>())?;
    } else {
        let row = |a: &&Architecture| {
            let gguf = if a.no_gguf.is_none() { a.name } else { "-" };
            vec![
                a.family().to_owned(),
                a.hf_architectures.join(", "),
                a.hf_model_types.join(", "),
                gguf.to_owned(),
            ]
        };
        let header = ["family", "classes (architectures)", "model_type", "GGUF name"];
        print(&format!("{}\n", format::table(&header, &[], ALL.iter().map(row))))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The option that reads every value, if there is one.
fn needs_values(args: &args::Inspect) -> Option<&'static str> {
    let options = [
        ("--check", args.check),
        ("--report", args.report.is_some()),
        ("--histogram", args.histogram.is_some()),
    ];
    options.into_iter().find_map(|(option, given)| given.then_some(option))
}

/// Finds the model of the argument; if it is only on the Hub, fetches just the headers, which are not enough for an
/// option that reads values.
fn find(model: &Path, needs_values: Option<&str>) -> anyhow::Result<Remote> {
    match (model::find(model)?, needs_values) {
        (Remote::Headers(headers), Some(option)) => {
            let name = headers.name();
            bail!(
                "{name}: {option} reads every value, and the model is not in the cache; pull it first: quern pull {name}"
            )
        }
        (found, _) => Ok(found),
    }
}

/// The summary as aligned lines of label and text.
pub fn describe(path: &str, summary: &Summary) -> String {
    let rows = words::summary(path, summary);
    rows.into_iter().map(|(label, text)| format!("{label:<15} {}\n", escape::line(&text))).collect()
}

fn tensors(s: &Summary) -> comfy_table::Table {
    let rows = s.tensors.iter().map(|t| {
        vec![t.name.clone(), t.element_type.to_owned(), format::shape(&t.shape), format::bytes(t.bytes)]
    });
    format::table(&["tensor", "type", "shape", "size"], &[2, 3], rows)
}

fn verdict(report: &CheckReport) -> String {
    let mut text = String::from("\n");
    for finding in &report.findings {
        let tensor = finding.tensor.as_ref().map(|t| format!("{t}: ")).unwrap_or_default();
        let problem = format!("{tensor}{}", finding.problem);
        text += &format!("problem         {}\n", escape::sentence(&problem));
    }
    let verdict = match report.findings.len() {
        0 => "sound".to_owned(),
        1 => "1 problem".to_owned(),
        n => format!("{n} problems"),
    };
    text + &format!(
        "check           {verdict}; {} values in {} tensors read\n",
        report.values_checked, report.tensors_checked
    )
}
