//! `quern quantize`: one file per family of schemes.

mod bitsandbytes;
mod gguf;
mod gptq;
pub mod grids;
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
        Scheme::Gguf(file_type) => gguf::run(args, file_type),
        Scheme::Gptq => gptq::run(args),
        Scheme::Bitsandbytes(kind) => bitsandbytes::run(args, kind),
    }
}

/// Options of another scheme are wrong usage: silence would let the user think they had an effect.
fn refuse_strangers(args: &args::Quantize) {
    let (gguf, gptq, bitsandbytes) = (&args.gguf, &args.gptq, &args.bitsandbytes);
    let (for_gguf, for_gptq) = (matches!(args.to, Scheme::Gguf(_)), args.to == Scheme::Gptq);
    let stranger = if !for_gguf && gguf.any_given() {
        Some("--pure, --imatrix, --tensor-type and the like belong to GGUF types")
    } else if !for_gptq && gptq.any_given() {
        Some("--bits, --group-size, --calibration and the like belong to --to gptq")
    } else if (for_gguf || for_gptq) && bitsandbytes.any_given() {
        Some("--block-size, --double-quant and --skip-module belong to --to nf4, fp4 or int8")
    } else {
        None
    };
    if let Some(message) = stranger {
        args::Cli::command().error(ErrorKind::ArgumentConflict, message).exit();
    }
}
