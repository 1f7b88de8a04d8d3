//! `quern quantize`: one file per family of schemes.

mod bitsandbytes;
mod calibrated;
mod calibration;
mod gguf;
mod gptq;
mod readers;
mod source;

use clap::{CommandFactory, error::ErrorKind};

use super::{Outcome, placement};
use crate::args::{self, Scheme};

/// Plans, and unless it is a dry run, does it.
pub fn run(args: &args::Quantize) -> Outcome {
    refuse_strangers(args);
    placement::refuse_gpus("quantize", args.device.device)?;
    match args.to {
        Scheme::Gguf(file_type) if args.gguf.calibrate => calibrated::run(args, file_type),
        Scheme::Gguf(file_type) => gguf::run(args, file_type),
        Scheme::Gptq => gptq::run(args),
        Scheme::Bitsandbytes(kind) => bitsandbytes::run(args, kind),
    }
}

/// Options of another scheme are wrong usage: silence would let the user think they had an effect.
fn refuse_strangers(args: &args::Quantize) {
    let (gguf, gptq, bitsandbytes) = (&args.gguf, &args.gptq, &args.bitsandbytes);
    let (for_gguf, for_gptq) = (matches!(args.to, Scheme::Gguf(_)), args.to == Scheme::Gptq);
    let plain = matches!(args.to, Scheme::Gguf(file_type) if !file_type.is_block());
    let for_rules = args.rules.dynamic.is_some();
    let stranger = if !for_gguf && gguf.any_given() {
        Some("--pure, --imatrix, --calibrate, --tensor-type and the like belong to GGUF types")
    } else if !for_gptq && (gptq.any_given() || for_rules) {
        Some("--bits, --group-size, --desc-act and the like belong to --to gptq")
    } else if !for_gptq && !gguf.calibrate && args.calibration.any_given() {
        Some(
            "--calibration, --samples, --damp and the like belong to --to gptq, and to GGUF types with --calibrate",
        )
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
    } else {
        None
    };
    if let Some(message) = stranger {
        args::Cli::command().error(ErrorKind::ArgumentConflict, message).exit();
    }
}
