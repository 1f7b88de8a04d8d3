//! The GPTQ job: a Hugging Face checkpoint goes in, a GPTQ checkpoint comes out.
//!
//! ```text
//! for each block
//!   for each group of modules with one input: q k v | o | gate up | down
//!     run the calibration tokens up to it     Hessian of the inputs, once for the group
//!     solve each module, pack, write          a file in the folder of the unfinished run
//!     continue with the packed weights        read back from that file: what follows is fitted to what a
//!                                             reader of the checkpoint will compute
//! at the end: packed modules and untouched tensors into the output, which appears whole
//! ```

mod assemble;
mod config;
mod error;
mod needs;
mod plan;
mod readers;
mod report;
mod rules;
mod run;
mod state;

use std::path::PathBuf;

use quern_model::provenance::Provenance;
use quern_tensor_io::output::Inputs;

use super::Settings;
use crate::calibration::Samples;

pub use error::Error;
pub use plan::{GptqModule, GptqPlan, plan};
pub use readers::{Reader, ReaderNote, ReaderRemedy, Reason};
pub use report::{GptqReport, ModuleReport};
pub use rules::{RuleError, Rules, Verdict};
pub use run::{check_outputs, run};
pub use state::folder as unfinished_folder;

/// What the user asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// How modules are quantized where no rule says otherwise.
    pub settings: Settings,
    /// Raise the damping of a module to its columns per calibration token where that is more: with few tokens the
    /// Hessian says more about them than about the model. (Only where no rule sets it.)
    pub adapt_damping: bool,
    /// Rules for single modules.
    pub rules: Rules,
    /// What the model is run on.
    pub samples: Samples,
    /// Also write an importance matrix of the same text there.
    pub imatrix: Option<PathBuf>,
    /// Name of the calibration text, for the importance matrix.
    pub dataset: String,
    /// How the output is made, recorded in `quern.json` with what the job measures.
    pub provenance: Option<Provenance>,
    /// The same for the importance matrix.
    pub imatrix_provenance: Option<Provenance>,
    /// Replace an existing output.
    pub force: bool,
    /// What the command reads beside the model, such as the calibration text: never replaced.
    pub inputs: Inputs,
    /// Discard an unfinished run instead of going on with it.
    pub restart: bool,
    /// Bytes of tensors in one output file at most.
    pub shard_bytes: u64,
}

impl Options {
    /// The defaults, for these samples.
    pub fn new(settings: Settings, samples: Samples) -> Self {
        Self {
            settings,
            adapt_damping: true,
            rules: Rules::default(),
            samples,
            imatrix: None,
            dataset: crate::calibration::DEFAULT_NAME.to_owned(),
            provenance: None,
            imatrix_provenance: None,
            force: false,
            inputs: Inputs::default(),
            restart: false,
            shard_bytes: 4 << 30,
        }
    }
}
