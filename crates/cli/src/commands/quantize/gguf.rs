//! To a GGUF file.

use std::process::ExitCode;
use std::time::Instant;

use quern_model::provenance::HashedFile;
use quern_model::{Packed, View};
use quern_quantize::imatrix::Imatrix;
use quern_quantize::job::{self, Options, QuantizePlan, QuantizeRow};
use serde_json::{Value, json};

use super::super::record::{self, After};
use super::super::{Outcome, print, print_json};
use super::grids;
use super::types::Types;
use crate::progress::{Bar, Unit};
use crate::{args, format, messages, model};

/// Plans, and unless it is a dry run, does it.
pub fn run(args: &args::Quantize, types: &Types) -> Outcome {
    let checkpoint = model::open(&args.model)?;
    let view = View::gguf(&checkpoint, packed(args))?;
    for note in view.notes() {
        messages::note(note);
    }
    let inputs = record::inputs([
        ("the text to evaluate with", args.evaluate.as_deref()),
        ("the recipe", args.auto.recipe.as_deref()),
        ("the calibration text", args.calibration.calibration.as_deref()),
    ]);
    let inputs = inputs.with_model(&checkpoint);
    let after = After::of(args, inputs.clone(), true)?;
    let imatrix = args.gguf.imatrix.as_deref().map(Imatrix::open).transpose()?;
    let hashed = imatrix.as_ref().map(|imatrix| hashed(args, imatrix)).transpose()?.flatten();
    let text = types.measured.as_ref().map(|measured| measured.text.clone());
    let provenance = record::provenance(&args.provenance, &checkpoint, text, hashed);
    let measured = types.measured.as_ref().and_then(|measured| measured.imatrix.clone());
    let options = Options {
        grids: grids::find(&view, types.file_type, args.threads.count())?,
        imatrix: imatrix.or(measured),
        provenance: types.recorded(provenance),
        force: args.force,
        inputs,
        ..job_options(args, types)
    };
    let plan = job::plan(&view, options)?;
    for warning in plan.warnings() {
        messages::warning(warning);
    }
    grids::announce(&plan.grids(), types.file_type);
    let Some(output) = args.output.as_deref().filter(|_| !args.dry_run) else {
        record::warn_of_space(args.output.as_deref(), plan.file_size());
        return show(&plan, args, types, "");
    };
    let started = Instant::now();
    let bar = Bar::new(Unit::Bytes, format!("quantizing to {}", types.name));
    job::run(&plan, output, &bar)?;
    drop(bar);
    let seconds = started.elapsed().as_secs_f64();
    let done = after.finish(&checkpoint, output, false)?;
    if args.json {
        let mut result = json!({
            "output": output,
            "scheme": types.name,
            "file_size": plan.file_size(),
            "bits_per_weight": plan.bits_per_weight(),
            "seconds": seconds,
        });
        types.add_to(&mut result);
        add_grid(&mut result, &plan);
        done.add_to(&mut result)?;
        print_json(&result)?;
    } else {
        print(&format!(
            "{}: {}, {} to {}, {:.2} bits per weight{}, in {seconds:.1} s\n",
            output.display(),
            types.name,
            format::bytes(plan.stored_bytes()),
            format::bytes(plan.file_size()),
            plan.bits_per_weight(),
            types.prediction(),
        ))?;
        print(&done.text())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What is recorded of an importance matrix.
pub fn hashed(args: &args::Quantize, imatrix: &Imatrix) -> anyhow::Result<Option<HashedFile>> {
    if args.provenance.no_provenance {
        return Ok(None);
    }
    let name = imatrix.file().file_name().map(|n| n.to_string_lossy().into_owned());
    Ok(Some(HashedFile { name: name.unwrap_or_default(), sha256: imatrix.sha256()? }))
}

/// What becomes of packed layers.
pub fn packed(args: &args::Quantize) -> Packed {
    match args.allow_requantize {
        true => Packed::Decoded,
        false => Packed::Refused,
    }
}

/// The options that choose types.
pub fn job_options(args: &args::Quantize, types: &Types) -> Options {
    Options {
        pure: args.gguf.pure,
        leave_output_tensor: args.gguf.leave_output_tensor,
        output_tensor_type: args.gguf.output_tensor_type,
        token_embedding_type: args.gguf.token_embedding_type,
        overrides: args.gguf.tensor_type.clone(),
        recipe: types.recipe.clone(),
        allow_requantize: args.allow_requantize,
        threads: args.threads.count(),
        ..Options::new(types.file_type)
    }
}

/// The dry run: one row a tensor, and the total with what else there is to say.
pub fn show(plan: &QuantizePlan<'_>, args: &args::Quantize, types: &Types, more: &str) -> Outcome {
    let divergences = types.measured.as_ref().map(|measured| &measured.divergences);
    if args.json {
        let tensor = |r: &QuantizeRow| {
            let mut tensor = json!({"name": r.name, "shape": r.shape, "from": r.stored, "to": r.to.name(), "bytes": r.bytes});
            if let Some(divergence) = divergences.and_then(|all| all.get(&r.name)) {
                tensor["predicted_kl_mean"] = json!(divergence);
            }
            tensor
        };
        let mut result = json!({
            "scheme": types.name,
            "file_size": plan.file_size(),
            "bits_per_weight": plan.bits_per_weight(),
            "tensors": plan.rows().iter().map(tensor).collect::<Vec<_>>(),
        });
        types.add_to(&mut result);
        add_grid(&mut result, plan);
        print_json(&result)?;
        return Ok(ExitCode::SUCCESS);
    }
    let rows = plan.rows().iter().map(|r| {
        let mut row = vec![
            r.name.clone(),
            format::shape(&r.shape),
            r.stored.clone(),
            r.to.name().to_owned(),
            format::bytes(r.bytes),
        ];
        if let Some(all) = divergences {
            let weights: usize = r.shape.iter().product();
            row.push(format!("{:.2}", r.bytes as f64 * 8.0 / weights.max(1) as f64));
            row.push(all.get(&r.name).map_or_else(String::new, |divergence| format!("{divergence:.6}")));
        }
        row
    });
    let header = ["tensor", "shape", "from", "to", "size", "bits", "KL"];
    let header = if divergences.is_some() { &header[..] } else { &header[..5] };
    print(&format!(
        "{}\n\ntotal: {} to {}, {:.2} bits per weight{}{}{more}\n",
        format::table(header, &[1, 4, 5, 6], rows),
        format::bytes(plan.stored_bytes()),
        format::bytes(plan.file_size()),
        plan.bits_per_weight(),
        types.prediction(),
        if more.is_empty() { "" } else { "; " },
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// Adds what becomes of a model on a 4-bit grid.
pub fn add_grid(result: &mut Value, plan: &QuantizePlan<'_>) {
    if let Some(grid) = grids::json(&plan.grids()) {
        result["grid"] = grid;
    }
}
