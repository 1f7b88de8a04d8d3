//! `quern inspect`: what a model file holds, and whether it is valid.

mod attention;

use std::path::Path;
use std::process::ExitCode;

use anyhow::bail;
use quern_hub::Remote;
use quern_inspect::{CheckReport, Finding, Summary};
use quern_model::architectures::ALL;
use quern_model::{Architecture, identify};
use quern_tensor_io::Checkpoint;
use serde_json::json;

use super::{Outcome, print, print_json};
use crate::progress::{Bar, Unit};
use crate::{args, format, model};

/// Prints the summary; with `--check` fails if anything is wrong.
pub fn run(args: &args::Inspect) -> Outcome {
    let Some(model) = args.model.as_deref().filter(|_| !args.architectures) else {
        return architectures(args.json);
    };
    let found = find(model, args.check)?;
    let checkpoint = match &found {
        Remote::Cached(path) => identify::open_any(path)?,
        Remote::Headers(headers) => headers.open()?,
    };
    let mut summary = quern_inspect::summarize(&checkpoint);
    if let Remote::Headers(headers) = &found {
        summary.notes.iter_mut().for_each(|note| *note = headers.renamed(note));
    }
    let metadata = args.metadata.then(|| quern_inspect::metadata(&checkpoint));
    let report = args.check.then(|| check(&checkpoint));
    if args.json {
        let mut value = serde_json::to_value(&summary)?;
        if let Remote::Headers(headers) = &found {
            value["remote"] = json!({
                "repository": headers.name().repository(),
                "revision": headers.name().revision(),
                "commit": headers.commit,
                "requests": headers.requests,
                "bytes": headers.bytes,
            });
        }
        if let Some(metadata) = &metadata {
            value["metadata"] = serde_json::to_value(metadata)?;
        }
        if let Some(report) = &report {
            value["check"] = serde_json::to_value(report)?;
        }
        print_json(&value)?;
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

/// Finds the model of the argument; if it is only on the Hub, fetches just the headers.
fn find(model: &Path, check: bool) -> anyhow::Result<Remote> {
    match model::find(model)? {
        Remote::Headers(headers) if check => {
            let name = headers.name();
            bail!(
                "{name}: --check reads every value, and the model is not in the cache; pull it first: quern pull {name}"
            )
        }
        found => Ok(found),
    }
}

/// The summary as aligned lines of label and text.
pub fn describe(path: &str, s: &Summary) -> String {
    let mut rows: Vec<(&str, String)> = vec![("file", path.to_owned())];
    let files = if s.files > 1 { format!(" in {} files", s.files) } else { String::new() };
    rows.push(("container", format!("{}, {}{files}", s.container, format::bytes(s.file_size))));
    if let Some(name) = &s.name {
        rows.push(("name", name.clone()));
    }
    rows.push(("architecture", s.sizes.architecture.clone().unwrap_or_else(|| "unknown".into())));
    let scheme = s.quantization.as_ref().map_or(&s.scheme, |q| &q.description);
    rows.push(("scheme", format!("{scheme}, {:.2} bits per weight", s.bits_per_weight)));
    rows.push(("parameters", format!("{} ({})", format::count(s.parameters), s.parameters)));
    if let (Some(layers), Some(hidden), Some(ffn)) = (s.sizes.layers, s.sizes.hidden_size, s.sizes.ffn_size) {
        rows.push(("shape", format!("{layers} layers, hidden size {hidden}, feed-forward {ffn}")));
    }
    if let (Some(heads), Some(kv), Some(dim)) = (s.sizes.heads, s.sizes.kv_heads, s.sizes.head_dim) {
        rows.push(("attention", format!("{heads} heads of {dim}, {kv} for keys and values")));
    }
    if let Some(context) = s.sizes.context_length {
        let rope = s.sizes.rope_theta.map(|theta| format!(", rope base {theta}")).unwrap_or_default();
        rows.push(("context", format!("{context} positions{rope}")));
    }
    rows.extend(s.attention.iter().flat_map(attention::rows));
    if let Some(vocab) = s.sizes.vocab_size {
        let head = if s.sizes.tied_embeddings == Some(true) { ", head tied to the embedding" } else { "" };
        rows.push(("vocabulary", format!("{vocab}{head}")));
    }
    if let Some(t) = &s.tokenizer {
        let bos = if t.add_bos { ", prompts begin with bos" } else { "" };
        rows.push(("tokenizer", format!("{}, {} tokens{bos}", t.kind, t.vocab_size)));
        let special = t.special.iter().map(|(name, (id, piece))| format!("{name} {id} {piece:?}"));
        rows.push(("special tokens", special.collect::<Vec<_>>().join(", ")));
    }
    let template = s.chat_template.as_ref().map_or_else(
        || "none".into(),
        |t| format!("{} characters, begins {:?}", t.chars().count(), t.chars().take(60).collect::<String>()),
    );
    rows.push(("chat template", template));
    let types =
        s.types.iter().map(|t| format!("{} × {} ({})", t.tensors, t.element_type, format::bytes(t.bytes)));
    let types = types.collect::<Vec<_>>().join(", ");
    rows.push(("tensors", if types.is_empty() { "none: a vocabulary alone".into() } else { types }));
    rows.extend(s.notes.iter().map(|note| ("note", note.clone())));
    rows.into_iter().map(|(label, text)| format!("{label:<15} {text}\n")).collect()
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
        text += &format!("problem         {tensor}{}\n", finding.problem);
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
