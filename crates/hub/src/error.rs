//! Errors of the Hub and of downloads; each message says what to do.

use std::fmt;
use std::io;
use std::path::Path;
use std::time::Duration;

use quern_tensor_io::Remedy;

/// The result type of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure with its subject.
#[derive(Debug)]
pub struct Error {
    /// The repository, file or address concerned; empty where the kind names it.
    pub subject: String,
    /// What was wrong.
    pub kind: ErrorKind,
    /// What mends it, where a program must put it into words: not part of the text.
    remedy: Option<Remedy>,
    /// How long the server asks to wait.
    pub(crate) wait: Option<Duration>,
    /// The number of further attempts that make sense.
    patience: u32,
}

/// What was wrong. The messages say what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A name, pattern or setting that cannot be used.
    #[error("{0}")]
    Usage(String),
    /// The repository, revision or file does not exist.
    #[error("{0}")]
    NotFound(String),
    /// The Hub requires another token, or refuses access.
    #[error("{0}")]
    Denied(String),
    /// The model's licence must be accepted first.
    #[error("{0}")]
    Gated(String),
    /// No connection, or it failed and could not be restored.
    #[error("{0}")]
    Unreachable(String),
    /// The server answered with an error of its own.
    #[error("{text}")]
    Server {
        /// The HTTP status.
        status: u16,
        /// The request and the answer.
        text: String,
    },
    /// The server's answer is invalid: a wrong length or hash, a name that leads out of the folder.
    #[error("{0}")]
    Untrusted(String),
    /// Not in the cache, and network requests are disabled.
    #[error("{0}")]
    Offline(String),
    /// The repository holds no model, or several and none was named.
    #[error("{0}")]
    Choice(String),
    /// A file operation failed.
    #[error("{0}")]
    Disk(String),
    /// A file that was received is not what it should be, or an output was refused.
    #[error(transparent)]
    File(Box<quern_tensor_io::Error>),
    /// Another file failed: this one was given up.
    #[error("given up")]
    Cancelled,
}

impl Error {
    pub(crate) fn new(subject: impl Into<String>, kind: ErrorKind) -> Self {
        Self { subject: subject.into(), kind, remedy: None, wait: None, patience: Self::RETRIES }
    }

    pub(crate) fn usage(subject: impl Into<String>, what: impl Into<String>) -> Self {
        Self::new(subject, ErrorKind::Usage(what.into()))
    }

    pub(crate) fn untrusted(subject: impl Into<String>, what: impl Into<String>) -> Self {
        Self::new(subject, ErrorKind::Untrusted(what.into()))
    }

    pub(crate) fn unreachable(subject: impl Into<String>, what: impl Into<String>) -> Self {
        Self::new(subject, ErrorKind::Unreachable(what.into()))
    }

    /// The error of a failed file operation; for a full disk, it says that the received part is kept.
    pub(crate) fn disk(path: &Path, e: &io::Error) -> Self {
        let what = match e.kind() {
            io::ErrorKind::StorageFull => {
                "the disk is full; free some space and run the same command again: it resumes where it stopped"
                    .to_owned()
            }
            io::ErrorKind::QuotaExceeded => {
                "the disk quota is used up; free some space and run the same command again: it resumes where it \
                 stopped"
                    .to_owned()
            }
            io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => {
                let error = Self::new(path.display().to_string(), ErrorKind::Disk(e.to_string()));
                return error.with_remedy(Remedy::ChooseFolder);
            }
            _ => e.to_string(),
        };
        Self::new(path.display().to_string(), ErrorKind::Disk(what))
    }

    /// Whether the Hub could not be reached or failed: the cache may be used instead.
    pub fn is_unreachable(&self) -> bool {
        matches!(self.kind, ErrorKind::Unreachable(_) | ErrorKind::Server { .. })
    }

    /// Attempts after the first, where an error may be temporary.
    pub(crate) const RETRIES: u32 = 4;
    /// Attempts after the first, where a server sends too slowly: each takes the time to notice it.
    pub(crate) const RETRIES_IF_SLOW: u32 = 2;
    /// The longest pause a server may request; a longer one is an error.
    pub(crate) const LONGEST_WAIT: Duration = Duration::from_secs(60);

    /// What mends it.
    pub fn remedy(&self) -> Option<Remedy> {
        match &self.kind {
            ErrorKind::File(error) => error.remedy(),
            ErrorKind::Usage(_)
            | ErrorKind::NotFound(_)
            | ErrorKind::Denied(_)
            | ErrorKind::Gated(_)
            | ErrorKind::Unreachable(_)
            | ErrorKind::Server { .. }
            | ErrorKind::Untrusted(_)
            | ErrorKind::Offline(_)
            | ErrorKind::Choice(_)
            | ErrorKind::Disk(_)
            | ErrorKind::Cancelled => self.remedy.clone(),
        }
    }

    /// The same error, with what mends it.
    pub(crate) fn with_remedy(self, remedy: Remedy) -> Self {
        Self { remedy: Some(remedy), ..self }
    }

    /// The same error, with the time that the server asks to wait.
    pub(crate) fn with_wait(self, wait: Option<Duration>) -> Self {
        Self { wait, ..self }
    }

    /// The same error, with at most this many further attempts.
    pub(crate) fn with_patience(self, patience: u32) -> Self {
        Self { patience, ..self }
    }

    /// The number of further attempts for the same request: none, unless the error may be temporary.
    pub(crate) fn retries(&self) -> u32 {
        let passes = match self.kind {
            _ if self.wait.is_some_and(|wait| wait > Self::LONGEST_WAIT) => false,
            ErrorKind::Unreachable(_) => true,
            ErrorKind::Server { status, .. } => matches!(status, 408 | 425 | 429 | 500 | 502 | 503 | 504),
            _ => false,
        };
        if passes { self.patience } else { 0 }
    }
}

impl Error {
    /// The same for a file that comes over several connections: one that worked before is more likely to work again
    /// than one that never did.
    pub(crate) fn retries_of_file(&self) -> u32 {
        match self.retries() {
            1 => Self::RETRIES,
            retries => retries,
        }
    }
}

impl From<quern_tensor_io::Error> for Error {
    fn from(error: quern_tensor_io::Error) -> Self {
        Self::new("", ErrorKind::File(Box::new(error)))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.subject.is_empty() {
            true => write!(f, "{}", self.kind),
            false => write!(f, "{}: {}", self.subject, self.kind),
        }
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_says_what_becomes_of_the_part() {
        let full = io::Error::from(io::ErrorKind::StorageFull);
        let text = Error::disk(Path::new("/cache/blobs/x.incomplete"), &full).to_string();
        assert!(text.starts_with("/cache/blobs/x.incomplete: the disk is full"), "{text}");
        assert!(text.contains("resumes where it stopped"), "{text}");
    }
}
