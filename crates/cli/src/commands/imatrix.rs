//! `quern imatrix`: measures over a text which inputs of a model's layers matter.

use std::process::ExitCode;

use anyhow::Context;
use quern_model::provenance::CalibrationText;
use quern_quantize::calibration::{self, NamedText};
use quern_quantize::imatrix::{CollectOptions, WriteOptions, collect, file_bytes, memory_bytes};
use quern_run::require_memory;
use quern_tensor_io::Remedy;
use quern_tensor_io::output::{OutputFile, require_space};
use serde_json::json;

use super::{Outcome, load, placement, print, print_json, record};
use crate::progress::{Bar, Unit};
use crate::{args, format, messages};

/// Runs the text through the model and writes the sums of its layers' inputs.
pub fn run(args: &args::Imatrix) -> Outcome {
    placement::refuse_gpus("imatrix", args.device.device)?;
    let NamedText { source, name, sha256 } = calibration::open(args.text.as_deref())?;
    let chunk_size = u32::try_from(args.context).context("--context is too large")?;
    let model = load(&args.model, args.threads.count())?;
    let inputs = record::inputs([("the text", args.text.as_deref())]).with_model(model.checkpoint());
    // A refused output must not cost the measurement; dropped, nothing of it remains.
    drop(OutputFile::create(&args.output, inputs.unless_read(args.force))?);
    let options = CollectOptions {
        context: args.context,
        chunks: args.chunks,
        from_chunk: args.from_chunk,
        process_output: args.process_output,
    };
    if let Some(warning) = require_memory(&args.model, memory_bytes(&model, options), Remedy::SmallerContext)?
    {
        messages::warning(warning);
    }
    require_space(&args.output, file_bytes(&model), "the output")?;
    let bar = Bar::new(Unit::Chunks(args.context), "measuring the importance matrix");
    let measured = collect(&model, &source.into_text(), options, &bar)?;
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
    let size = measured.sums.write(&args.output, &write)?;
    if args.json {
        print_json(&json!({
            "output": args.output,
            "entries": measured.sums.len(),
            "chunks": measured.chunks,
            "context": args.context,
            "tokens": measured.tokens,
            "text": name,
            "file_size": size,
            "seconds": measured.seconds,
            "tokens_per_second": measured.tokens as f64 / measured.seconds,
        }))?;
    } else {
        print(&format!(
            "{}: {} entries from {} chunks of {} tokens, {}, in {:.1} s\n",
            args.output.display(),
            measured.sums.len(),
            measured.chunks,
            args.context,
            format::bytes(size),
            measured.seconds
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}
