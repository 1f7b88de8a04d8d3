//! To a GGUF file, each linear layer rounded for the inputs that it gets on a calibration text.

use std::process::ExitCode;

use quern_model::View;
use quern_quantize::calibrated::gguf::{self, GgufPlan, Options};
use serde_json::json;

use super::super::record::{self, After};
use super::super::{Outcome, load, print, print_json};
use super::calibration::{announce, calibration, recorded, warn, where_and_memory};
use super::gguf::{add_grid, job_options, packed, show};
use super::grids;
use super::types::Types;
use crate::progress::{Bar, Unit};
use crate::{args, format, messages, signals};

/// Plans, and unless it is a dry run, does it.
pub fn run(args: &args::Quantize, types: &Types) -> Outcome {
    let inputs = record::inputs([
        ("the calibration text", args.calibration.calibration.as_deref()),
        ("the text to evaluate with", args.evaluate.as_deref()),
        ("the recipe", args.auto.recipe.as_deref()),
    ]);
    let model = load(&args.model, args.threads.count())?;
    let checkpoint = model.checkpoint();
    let inputs = inputs.with_model(checkpoint);
    let after = After::of(args, inputs.clone(), true)?;
    let view = View::gguf(checkpoint, packed(args))?;
    for note in view.notes() {
        messages::note(note);
    }
    let (calibration, provenance) = recorded(args, checkpoint, calibration(args, &model, inputs)?);
    let output = args.output.as_deref().filter(|_| !args.dry_run);
    if let Some(output) = output {
        gguf::check_outputs(output, &model, &calibration)?;
    }
    let defaults = Options::new(job_options(args, types), calibration);
    let options = Options {
        damp: args.calibration.damp.unwrap_or(defaults.damp),
        quantize: quern_quantize::job::Options {
            grids: grids::find(&view, types.file_type, args.threads.count())?,
            provenance: types.recorded(provenance),
            ..defaults.quantize
        },
        ..defaults
    };
    let plan = gguf::plan(&model, &view, options)?;
    for warning in plan.warnings() {
        messages::warning(warning);
    }
    grids::announce(&plan.tensors().grids(), types.file_type);
    let Some(output) = output else {
        warn(args, plan.memory_bytes(), plan.disk_bytes());
        let place = where_and_memory(plan.place(), plan.memory_bytes());
        return show(plan.tensors(), args, types, &format!("{}, computed {place}", words(&plan)));
    };
    announce(args, plan.calibration(), plan.place(), plan.memory_bytes())?;
    let bar = Bar::new(Unit::Modules, format!("quantizing to {}", types.name));
    signals::on_stop_say(Some(format!(
        "finished layers are kept in {}; the same command goes on with them",
        gguf::unfinished_folder(output).display()
    )));
    let report = gguf::run(&model, &plan, output, &bar)?;
    signals::on_stop_say(None);
    drop(bar);
    for warning in &report.warnings {
        messages::warning(warning);
    }
    let done = after.finish(checkpoint, output, false)?;
    if args.json {
        let mut result = json!({
            "output": output,
            "scheme": types.name,
            "file_size": report.bytes,
            "bits_per_weight": report.bits_per_weight,
            "seconds": report.seconds,
            "report": report,
        });
        types.add_to(&mut result);
        add_grid(&mut result, plan.tensors());
        done.add_to(&mut result)?;
        print_json(&result)?;
    } else {
        let resumed = match report.resumed_blocks {
            0 => String::new(),
            blocks => format!("{blocks} blocks were finished by an earlier run\n"),
        };
        print(&format!(
            "{resumed}{}: {}, {} to {}, {:.2} bits per weight, {}, in {:.1} s\n",
            output.display(),
            types.name,
            format::bytes(plan.tensors().stored_bytes()),
            format::bytes(report.bytes),
            report.bits_per_weight,
            words(&plan),
            report.seconds,
        ))?;
        print(&done.text())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What is calibrated, in words.
fn words(plan: &GgufPlan<'_>) -> String {
    let embedding = if plan.calibrates_embedding() { ", and the token embedding" } else { "" };
    let (layers, with_feedback) = (plan.layers(), plan.with_feedback());
    format!("{layers} layers calibrated, {with_feedback} of them with error feedback{embedding}")
}
