//! Quantization that runs the model: a calibration text goes through it block by block, and each linear layer is solved
//! for the inputs that it gets. One job with two outputs: a [GPTQ](gptq) checkpoint, or a [GGUF](gguf) file.
//!
//! ```text
//! for each block
//!   for each group of layers with one input: q k v | o | gate up | down
//!     run the calibration tokens up to it     Hessian of the inputs, once for the group          inputs.rs
//!     solve each layer, keep it               a file in the folder of the unfinished run         target.rs, state.rs
//!     continue with the quantized weights     read back from that file: what follows is fitted to what a
//!                                             reader of the output will compute
//! at the end: quantized layers and all other tensors into the output, which appears whole
//! ```
//!
//! What differs between the outputs is behind one trait, `Target`: how a group of layers is solved and kept, and how it
//! is read back. How the output is put together is each job's own.

mod block;
mod damping;
mod digest;
mod error;
pub mod gguf;
pub mod gptq;
mod imatrix;
mod inputs;
mod needs;
mod place;
mod run;
mod state;
mod target;

use std::path::PathBuf;

use quern_model::provenance::Provenance;
use quern_run::placement::GpuRoom;
use quern_tensor_io::output::Inputs as InputFiles;

use crate::calibration::Samples;

pub use error::Error;
pub use place::Place;

/// What a job is to know of its calibration, whatever its output is.
#[derive(Clone, Debug)]
pub struct Calibration {
    /// What the model is run on.
    pub samples: Samples,
    /// Name of the calibration text, for the importance matrix.
    pub dataset: String,
    /// Raise the damping of a layer to its columns per calibration token where that is more: with few tokens the
    /// Hessian says more about them than about the model. (Only where no rule sets it.)
    pub adapt_damping: bool,
    /// Also write an importance matrix of the same text there.
    pub imatrix: Option<PathBuf>,
    /// How the importance matrix is made, recorded in it.
    pub imatrix_provenance: Option<Provenance>,
    /// Replace an existing output.
    pub force: bool,
    /// What the command reads beside the model, such as the calibration text: never replaced.
    pub inputs: InputFiles,
    /// Discard an unfinished run instead of going on with it.
    pub restart: bool,
    /// The GPUs that may be used; none: the CPU computes.
    pub gpus: Vec<GpuRoom>,
}

impl Calibration {
    /// The defaults, for these samples.
    pub fn new(samples: Samples) -> Self {
        Self {
            samples,
            dataset: crate::calibration::DEFAULT_NAME.to_owned(),
            adapt_damping: true,
            imatrix: None,
            imatrix_provenance: None,
            force: false,
            inputs: InputFiles::default(),
            restart: false,
            gpus: Vec::new(),
        }
    }

    /// What the user should know of the samples.
    fn warnings(&self) -> Vec<String> {
        let samples = &self.samples;
        match samples.sequences.len() < samples.wanted {
            true => vec![format!(
                "the calibration text gave {} of the {} samples asked for",
                samples.sequences.len(),
                samples.wanted
            )],
            false => Vec::new(),
        }
    }
}
