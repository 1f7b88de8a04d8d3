//! What can be wrong with a file, always with the file, and the tensor or byte offset where known.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::Remedy;

/// Result of everything that touches a file.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure with its place.
#[derive(Debug)]
pub struct Error {
    /// The file concerned.
    pub file: PathBuf,
    /// The tensor concerned, where there is one.
    pub tensor: Option<String>,
    /// Byte offset in the file, where it is known.
    pub offset: Option<u64>,
    /// What was wrong.
    pub kind: ErrorKind,
    /// What mends it, where a program must put it into words: not part of the text.
    pub remedy: Option<Box<Remedy>>,
}

/// What was wrong.
#[derive(Debug, thiserror::Error)]
pub enum ErrorKind {
    /// The operating system refused.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// A folder without a model.
    #[error("no model in this folder (looked for *.safetensors, *.gguf and pytorch_model.bin)")]
    NoModel,
    /// A folder with more than one model.
    #[error("more than one model in this folder ({}); give the path of the one you mean", .0.join(", "))]
    SeveralModels(
        /// The files to choose from.
        Vec<String>,
    ),
    /// The file breaks a rule of its format; the text says which, with expected and found.
    #[error("{0}")]
    Malformed(String),
    /// The file is sound but holds something quern does not read; the text says what and what to do.
    #[error("{0}")]
    Unsupported(String),
    /// The file was cut or changed while it was being read; the text says what happened and what to do.
    #[error("{0}")]
    Changed(String),
    /// The caller asked for something impossible: an existing output, output equal to input.
    #[error("{0}")]
    Refused(String),
}

impl Error {
    /// An error about `file` as a whole.
    pub fn new(file: impl AsRef<Path>, kind: impl Into<ErrorKind>) -> Self {
        Self {
            file: file.as_ref().to_path_buf(),
            tensor: None,
            offset: None,
            kind: kind.into(),
            remedy: None,
        }
    }

    /// A broken rule in `file`.
    pub fn malformed(file: impl AsRef<Path>, what: impl Into<String>) -> Self {
        Self::new(file, ErrorKind::Malformed(what.into()))
    }

    /// Something quern does not read.
    pub fn unsupported(file: impl AsRef<Path>, what: impl Into<String>) -> Self {
        Self::new(file, ErrorKind::Unsupported(what.into()))
    }

    /// A request that is refused.
    pub fn refused(file: impl AsRef<Path>, what: impl Into<String>) -> Self {
        Self::new(file, ErrorKind::Refused(what.into()))
    }

    /// The same error, naming the tensor.
    pub fn with_tensor(mut self, tensor: impl Into<String>) -> Self {
        self.tensor = Some(tensor.into());
        self
    }

    /// What mends it.
    pub fn remedy(&self) -> Option<Remedy> {
        self.remedy.as_deref().cloned()
    }

    /// The same error, with what mends it.
    pub fn with_remedy(mut self, remedy: Remedy) -> Self {
        self.remedy = Some(Box::new(remedy));
        self
    }

    /// The same error, naming the byte offset.
    pub fn at(mut self, offset: u64) -> Self {
        self.offset = Some(offset);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(tensor) = &self.tensor {
            write!(f, ": tensor {tensor:?}")?;
        }
        if let Some(offset) = self.offset {
            write!(f, " (at byte {offset})")?;
        }
        write!(f, ": {}", self.kind)
    }
}

impl std::error::Error for Error {
    /// What is behind the kind: the kind itself is in the text already.
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(&self.kind)
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;

    /// Whoever prints an error with its sources must not print the system's words twice.
    #[test]
    fn the_systems_words_are_said_once() {
        let error = Error::new("a.gguf", std::io::Error::from_raw_os_error(2));
        assert!(error.to_string().ends_with("No such file or directory (os error 2)"), "{error}");
        assert!(error.source().is_none());
        let several = Error::new("dir", ErrorKind::SeveralModels(vec!["a".into(), "b".into()]));
        assert_eq!(
            several.to_string(),
            "dir: more than one model in this folder (a, b); give the path of the one you mean"
        );
    }
}
