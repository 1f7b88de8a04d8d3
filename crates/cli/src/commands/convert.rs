//! `quern convert`: plans, converts, and verifies the result against the source.

use std::fs::File;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::bail;
use clap::{CommandFactory, error::ErrorKind};
use quern_convert::{ConvertPlan, ConvertRow, Edit, Fidelity, Options, Target, Verification};
use quern_tensor_io::gguf::Split;
use quern_tensor_io::output::{Inputs, is_at};
use quern_tensor_io::scheme::{CodeFormat, GptqFormat};
use serde_json::{Value, json};

use super::record::{self, After, Done};
use super::{Outcome, print, print_json};
use crate::progress::{Bar, Unit};
use crate::{args, format, messages, model};

/// Mismatches that are listed.
const LISTED: usize = 20;

/// Plans, and unless it is a dry run, converts and reads the output again.
pub fn run(args: &args::Convert) -> Outcome {
    model::state(&args.stated);
    refuse_strangers(args);
    let checkpoint = model::open(&args.model)?;
    let gguf = args.to == Target::Gguf;
    let planned = Options {
        provenance: record::provenance(&args.provenance, &checkpoint, None, None),
        ..options(args)
    };
    let plan = quern_convert::plan(&checkpoint, planned)?;
    for note in plan.notes() {
        messages::note(note);
    }
    let Some(output) = args.output.as_deref().filter(|_| !args.dry_run) else {
        return show(&plan, args);
    };
    let file = plan.files(output)?.swap_remove(0).0;
    let after = After::new(
        &args.card,
        None,
        Inputs::of(&checkpoint),
        Some(&file),
        gguf,
        args.force,
        args.threads.count(),
    )?;
    let started = Instant::now();
    let bar = Bar::new(Unit::Bytes, format!("converting to {}", args.to.name()));
    let report = quern_convert::run(&plan, output, &bar)?;
    drop(bar);
    let seconds = started.elapsed().as_secs_f64();
    let started = Instant::now();
    let written = File::open(&file);
    let verification = match args.no_verify {
        true => None,
        false => Some(quern_convert::verify(&plan, output, &Bar::new(Unit::Bytes, "verifying"))),
    };
    if !verification.as_ref().is_none_or(|found| found.as_ref().is_ok_and(Verification::passed))
        && written.is_ok_and(|written| !is_at(&written, &file))
    {
        bail!(
            "{}: another run has replaced this output meanwhile, so it cannot be verified",
            output.display()
        );
    }
    let verification = verification.transpose()?;
    let verify_seconds = started.elapsed().as_secs_f64();
    let vllm = match args.to {
        Target::Safetensors => true,
        Target::Packed(format) => format != CodeFormat::Gptq(GptqFormat::V2),
        Target::Gguf => false,
    };
    let sound = verification.as_ref().is_none_or(Verification::passed);
    let done = if sound { after.finish(&checkpoint, &file, vllm)? } else { Done::default() };
    if args.json {
        let mut result = json!({
            "output": output,
            "to": args.to.name(),
            "file_size": report.file_size,
            "tensors": report.tensors,
            "lossy": plan.lossy(),
            "seconds": seconds,
        });
        if let Some(found) = &verification {
            result["verified"] = found.passed().into();
            result["verification"] = as_json(found);
            result["verify_seconds"] = verify_seconds.into();
        }
        done.add_to(&mut result)?;
        print_json(&result)?;
    } else {
        let mut text = format!(
            "{}: {}, {} tensors, {}, in {seconds:.1} s\n",
            output.display(),
            args.to.name(),
            report.tensors,
            format::bytes(report.file_size),
        );
        for note in verification.iter().flat_map(|v| &v.notes) {
            messages::note(note);
        }
        if let Some(found) = verification.as_ref().filter(|v| v.passed()) {
            text += &format!("verified: {}, in {verify_seconds:.1} s\n", describe(found));
        }
        print(&(text + &done.text()))?;
    }
    match verification.filter(|v| !v.passed()) {
        None => Ok(ExitCode::SUCCESS),
        Some(found) => {
            complain(output, &found);
            Ok(ExitCode::FAILURE)
        }
    }
}

/// Options that the target does not know are wrong usage.
fn refuse_strangers(args: &args::Convert) {
    let gguf = args.to == Target::Gguf;
    let stranger = if !gguf && args.gguf.any_given() {
        "--split-max-size, --split-max-tensors, --set and --remove belong to --to gguf"
    } else if gguf && args.shard_size.is_some() {
        "--shard-size belongs to safetensors; --split-max-size splits a GGUF file"
    } else {
        return;
    };
    args::Cli::command().error(ErrorKind::ArgumentConflict, stranger).exit();
}

fn options(args: &args::Convert) -> Options {
    let split = Split {
        max_bytes: args.gguf.split_max_size,
        max_tensors: args.gguf.split_max_tensors.map(|n| n as usize),
    };
    let defaults = Options::new(args.to);
    let remove = args.gguf.remove.iter().map(|key| Edit::Remove(key.clone()));
    Options {
        dtype: args.dtype,
        split: Some(split).filter(|s| *s != Split::default()),
        shard_bytes: if args.merge { u64::MAX } else { args.shard_size.unwrap_or(defaults.shard_bytes) },
        edits: args.gguf.set.iter().cloned().chain(remove).collect(),
        force: args.force,
        threads: args.threads.count(),
        ..defaults
    }
}

/// Whether numbers change, and how, in words.
fn fidelity(row: &ConvertRow) -> String {
    let fidelity = match row.fidelity {
        Fidelity::Exact => "exact",
        Fidelity::Lossy => "lossy",
    };
    row.changed.map_or_else(|| fidelity.to_owned(), |changed| format!("{fidelity}, {changed}"))
}

/// The dry run: one row a tensor, the files, and the total.
fn show(plan: &ConvertPlan<'_>, args: &args::Convert) -> Outcome {
    // Without a name for the output its parts are called after the input.
    let stem = args.model.file_stem().map_or("model".as_ref(), Path::new);
    let output = args.output.as_deref().unwrap_or(stem);
    let files = plan.files(output)?;
    let total: u64 = files.iter().map(|(_, bytes)| bytes).sum();
    record::warn_of_space(args.output.as_deref(), total);
    if args.json {
        let tensor = |r: &ConvertRow| {
            json!({
                "name": r.name, "shape": r.shape, "from": r.from, "to": r.to.name(),
                "exact": r.fidelity == Fidelity::Exact, "changed": r.changed, "sources": r.sources,
                "bytes": r.bytes,
            })
        };
        let file = |(path, bytes): &(_, u64)| json!({ "path": path, "bytes": bytes });
        print_json(&json!({
            "to": args.to.name(),
            "file_size": total,
            "lossy": plan.lossy(),
            "files": files.iter().map(file).collect::<Vec<_>>(),
            "tensors": plan.rows().iter().map(tensor).collect::<Vec<_>>(),
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let rows = plan.rows().iter().map(|r| {
        let (shape, to) = (format::shape(&r.shape), r.to.name().to_owned());
        vec![r.name.clone(), shape, r.from.clone(), to, fidelity(r), format::bytes(r.bytes)]
    });
    let header = ["tensor", "shape", "from", "to", "numbers", "size"];
    let mut text = format!("{}\n\n", format::table(&header, &[1, 5], rows));
    if files.len() > 1 {
        for (path, bytes) in &files {
            text += &format!("{}: {}\n", path.display(), format::bytes(*bytes));
        }
    }
    let lossy = match plan.lossy() {
        0 => "all exact".to_owned(),
        n => format!("{n} of {} tensors lossy", plan.rows().len()),
    };
    print(&format!("{text}total: {}, {lossy}\n", format::bytes(total)))?;
    Ok(ExitCode::SUCCESS)
}

/// What a comparison without mismatches found, in words.
fn describe(found: &Verification) -> String {
    match &found.largest {
        None => format!("all {} tensors have the source's values exactly", found.tensors),
        Some((error, tensor)) => format!(
            "{} of {} tensors have the source's values exactly, the others rounded to the nearest (at most \
             {error:.2e} off, in {tensor})",
            found.exact, found.tensors
        ),
    }
}

fn as_json(found: &Verification) -> Value {
    let mismatches = found.mismatches.iter();
    json!({
        "tensors": found.tensors,
        "exact": found.exact,
        "largest_error": found.largest.as_ref().map_or(0.0, |(error, _)| *error),
        "mismatches": mismatches.map(|m| json!({ "tensor": m.tensor, "what": m.what })).collect::<Vec<_>>(),
    })
}

/// Reports what is wrong with the output, which is kept for inspection.
fn complain(output: &Path, found: &Verification) {
    for mismatch in found.mismatches.iter().take(LISTED) {
        let tensor = mismatch.tensor.as_ref().map(|t| format!("tensor {t:?}: ")).unwrap_or_default();
        messages::line(format_args!("mismatch: {tensor}{}", mismatch.what));
    }
    if found.mismatches.len() > LISTED {
        messages::line(format_args!("mismatch: {} more", found.mismatches.len() - LISTED));
    }
    messages::line(format_args!(
        "error: {}: verification failed: {} tensors or metadata keys differ from the source; do not use the output, \
         and unless another run wrote it meanwhile, please report this",
        output.display(),
        found.mismatches.len()
    ));
}
