//! The job with a GGUF file as its output: types by the recipes, each linear layer rounded for its inputs.
//!
//! ```text
//! linear layers of the blocks, output head    type with error feedback    column by column under the Hessian
//!                                             another type                by its encoder, columns weighted by the
//!                                                                         Hessian's diagonal
//! token embedding                             the same two ways           with gradients in the Hessian's place
//! values on a 4-bit grid that the type holds                              without error, by the plain job
//! everything else                                                         as by the plain job, `crate::job`
//! ```
//!
//! Tensors are worked on in GGUF's row order. The weights to continue with are the same blocks in the order of the
//! running model's rows. Experts are solved one by one, each for the tokens that chose it, and stacked when the file is
//! written.

mod assemble;
mod embedding;
mod encode;
mod importance;
mod plan;
mod report;
mod run;
mod solve;

use std::path::{Path, PathBuf};

use super::{Calibration, state};
use crate::gptq::Settings;
use crate::job;

pub use super::Error;
pub use plan::{GgufPlan, plan};
pub use report::{GgufReport, LayerReport};
pub use run::{check_outputs, run};

/// The output's part of the name of the unfinished run's folder.
const KIND: &str = "gguf";

/// The folder of the unfinished run for `output`, which is kept when the run is stopped.
pub fn unfinished_folder(output: &Path) -> PathBuf {
    state::folder(output, KIND)
}

/// What the user asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// Types, metadata and whatever else the plain job is told; without an importance matrix. Whether an output may be
    /// replaced and which files are inputs is taken from `calibration`.
    pub quantize: job::Options,
    /// What the model is run on.
    pub calibration: Calibration,
    /// Share of the mean diagonal of a Hessian added to its diagonal, at first.
    pub damp: f64,
}

impl Options {
    /// The defaults, for these types and this calibration.
    pub fn new(quantize: job::Options, calibration: Calibration) -> Self {
        Self { quantize, calibration, damp: Settings::default().damp }
    }
}
