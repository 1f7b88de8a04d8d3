//! Why types could not be chosen.

use quern_tensor_io::Remedy;

use super::RoundError;
use crate::job;

/// Why types could not be chosen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The model cannot be run.
    #[error(transparent)]
    Run(#[from] quern_run::Error),
    /// No file can be planned.
    #[error(transparent)]
    Job(#[from] job::Error),
    /// A tensor cannot be rounded.
    #[error("tensor {tensor:?}: {source}")]
    Round {
        /// The tensor, as the checkpoint names it.
        tensor: String,
        /// Why.
        source: RoundError,
    },
    /// Not even the smallest types fit.
    #[error("the smallest file of this model that quern can make has {least}; ask for at least that")]
    TooSmall {
        /// The smallest possible target, in the words of the one that was asked for.
        least: String,
    },
    /// There is nothing to choose for.
    #[error(
        "no tensor of this model can be quantized to a type of choice; quantize it to a fixed type (--to q4_k_m)"
    )]
    Nothing,
    /// There is nothing to run the model on.
    #[error("the calibration text has no sequence of at least 2 tokens; give a longer one")]
    NoText,
}

impl Error {
    /// What mends it, where a program must put it into words.
    pub fn remedy(&self) -> Option<Remedy> {
        match self {
            Self::Run(error) => error.remedy(),
            Self::Job(error) => error.remedy(),
            Self::Round { .. } | Self::TooSmall { .. } | Self::Nothing | Self::NoText => None,
        }
    }
}
