//! To a GGUF file.

use std::process::ExitCode;
use std::time::Instant;

use quern_model::provenance::HashedFile;
use quern_model::{Packed, View};
use quern_quantize::imatrix::Imatrix;
use quern_quantize::job::{self, Options, QuantizePlan};
use quern_quantize::recipe::FileType;
use serde_json::{Value, json};

use super::super::record::{self, After};
use super::super::{Outcome, print, print_json};
use super::grids;
use crate::progress::{Bar, Unit};
use crate::{args, format, messages, model};

/// Plans, and unless it is a dry run, does it.
pub fn run(args: &args::Quantize, file_type: FileType) -> Outcome {
    let checkpoint = model::open(&args.model)?;
    let packed = match args.allow_requantize {
        true => Packed::Decoded,
        false => Packed::Refused,
    };
    let view = View::gguf(&checkpoint, packed)?;
    for note in view.notes() {
        messages::note(note);
    }
    let inputs =
        record::inputs([("the text to evaluate with", args.evaluate.as_deref())]).with_model(&checkpoint);
    let after = After::of(args, inputs.clone(), true)?;
    let imatrix = args.gguf.imatrix.as_deref().map(Imatrix::open).transpose()?;
    let hashed = match &imatrix {
        Some(imatrix) if !args.provenance.no_provenance => {
            let name = imatrix.file().file_name().map(|n| n.to_string_lossy().into_owned());
            Some(HashedFile { name: name.unwrap_or_default(), sha256: imatrix.sha256()? })
        }
        _ => None,
    };
    let options = Options {
        grids: grids::find(&view, file_type, args.threads.count())?,
        imatrix,
        provenance: record::provenance(&args.provenance, &checkpoint, None, hashed),
        pure: args.gguf.pure,
        leave_output_tensor: args.gguf.leave_output_tensor,
        output_tensor_type: args.gguf.output_tensor_type,
        token_embedding_type: args.gguf.token_embedding_type,
        overrides: args.gguf.tensor_type.clone(),
        allow_requantize: args.allow_requantize,
        force: args.force,
        inputs,
        threads: args.threads.count(),
        ..Options::new(file_type)
    };
    let plan = job::plan(&view, options)?;
    for warning in plan.warnings() {
        messages::warning(warning);
    }
    grids::announce(&plan.grids(), file_type);
    let Some(output) = args.output.as_deref().filter(|_| !args.dry_run) else {
        return show(&plan, args, file_type);
    };
    let started = Instant::now();
    let bar = Bar::new(Unit::Bytes, format!("quantizing to {}", file_type.name().to_lowercase()));
    job::run(&plan, output, &bar)?;
    drop(bar);
    let seconds = started.elapsed().as_secs_f64();
    let done = after.finish(&checkpoint, output, false)?;
    if args.json {
        let mut result = json!({
            "output": output,
            "scheme": file_type.name().to_lowercase(),
            "file_size": plan.file_size(),
            "bits_per_weight": plan.bits_per_weight(),
            "seconds": seconds,
        });
        add_grid(&mut result, &plan);
        done.add_to(&mut result)?;
        print_json(&result)?;
    } else {
        print(&format!(
            "{}: {}, {} to {}, {:.2} bits per weight, in {seconds:.1} s\n",
            output.display(),
            file_type.name().to_lowercase(),
            format::bytes(plan.source_bytes()),
            format::bytes(plan.file_size()),
            plan.bits_per_weight(),
        ))?;
        print(&done.text())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The dry run: one row a tensor, and the total.
fn show(plan: &QuantizePlan<'_>, args: &args::Quantize, file_type: FileType) -> Outcome {
    record::warn_of_space(args.output.as_deref(), plan.file_size());
    if args.json {
        let tensors: Vec<_> = plan
            .rows()
            .iter()
            .map(|r| json!({"name": r.name, "shape": r.shape, "from": r.from.name(), "to": r.to.name(), "bytes": r.bytes}))
            .collect();
        let mut result = json!({
            "scheme": file_type.name().to_lowercase(),
            "file_size": plan.file_size(),
            "bits_per_weight": plan.bits_per_weight(),
            "tensors": tensors,
        });
        add_grid(&mut result, plan);
        print_json(&result)?;
    } else {
        let rows = plan.rows().iter().map(|r| {
            vec![
                r.name.clone(),
                format::shape(&r.shape),
                r.from.name().to_owned(),
                r.to.name().to_owned(),
                format::bytes(r.bytes),
            ]
        });
        print(&format!(
            "{}\n\ntotal: {} to {}, {:.2} bits per weight\n",
            format::table(&["tensor", "shape", "from", "to", "size"], &[1, 4], rows),
            format::bytes(plan.source_bytes()),
            format::bytes(plan.file_size()),
            plan.bits_per_weight(),
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Adds what becomes of a model on a 4-bit grid.
fn add_grid(result: &mut Value, plan: &QuantizePlan<'_>) {
    if let Some(grid) = grids::json(&plan.grids()) {
        result["grid"] = grid;
    }
}
