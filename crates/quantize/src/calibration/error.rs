//! Errors of calibration samples.

use std::path::PathBuf;

/// Result of reading a source or taking samples.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why there are no samples.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file cannot be read, is no file of text, or is too large.
    #[error("cannot read the calibration text: {0}")]
    Text(
        // No source of its own: the message has it.
        quern_tensor_io::Error,
    ),
    /// The file is no text.
    #[error(
        "{} (at byte {offset}): not UTF-8; calibration reads plain text or JSONL in UTF-8 (convert it with \
         `iconv -t UTF-8`)",
        file.display()
    )]
    NotUtf8 {
        /// The file, or `-`.
        file: PathBuf,
        /// Offset of the first byte that is not UTF-8.
        offset: usize,
    },
    /// The text cannot be converted to tokens.
    #[error(transparent)]
    Tokenizer(#[from] quern_tensor_io::Error),
    /// A line of a JSONL file is not a record.
    #[error("{}, line {line}: {what}", file.display())]
    Record {
        /// The file, or `-`.
        file: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What was wrong, and what a record looks like.
        what: String,
    },
    /// The file has no text.
    #[error("{}: no text in it", file.display())]
    Empty {
        /// The file, or `-`.
        file: PathBuf,
    },
    /// Nothing long enough to learn from.
    #[error(
        "the calibration text is too short: nothing in it is longer than {} tokens ({dropped} shorter records \
         dropped); give a longer text",
        super::SHORTEST
    )]
    TooShort {
        /// Records dropped for their length.
        dropped: usize,
    },
    /// Impossible options.
    #[error("{0}")]
    Options(String),
}
