//! Options of the schemes that run the model on a text: GPTQ, and GGUF types with `--calibrate`.

use std::path::PathBuf;

use clap::Args;

use super::values::damp;

/// What the model is run on, and what comes of it.
#[derive(Debug, Args)]
#[command(next_help_heading = "Calibration (gptq, and GGUF types with --calibrate)")]
pub struct CalibrationOptions {
    /// Damping added to the Hessian's diagonal, as a fraction of its mean [default: 0.02 or more]
    ///
    /// Without this option, a module with many columns for few calibration tokens gets a larger fraction: its columns
    /// divided by the tokens.
    #[arg(long, value_name = "X", value_parser = damp)]
    pub damp: Option<f64>,
    /// Calibration text, plain or JSONL, or - for standard input [default: a text that comes with quern]
    #[arg(long, value_name = "FILE")]
    pub calibration: Option<PathBuf>,
    /// Number of calibration samples [default: 128]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub samples: Option<u32>,
    /// Length of a calibration sample in tokens [default: 2048, or the model's context length if shorter]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(16..))]
    pub context: Option<u32>,
    /// Also write an importance matrix of the calibration text to FILE
    #[arg(long, value_name = "FILE")]
    pub save_imatrix: Option<PathBuf>,
    /// Discard an unfinished run with the same output instead of resuming it
    #[arg(long)]
    pub restart: bool,
}

impl CalibrationOptions {
    /// Whether any was given that says more than what the model is run on.
    pub fn beyond_text(&self) -> bool {
        self.damp.is_some() || self.save_imatrix.is_some() || self.restart
    }

    /// Whether any of them was given.
    pub fn any_given(&self) -> bool {
        self.damp.is_some()
            || self.calibration.is_some()
            || self.samples.is_some()
            || self.context.is_some()
            || self.save_imatrix.is_some()
            || self.restart
    }
}
