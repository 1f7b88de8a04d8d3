//! What GPTQ and bitsandbytes are made from: a Hugging Face checkpoint of plain numbers. A GGUF file, or with
//! `--allow-requantize` a model that is quantized, is first written out as such a checkpoint beside the output.

use std::path::Path;

use anyhow::bail;
use quern_convert::{PlainSource, needs_plain_source};

use super::super::Outcome;
use crate::progress::{Bar, Unit};
use crate::{args, format, messages, model};

/// Quantizes with `job`, which gets the path of a checkpoint of plain numbers: the model of the arguments, written
/// out first if need be. What was written is removed when `job` is done, and kept where it fails.
pub fn with_plain(args: &args::Quantize, job: impl FnOnce(&Path) -> Outcome) -> Outcome {
    let path = model::path(&args.model)?;
    let checkpoint = quern_model::identify::open(&path)?;
    if !needs_plain_source(&checkpoint, args.allow_requantize)? {
        drop(checkpoint);
        return job(&path);
    }
    let Some(output) = args.output.as_deref().filter(|_| !args.dry_run) else {
        bail!(
            "{}: a plan can be made of a Hugging Face checkpoint of plain numbers only; convert the model to \
             safetensors first, or leave --dry-run out",
            path.display()
        );
    };
    let source = PlainSource::beside(&checkpoint, output)?;
    if let Some(plan) = source.plan(args.threads.count())? {
        messages::info(format_args!(
            "writing the model's numbers to {} first, {}",
            source.folder().display(),
            format::bytes(plan.tensor_bytes())
        ));
        source.write(&plan, &Bar::new(Unit::Bytes, "decoding the source"))?;
    }
    let code = job(source.folder())?;
    source.remove()?;
    Ok(code)
}
