//! What schemes in Hugging Face directories are made from: a Hugging Face checkpoint of plain numbers. A GGUF file, or with
//! `--allow-requantize` a model that is quantized, is first written out as such a checkpoint beside the output.

use std::path::Path;

use quern_convert::{ConvertPlan, Fidelity, PlainOutline, PlainSource, needs_plain_source};
use quern_quantize::bitsandbytes::Kind;
use quern_tensor_io::Checkpoint;
use quern_tensor_io::output::{Inputs, OutputDirectory, require_space};

use super::super::Outcome;
use crate::args::Scheme;
use crate::progress::{Bar, Unit};
use crate::{args, format, messages, model};

/// Quantizes with `job`, which gets the path of a checkpoint of plain numbers and the model of the arguments: the same,
/// or what the numbers were written out of first. What was written is removed when `job` is done; where GPTQ fails it
/// is kept, as the unfinished run goes on with it. `inputs` are what the command reads beside the model; `job` gets them
/// with the model's files.
pub fn with_plain(
    args: &args::Quantize,
    mut inputs: Inputs,
    job: impl FnOnce(&Path, &Checkpoint, Inputs) -> Outcome,
) -> Outcome {
    let path = model::path(&args.model)?;
    let checkpoint = model::open_file(&path)?;
    inputs.add_model(&checkpoint);
    if let Some(output) = args.output.as_deref().filter(|_| !args.dry_run) {
        OutputDirectory::check(output, inputs.unless_read(args.force))?;
    }
    if !needs_plain_source(&checkpoint, args.allow_requantize)? {
        return job(&path, &checkpoint, inputs);
    }
    let Some(output) = args.output.as_deref().filter(|_| !args.dry_run) else {
        let outline = PlainOutline::of(&checkpoint, args.threads.count())?;
        messages::note(decoded_first(outline.plan()));
        return job(outline.folder(), &checkpoint, inputs);
    };
    let mut source = PlainSource::beside(&checkpoint, output, args.to == Scheme::Gptq)?;
    if let Some(plan) = source.plan(args.threads.count())? {
        // The output comes beside it, and of GPTQ an unfinished run as large.
        let share = match args.to {
            Scheme::Gptq => 2 * u64::from(args.gptq.bits.unwrap_or(4)),
            Scheme::CompressedTensors => u64::from(args.gptq.bits.unwrap_or(4)) + 1,
            Scheme::Bitsandbytes(Kind::Int8) | Scheme::Fp8 | Scheme::Fp8Block => 8,
            Scheme::Bitsandbytes(_) | Scheme::Gguf(_) | Scheme::Auto | Scheme::Recipe => 4,
        };
        let needed = plan.tensor_bytes() + plan.tensor_bytes() / 16 * share;
        require_space(output, needed, "the output with the plain weights it is made from")?;
        messages::info(format_args!(
            "writing the model's numbers to {} first, {}",
            source.folder().display(),
            format::bytes(plan.tensor_bytes())
        ));
        source.write(&plan, &Bar::new(Unit::Bytes, "decoding the source"))?;
    }
    let code = job(source.folder(), &checkpoint, inputs)?;
    source.remove()?;
    Ok(code)
}

/// What happens to the numbers before they are quantized.
fn decoded_first(plan: &ConvertPlan<'_>) -> String {
    let (size, all) = (format::bytes(plan.tensor_bytes()), plan.rows().len());
    let lossy: Vec<_> = plan.rows().iter().filter(|row| row.fidelity == Fidelity::Lossy).collect();
    let lost = match lossy.iter().max_by_key(|row| row.bytes) {
        None => "none of its numbers changes by that".to_owned(),
        Some(largest) => {
            let (from, to) = (&largest.from, largest.to.name());
            format!("{} of {all} tensors are rounded by that, {from} to {to}", lossy.len())
        }
    };
    format!("the model's numbers are written as a checkpoint of plain numbers first, {size}; {lost}")
}
