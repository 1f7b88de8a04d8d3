//! Why a calibrated job was refused or stopped.

use std::io;
use std::path::Path;

use quern_tensor_io::output::no_room;
use quern_tensor_io::{Error as FileError, ErrorKind, Remedy};

use super::gptq::RuleError;
use crate::gptq::SolveError;
use crate::imatrix::AddError;
use crate::job;

/// Why a job was refused or stopped. The output does not exist then; finished blocks are kept beside it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The forward pass failed.
    #[error(transparent)]
    Run(quern_run::Error),
    /// The rules for single modules cannot be used.
    #[error(transparent)]
    Rules(#[from] RuleError),
    /// One module cannot be quantized.
    #[error("module {module:?}: {why}")]
    Module {
        /// Its name.
        module: String,
        /// Why.
        why: SolveError,
    },
    /// A tensor cannot be made as the recipe says.
    #[error(transparent)]
    Quantize(job::Error),
    /// The importance matrix could not be written.
    #[error("the importance matrix: {0}")]
    Imatrix(AddError),
    /// Every module is left out.
    #[error("the rules leave every module out: there is nothing to quantize")]
    Nothing,
    /// No tensor of the plan is a layer that a calibration sees.
    #[error("no linear layer gets a block type, so there is nothing to calibrate")]
    NoBlocks,
    /// An importance matrix was given for a job that measures the same.
    #[error("an importance matrix cannot be used with a calibration, which measures what it has")]
    HasImatrix,
    /// Something else within a block.
    #[error("{0}")]
    Stage(Box<dyn std::error::Error + Send + Sync>),
}

impl Error {
    /// Whether a GPU has too little memory.
    pub(super) fn is_gpu_memory(&self) -> bool {
        match self {
            Self::Run(error) => error.is_gpu_memory(),
            Self::Module { why: SolveError::Compute(error), .. } => error.is_gpu_memory(),
            _ => false,
        }
    }

    /// The same error; if the disk is full, it says that finished layers are kept in `folder`.
    pub(super) fn with_kept(self, folder: &Path) -> Self {
        let Self::File(FileError { file, kind: ErrorKind::Io(error), .. }) = &self else { return self };
        let Some(what) = no_room(error.kind()) else { return self };
        let what = format!(
            "{what}; finished layers are kept in {}: run the same command again to go on with them, or delete that \
             folder",
            folder.display()
        );
        Self::File(FileError::new(file, io::Error::new(error.kind(), what)))
    }

    /// What mends it, where a program must put it into words.
    pub fn remedy(&self) -> Option<Remedy> {
        match self {
            Self::File(error) => error.remedy(),
            Self::Run(error) => error.remedy(),
            Self::Imatrix(error) => error.remedy(),
            Self::Quantize(error) => error.remedy(),
            Self::Rules(_)
            | Self::Module { .. }
            | Self::Nothing
            | Self::NoBlocks
            | Self::HasImatrix
            | Self::Stage(_) => None,
        }
    }
}

impl From<job::Error> for Error {
    fn from(error: job::Error) -> Self {
        match error {
            job::Error::File(error) => Self::File(error),
            other => Self::Quantize(other),
        }
    }
}

impl From<quern_run::Error> for Error {
    fn from(error: quern_run::Error) -> Self {
        match error {
            quern_run::Error::Observer(error) => match error.downcast::<Error>() {
                Ok(own) => *own,
                Err(other) => match other.downcast::<quern_compute::Error>() {
                    Ok(compute) => Self::Run((*compute).into()),
                    Err(other) => Self::Stage(other),
                },
            },
            other => Self::Run(other),
        }
    }
}

impl From<quern_compute::Error> for Error {
    fn from(error: quern_compute::Error) -> Self {
        quern_run::Error::from(error).into()
    }
}
