//! Runs a plan.

use std::path::Path;
use std::time::Instant;

use quern_run::Model;
use quern_tensor_io::output::OutputDirectory;
use quern_tensor_io::{Checkpoint, Progress};
use serde_json::json;

use super::assemble::Assembly;
use super::report::{GptqReport, ModuleReport};
use super::solve::Gptq;
use super::{Error, GptqPlan, KIND, Options, config, unfinished_folder};
use crate::calibrated::damping::{MOST_WARNINGS, least_damp, warning};
use crate::calibrated::run::{Blocks, Job, check_imatrix};
use crate::calibrated::state::{Identity, fingerprint};

/// Quantizes `model` as planned and writes the checkpoint directory `output`. Progress counts modules. The
/// bytes do not depend on the number of the model's threads. A run that was stopped is continued.
///
/// # Errors
/// Whatever it is, `output` does not exist then (or is as it was), and finished blocks are kept.
pub fn run(
    model: &Model,
    plan: &GptqPlan,
    options: &Options,
    output: &Path,
    progress: &dyn Progress,
) -> Result<GptqReport, Error> {
    resumable(model, plan, options, output, progress).map_err(|e| e.with_kept(&unfinished_folder(output)))
}

fn resumable(
    model: &Model,
    plan: &GptqPlan,
    options: &Options,
    output: &Path,
    progress: &dyn Progress,
) -> Result<GptqReport, Error> {
    let started = Instant::now();
    check_outputs(output, model, options)?;
    let checkpoint = model.checkpoint();
    let config = config::quantization_config(options, plan.needs_v2());
    let calibration = &options.calibration;
    let modules = plan.modules.iter().map(|m| json!([m.name, m.settings.as_ref().map(|s| format!("{s:?}"))]));
    let identity = Identity {
        kind: KIND,
        fingerprint: fingerprint(checkpoint, modules.collect(), calibration),
        blocks: plan.layers,
        restart: calibration.restart,
        files: &[("quantize_config.json", config::to_bytes(&config))],
    };
    let layers = plan.modules.iter().filter(|m| m.settings.is_some()).count();
    let job = Job {
        model,
        calibration,
        output,
        progress,
        layers,
        before: 0,
        place: &plan.place,
        disk_bytes: plan.disk_bytes,
    };
    let Blocks { state, records, resumed, damage } = job.run(&Gptq::new(plan, options), &identity)?;
    progress.step("writing the checkpoint");
    let assembly =
        Assembly { checkpoint, plan, options, pool: model.pool(), state: &state, records: &records };
    let bytes = assembly.write(output, &config)?;
    state.remove()?;
    let modules: Vec<_> = records.into_iter().flat_map(|r| r.modules).collect();
    let skipped = plan.modules.iter().filter(|m| m.settings.is_none()).map(|m| m.name.clone()).collect();
    Ok(GptqReport {
        warnings: damage.into_iter().chain(warnings(options, &modules)).collect(),
        modules,
        skipped,
        resumed_blocks: resumed,
        tokens: calibration.samples.tokens,
        bytes,
        bits_per_weight: bytes as f64 * 8.0 / model.parameters() as f64,
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// Refuses outputs that exist, unless they may be replaced, and those that are inputs.
///
/// # Errors
/// As [`OutputDirectory::check`] and [`quern_tensor_io::output::OutputFile::create`].
pub fn check_outputs(output: &Path, model: &Model, options: &Options) -> Result<(), Error> {
    let checkpoint: &Checkpoint = model.checkpoint();
    let inputs = options.calibration.inputs.clone().with_model(checkpoint);
    OutputDirectory::check(output, inputs.unless_read(options.calibration.force))?;
    check_imatrix(model, &options.calibration)
}

fn warnings(options: &Options, modules: &[ModuleReport]) -> Vec<String> {
    let mut out = options.calibration.warnings();
    for m in modules {
        if let Some(why) = &m.fallback {
            out.push(format!("{}: rounded to nearest, {why}", m.module));
        }
    }
    let raised = modules
        .iter()
        .filter(|m| m.fallback.is_none())
        .filter_map(|m| warning(&m.module, least_damp(options.settings.damp, m.columns, m.tokens), m.damp));
    out.extend(raised.take(MOST_WARNINGS));
    out
}
