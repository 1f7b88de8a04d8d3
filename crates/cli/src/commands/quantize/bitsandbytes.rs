//! To NF4, FP4 or int8.

use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use quern_quantize::bitsandbytes::{self, BitsandbytesPlan, Kind, Options};
use quern_tensor_io::Checkpoint;
use quern_tensor_io::output::Inputs;
use serde_json::json;

use super::super::record::{self, After};
use super::super::{Outcome, print, print_json};
use super::source::with_plain;
use crate::progress::{Bar, Unit};
use crate::{args, format, messages, model};

/// Plans, and unless it is a dry run, does it.
pub fn run(args: &args::Quantize, kind: Kind) -> Outcome {
    let inputs = record::inputs([("the text to evaluate with", args.evaluate.as_deref())]);
    let after = After::of(args, inputs.clone(), false)?;
    with_plain(args, inputs, |source, original, inputs| quantize(args, kind, source, original, inputs, after))
}

fn quantize(
    args: &args::Quantize,
    kind: Kind,
    source: &Path,
    original: &Checkpoint,
    inputs: Inputs,
    after: After,
) -> Outcome {
    let given = &args.bitsandbytes;
    let defaults = Options::new(kind);
    let options = Options {
        block_size: given.block_size.map_or(defaults.block_size, usize::from),
        double_quant: !given.no_double_quant,
        threads: args.threads.count(),
        provenance: record::provenance(&args.provenance, original, None, None),
        force: args.force,
        inputs,
        skip: given.skip_module.clone(),
        ..defaults
    };
    let checkpoint = model::stated(Checkpoint::open(source)?)?;
    let plan = bitsandbytes::plan(&checkpoint, &options)?;
    for note in &plan.notes {
        messages::note(note);
    }
    let bits_per_weight = plan.bits_per_weight();
    let Some(output) = args.output.as_deref().filter(|_| !args.dry_run) else {
        record::warn_of_space(args.output.as_deref(), plan.bytes());
        return show(&plan, kind, bits_per_weight, args.json);
    };
    let started = Instant::now();
    let bar = Bar::new(Unit::Bytes, format!("quantizing to {}", kind.name()));
    let report = bitsandbytes::quantize(&checkpoint, output, options, &bar)?;
    drop(bar);
    let seconds = started.elapsed().as_secs_f64();
    let done = after.finish(original, output, kind != Kind::Int8)?;
    if args.json {
        let mut result = json!({
            "output": output,
            "scheme": kind.name(),
            "file_size": report.file_size,
            "bits_per_weight": bits_per_weight,
            "tensors_quantized": report.quantized,
            "seconds": seconds,
        });
        done.add_to(&mut result)?;
        print_json(&result)?;
    } else {
        print(&format!(
            "{}: {}, {} of {} tensors quantized, {} to {}, {bits_per_weight:.2} bits per weight, in {seconds:.1} s\n",
            output.display(),
            kind.name(),
            report.quantized,
            report.tensors,
            format::bytes(report.source_bytes),
            format::bytes(report.file_size),
        ))?;
        print(&done.text())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The dry run: one row a tensor, and the total.
fn show(plan: &BitsandbytesPlan, kind: Kind, bits_per_weight: f64, json: bool) -> Outcome {
    let to = |row: &bitsandbytes::BitsandbytesRow| row.to.map_or_else(|| row.from.name(), Kind::name);
    if json {
        let tensors = plan.rows.iter().map(
            |r| json!({"name": r.name, "shape": r.shape, "from": r.from.name(), "to": to(r), "bytes": r.bytes}),
        );
        print_json(&json!({
            "scheme": kind.name(),
            "file_size": plan.bytes(),
            "bits_per_weight": bits_per_weight,
            "tensors": tensors.collect::<Vec<_>>(),
        }))?;
    } else {
        let rows = plan.rows.iter().map(|r| {
            let shape = format::shape(&r.shape);
            vec![r.name.clone(), shape, r.from.name().to_owned(), to(r).to_owned(), format::bytes(r.bytes)]
        });
        print(&format!(
            "{}\n\ntotal: {} to {}, {bits_per_weight:.2} bits per weight\n",
            format::table(&["tensor", "shape", "from", "to", "size"], &[1, 4], rows),
            format::bytes(plan.source_bytes()),
            format::bytes(plan.bytes()),
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}
