//! What GPTQ and GGUF types with `--calibrate` share: the samples of a text, and how they are recorded.

use quern_model::provenance::CalibrationText;
use quern_quantize::calibrated::{Calibration, Place};
use quern_quantize::calibration::{self, NamedText, SampleOptions};
use quern_run::{Model, require_memory};
use quern_tensor_io::Remedy;
use quern_tensor_io::output::Inputs;

use super::super::{placement, record};
use crate::{args, format, messages, remedy};

/// Samples and their length where nobody says otherwise.
const SAMPLES: u32 = 128;
const CONTEXT: u32 = 2048;

/// Takes samples of the text that the arguments name, for `model`. Also what is recorded of them.
pub fn calibration(
    args: &args::Quantize,
    model: &Model,
    inputs: Inputs,
) -> anyhow::Result<(Calibration, CalibrationText)> {
    let given = &args.calibration;
    let trained = model.config().context_length;
    let context = given.context.map_or(trained.min(CONTEXT as usize), |c| c as usize);
    let NamedText { source, name, sha256 } = calibration::open(given.calibration.as_deref())?;
    let options = SampleOptions { samples: given.samples.unwrap_or(SAMPLES) as usize, context };
    let samples = calibration::samples(model.tokenizer()?, source, options)?;
    let text = CalibrationText {
        name: name.clone(),
        sha256,
        samples: samples.sequences.len() as u64,
        context: context as u64,
    };
    let calibration = Calibration {
        dataset: name,
        adapt_damping: given.damp.is_none(),
        imatrix: given.save_imatrix.clone(),
        force: args.force,
        inputs,
        restart: given.restart,
        gpus: placement::calibration_gpus(&args.device)?,
        ..Calibration::new(samples)
    };
    Ok((calibration, text))
}

/// The same with the provenance of the importance matrix, and that of the output.
pub fn recorded(
    args: &args::Quantize,
    original: &quern_tensor_io::Checkpoint,
    (calibration, text): (Calibration, CalibrationText),
) -> (Calibration, Option<quern_model::provenance::Provenance>) {
    let provenance = record::provenance(&args.provenance, original, Some(text), None);
    let of_imatrix = provenance.clone().filter(|_| calibration.imatrix.is_some());
    (Calibration { imatrix_provenance: of_imatrix, ..calibration }, provenance)
}

/// Where a job computes, and the memory that it takes there.
pub fn where_and_memory(place: &Place, memory_bytes: u64) -> String {
    let on_gpus = match place.gpu_bytes() {
        0 => String::new(),
        bytes => format!(", {} of GPU memory", format::bytes(bytes)),
    };
    format!("{}; about {} of memory beside the model{on_gpus}", place.sentence(), format::bytes(memory_bytes))
}

/// Says what the model is run on, and refuses what does not fit into memory.
pub fn announce(
    args: &args::Quantize,
    calibration: &Calibration,
    place: &Place,
    memory_bytes: u64,
) -> anyhow::Result<()> {
    let samples = &calibration.samples;
    messages::info(format_args!(
        "calibrating with {} tokens in {} samples {}",
        samples.tokens,
        samples.sequences.len(),
        where_and_memory(place, memory_bytes)
    ));
    if let Some(warning) = require_memory(&args.model, memory_bytes, Remedy::LessCalibration)? {
        messages::warning(warning);
    }
    Ok(())
}

/// Says in a dry run what the job would be refused for.
pub fn warn(args: &args::Quantize, memory_bytes: u64, disk_bytes: u64) {
    record::warn_of_space(args.output.as_deref(), disk_bytes);
    match require_memory(&args.model, memory_bytes, Remedy::LessCalibration) {
        Ok(warning) => warning.iter().for_each(messages::warning),
        Err(error) => messages::warning(remedy::described(&error.into())),
    }
}
