//! Runs a plan.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Instant;

use quern_run::Model;
use quern_tensor_io::output::OutputFile;
use quern_tensor_io::{Error as FileError, Progress};
use serde_json::json;

use super::assemble::Finished;
use super::report::{GgufReport, LayerReport, fallbacks};
use super::solve::Gguf;
use super::{Error, GgufPlan, KIND, unfinished_folder};
use crate::calibrated::Calibration;
use crate::calibrated::damping::{MOST_WARNINGS, warning};
use crate::calibrated::run::{Blocks, Job, check_imatrix};
use crate::calibrated::state::{Identity, fingerprint};
use crate::job::{QuantizeReport, run_with};

/// Quantizes `model` as planned and writes the file `output`, which appears when it is complete. Progress counts layers.
/// The bytes do not depend on the number of the model's threads. A run that was stopped is continued.
///
/// # Errors
/// Whatever it is, `output` does not exist then (or is as it was), and finished blocks are kept.
pub fn run(
    model: &Model,
    plan: &GgufPlan<'_>,
    output: &Path,
    progress: &dyn Progress,
) -> Result<GgufReport, Error> {
    resumable(model, plan, output, progress).map_err(|e| e.with_kept(&unfinished_folder(output)))
}

fn resumable(
    model: &Model,
    plan: &GgufPlan<'_>,
    output: &Path,
    progress: &dyn Progress,
) -> Result<GgufReport, Error> {
    let started = Instant::now();
    let calibration = &plan.calibration;
    check_outputs(output, model, calibration)?;
    let target = Gguf { plan };
    let tensors = plan.rows().iter().map(|row| json!([row.name, row.to.name()]));
    let damping = json!([plan.damp, calibration.adapt_damping]);
    let identity = Identity {
        kind: KIND,
        fingerprint: fingerprint(model.checkpoint(), tensors.chain([damping]).collect(), calibration),
        blocks: plan.blocks,
        restart: calibration.restart,
        files: &[],
    };
    let (layers, disk_bytes) = (plan.layers(), plan.disk_bytes());
    let before = usize::from(plan.calibrates_embedding());
    let place = plan.place();
    let job = Job { model, calibration, output, progress, layers, before, place, disk_bytes };
    let Blocks { state, records, resumed, damage } = job.run(&target, &identity)?;
    let finished = Finished::open(plan, &state, &records)?;
    let QuantizeReport { file_size, .. } = run_with(&plan.quantize, &finished, output, &Steps(progress))?;
    drop(finished);
    let embedding = match &plan.embedding {
        Some(_) => state
            .embedding::<LayerReport>()
            .ok()
            .flatten()
            .and_then(|record| record.modules.into_iter().next()),
        None => None,
    };
    state.remove()?;
    let layers: Vec<_> = records.into_iter().flat_map(|r| r.modules).collect();
    Ok(GgufReport {
        warnings: damage.into_iter().chain(warnings(&target, embedding.iter().chain(&layers))).collect(),
        layers,
        embedding,
        resumed_blocks: resumed,
        tokens: calibration.samples.tokens,
        bytes: file_size,
        bits_per_weight: plan.quantize.bits_per_weight(),
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// Refuses outputs that exist, unless they may be replaced, and those that are inputs.
///
/// # Errors
/// As [`OutputFile::create`].
pub fn check_outputs(output: &Path, model: &Model, calibration: &Calibration) -> Result<(), Error> {
    if let Some(imatrix) = calibration.imatrix.as_deref().filter(|path| place(path) == place(output)) {
        let what = "this is the importance matrix, and it would be written to the output's place; choose another name";
        return Err(FileError::refused(imatrix, what).into());
    }
    let inputs = calibration.inputs.clone().with_model(model.checkpoint());
    // Dropped, nothing of it remains.
    drop(OutputFile::create(output, inputs.unless_read(calibration.force))?);
    check_imatrix(model, calibration)
}

/// A file that may not be there yet, by its folder and its name.
fn place(path: &Path) -> (Option<PathBuf>, Option<&OsStr>) {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    (folder.canonicalize().ok(), path.file_name())
}

/// The steps of the plain job, whose bytes are not counted.
struct Steps<'a>(&'a dyn Progress);

impl Progress for Steps<'_> {
    fn step(&self, what: &str) {
        self.0.step(what);
    }
}

fn warnings<'r>(target: &Gguf<'_>, layers: impl Iterator<Item = &'r LayerReport> + Clone) -> Vec<String> {
    let mut out = target.plan.calibration.warnings();
    out.extend(fallbacks(layers.clone()));
    let raised = layers
        .filter(|layer| layer.loss.is_some())
        .filter_map(|layer| warning(&layer.tensor, target.damp(layer.columns, layer.tokens), layer.damp));
    out.extend(raised.take(MOST_WARNINGS));
    out
}
