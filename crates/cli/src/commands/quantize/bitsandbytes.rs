//! To NF4, FP4 or int8.

use std::path::Path;
use std::time::Instant;

use quern_quantize::bitsandbytes::{self, BitsandbytesPlan, Kind, Options};
use quern_tensor_io::Checkpoint;
use quern_tensor_io::output::Inputs;

use super::super::Outcome;
use super::super::record::{self, After};
use super::source::with_plain;
use super::tensors::{Planned, Row, Written};
use crate::progress::{Bar, Unit};
use crate::{args, messages, model};

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
        return planned(&plan, kind).show(args.json);
    };
    let started = Instant::now();
    let bar = Bar::new(Unit::Bytes, format!("quantizing to {}", kind.name()));
    let report = bitsandbytes::quantize(&checkpoint, output, options, &bar)?;
    drop(bar);
    let seconds = started.elapsed().as_secs_f64();
    let done = after.finish(original, output, kind != Kind::Int8)?;
    let written = Written {
        output,
        scheme: kind.name(),
        bits_per_weight,
        quantized: (report.quantized, report.tensors),
        source_bytes: report.source_bytes,
        file_size: report.file_size,
        seconds,
    };
    written.show(&done, args.json)
}

/// What the dry run shows.
fn planned(plan: &BitsandbytesPlan, kind: Kind) -> Planned<'_> {
    let rows = plan.rows.iter().map(|r| Row {
        name: &r.name,
        shape: &r.shape,
        from: r.from.name(),
        to: r.to.map_or_else(|| r.from.name(), Kind::name),
        bytes: r.bytes,
    });
    Planned {
        scheme: kind.name(),
        bits_per_weight: plan.bits_per_weight(),
        source_bytes: plan.source_bytes(),
        bytes: plan.bytes(),
        rows: rows.collect(),
    }
}
