//! The GPTQ job: a Hugging Face checkpoint goes in, a GPTQ checkpoint comes out.

mod assemble;
mod config;
mod plan;
mod readers;
mod report;
mod rules;
mod run;
mod solve;

use std::path::{Path, PathBuf};

use quern_model::provenance::Provenance;

use quern_tensor_io::scheme::{CodeFormat, GptqFormat};

use super::{Calibration, state};
use crate::calibration::Samples;
use crate::gptq::Settings;

pub use super::Error;
pub use plan::{GptqModule, GptqPlan, plan};
pub use readers::{Reader, ReaderNote, ReaderRemedy, Reason};
pub use report::{GptqReport, ModuleReport};
pub use rules::{RuleError, Rules, Verdict};
pub use run::{check_outputs, run};

/// The output's part of the name of the unfinished run's folder.
const KIND: &str = "gptq";

/// The folder of the unfinished run for `output`, which is kept when the run is stopped.
pub fn unfinished_folder(output: &Path) -> PathBuf {
    state::folder(output, KIND)
}

/// What the user asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// How modules are quantized where no rule says otherwise.
    pub settings: Settings,
    /// The tensors that codes are written in. Zero points of their own make GPTQ's `gptq_v2`.
    pub packing: CodeFormat,
    /// Rules for single modules.
    pub rules: Rules,
    /// What the model is run on.
    pub calibration: Calibration,
    /// How the output is made, recorded in `quern.json` with what the job measures.
    pub provenance: Option<Provenance>,
    /// Bytes of tensors in one output file at most.
    pub shard_bytes: u64,
}

impl Options {
    /// The defaults, for these samples.
    pub fn new(settings: Settings, samples: Samples) -> Self {
        Self {
            settings,
            packing: CodeFormat::Gptq(GptqFormat::V1),
            rules: Rules::default(),
            calibration: Calibration::new(samples),
            provenance: None,
            shard_bytes: 4 << 30,
        }
    }
}
