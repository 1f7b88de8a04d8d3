//! `quern quantize`: one file per family of schemes.

mod auto;
mod bitsandbytes;
mod calibrated;
mod calibration;
mod gguf;
mod gptq;
pub mod grids;
mod readers;
mod rounded;
mod source;
mod tensors;
mod types;

use clap::{CommandFactory, error::ErrorKind};
use quern_quantize::auto::Target;

use super::{Outcome, placement};
use crate::args::{self, Scheme};
use crate::model;
use types::Types;

/// Plans, and unless it is a dry run, does it.
pub fn run(args: &args::Quantize) -> Outcome {
    model::state(&args.stated);
    refuse_strangers(args);
    let runs =
        args.gguf.calibrate || matches!(args.to, Scheme::Gptq | Scheme::Auto) || args.evaluate.is_some();
    if !runs {
        placement::refuse_gpus("quantize without calibration", args.device.choice())?;
    }
    let target = args.auto.target_bpw.map(Target::BitsPerWeight);
    match args.to {
        Scheme::Gguf(file_type) if args.gguf.calibrate => calibrated::run(args, &Types::of(file_type)),
        Scheme::Gguf(file_type) => gguf::run(args, &Types::of(file_type)),
        Scheme::Auto => match target.or(args.auto.target_size.map(Target::Size)) {
            Some(target) => auto::run(args, target),
            None => refuse("--to auto needs --target-bpw X or --target-size SIZE: how large the file may be"),
        },
        Scheme::Recipe => match &args.auto.recipe {
            Some(recipe) => auto::with_recipe(args, recipe),
            None => refuse("--to recipe needs --recipe FILE"),
        },
        Scheme::Gptq => gptq::run(args),
        Scheme::Bitsandbytes(kind) => bitsandbytes::run(args, kind),
        Scheme::Fp8 | Scheme::Fp8Block | Scheme::CompressedTensors => rounded::run(args),
    }
}

/// Options of another scheme are wrong usage: silence would let the user think they had an effect.
fn refuse_strangers(args: &args::Quantize) {
    let (gguf, gptq, bitsandbytes) = (&args.gguf, &args.gptq, &args.bitsandbytes);
    let by_file_type = matches!(args.to, Scheme::Gguf(_));
    let for_gguf = by_file_type || matches!(args.to, Scheme::Auto | Scheme::Recipe);
    let for_gptq = args.to == Scheme::Gptq;
    let plain = matches!(args.to, Scheme::Gguf(file_type) if !file_type.is_block());
    let for_rules = args.rules.dynamic.is_some();
    let stranger = if !for_gguf && gguf.any_given() {
        Some("--pure, --imatrix, --calibrate, --tensor-type and the like belong to GGUF types")
    } else if args.to != Scheme::Auto && args.auto.any_given() {
        Some("--target-bpw, --target-size and --save-recipe belong to --to auto")
    } else if args.to != Scheme::Recipe && args.auto.recipe.is_some() {
        Some("--recipe says which type each tensor gets: leave --to out")
    } else if for_gguf && !by_file_type && gguf.pure {
        Some("--pure belongs to --to with a GGUF type: a recipe has no mix to leave out")
    } else if args.to == Scheme::CompressedTensors && (gptq.beyond_rounding() || for_rules) {
        Some(
            "--desc-act, --packing and --dynamic belong to --to gptq, which --packing writes as compressed-tensors",
        )
    } else if !for_gptq && args.to != Scheme::CompressedTensors && (gptq.any_given() || for_rules) {
        Some("--bits, --group-size, --desc-act and the like belong to --to gptq")
    } else if !for_gptq && !gguf.calibrate && args.to != Scheme::Auto && args.calibration.any_given() {
        Some(
            "--calibration, --samples, --damp and the like belong to --to gptq, and to GGUF types with --calibrate",
        )
    } else if args.to == Scheme::Auto && !gguf.calibrate && args.calibration.beyond_text() {
        Some("--damp, --save-imatrix and --restart belong to --to gptq, and to GGUF types with --calibrate")
    } else if gguf.calibrate && gguf.imatrix.is_some() {
        Some(
            "--imatrix cannot be used with --calibrate: the calibration measures what an importance matrix has",
        )
    } else if gguf.calibrate && plain {
        Some(
            "--calibrate needs a type whose weights are rounded, such as q4_k_m: plain numbers have nothing to calibrate",
        )
    } else if (for_gguf || for_gptq) && bitsandbytes.any_given() {
        Some("--block-size, --double-quant and --skip-module belong to --to nf4, fp4 or int8")
    } else if args.to.is_rounded() && bitsandbytes.beyond_modules() {
        Some("--block-size and --double-quant belong to --to nf4 or fp4")
    } else {
        None
    };
    if let Some(message) = stranger {
        refuse(message);
    }
}

/// Wrong usage.
fn refuse(message: &str) -> ! {
    args::Cli::command().error(ErrorKind::ArgumentConflict, message).exit()
}
