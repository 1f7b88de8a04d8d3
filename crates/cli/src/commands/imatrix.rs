//! `quern imatrix`: measures over a text which inputs of a model's layers matter.

use std::process::ExitCode;

use anyhow::Context;
use quern_model::Config;
use quern_model::provenance::CalibrationText;
use quern_quantize::calibration::{self, NamedText};
use quern_quantize::imatrix::{CollectOptions, WriteOptions, collect, file_bytes, memory_bytes};
use quern_run::require_memory;
use quern_tensor_io::Remedy;
use quern_tensor_io::output::{OutputFile, require_space};
use serde_json::json;

use super::placement::{self, Planned};
use super::{Outcome, beside, load_placed, print, print_json, record, warn_of_memory};
use crate::progress::{Bar, Unit};
use crate::{args, format, messages, model};

/// Runs the text through the model and writes the sums of its layers' inputs.
pub fn run(args: &args::Imatrix) -> Outcome {
    model::state(&args.stated);
    let options = CollectOptions {
        context: args.context,
        chunks: args.chunks,
        from_chunk: args.from_chunk,
        process_output: args.process_output,
        ..CollectOptions::default()
    };
    let (session, threads, devices) = (options.session(), args.threads.count(), &args.devices);
    let planned_session = |_: &Config| session;
    let planned = Planned {
        path: &args.model,
        load_in: None,
        session: &planned_session,
        kv: session.kv,
        rows: options.rows(),
    };
    if args.dry_run {
        return placement::dry_run(&[planned], devices, threads, false, args.json);
    }
    let NamedText { source, name, sha256 } = calibration::open(args.text.as_deref())?;
    let chunk_size = u32::try_from(args.context).context("--context is too large")?;
    let placed = load_placed(&planned, threads, devices)?;
    let model = &placed.model;
    let inputs = record::inputs([("the text", args.text.as_deref())]).with_model(model.checkpoint());
    // A refused output must not cost the measurement; dropped, nothing of it remains.
    drop(OutputFile::create(args.output(), inputs.unless_read(args.force))?);
    if let Some(warning) = require_memory(&args.model, memory_bytes(model, options), Remedy::SmallerContext)?
    {
        messages::warning(warning);
    }
    require_space(args.output(), file_bytes(model), "the output")?;
    warn_of_memory(model, session)?;
    beside::announce(&args.model, &placed, placed.report(devices, session, options.rows()).as_ref());
    let bar = Bar::new(Unit::Chunks(args.context), "measuring the importance matrix");
    let measured = collect(model, &source.into_text(), options, &bar)?;
    drop(bar);
    let starved = measured.starved();
    for (tensor, expert, tokens) in starved.iter().take(16) {
        messages::warning(format_args!(
            "{tensor}: expert {expert} saw only {tokens} tokens; a longer or other text may help"
        ));
    }
    if starved.len() > 16 {
        messages::warning(format_args!(
            "and {} more matrices of experts saw too few tokens",
            starved.len() - 16
        ));
    }
    let text = CalibrationText {
        name: name.clone(),
        sha256,
        samples: measured.chunks as u64,
        context: args.context as u64,
    };
    let write = WriteOptions {
        provenance: record::provenance(&args.provenance, model.checkpoint(), Some(text), None),
        format: args.output_format.into(),
        datasets: vec![name.clone()],
        chunk_size,
        force: args.force,
        inputs,
    };
    let size = measured.sums.write(args.output(), &write)?;
    if args.json {
        print_json(&json!({
            "output": args.output(),
            "entries": measured.sums.len(),
            "chunks": measured.chunks,
            "context": args.context,
            "tokens": measured.tokens,
            "text": name,
            "file_size": size,
            "seconds": measured.seconds,
            "tokens_per_second": measured.tokens as f64 / measured.seconds,
            "placement": placed.report(devices, session, options.rows()),
        }))?;
    } else {
        print(&format!(
            "{}: {} entries from {} chunks of {} tokens, {}, in {:.1} s\n",
            args.output().display(),
            measured.sums.len(),
            measured.chunks,
            args.context,
            format::bytes(size),
            measured.seconds
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}
