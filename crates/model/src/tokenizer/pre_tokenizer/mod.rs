//! How a byte-level tokenizer splits text into words, which merges never cross.
//!
//! A rule is a list of parts; each splits the pieces that the part before it produced:
//!
//! ```text
//! "I've 12" ──Digits──> "I've " "1" "2" ──Split(GPT-2's regex)──> "I" "'ve" " " "1" "2" ──Bytes──> "I" "'ve" "Ġ" "1" "2"
//! ```
//!
//! `tokenizer.json` lists the parts; a GGUF file holds one name for all of them (`table.rs`). A file's
//! parts are normalized and looked up (`recognize.rs`). Whatever their source, they run over slices of the text
//! (`pipeline.rs`, `normalizer.rs`, `step.rs`) and give the words that the tokenizers library gives.

mod json;
mod normalizer;
#[cfg(test)]
mod oracle;
mod pipeline;
pub(crate) mod recognize;
mod segments;
mod step;
pub(crate) mod table;

use std::borrow::Cow;

pub(crate) use pipeline::{Pipeline, Word};

/// The regex of GPT-2, which the library's `ByteLevel` holds.
pub(crate) const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// What happens to a match of a split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Behavior {
    Removed,
    /// A word of its own.
    Isolated,
    MergedWithPrevious,
    MergedWithNext,
    /// One word with the matches next to it.
    Contiguous,
}

/// What a split looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pattern<'a> {
    Regex(&'a str),
    Text(&'a str),
}

/// One step of cutting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part<'a> {
    Split {
        pattern: Pattern<'a>,
        behavior: Behavior,
        invert: bool,
    },
    /// Numeric characters, apart from others; each on its own with `true`.
    Digits(bool),
    Punctuation(Behavior),
    /// A space in front, unless there is one.
    PrefixSpace,
    /// From text to the alphabet of bytes.
    Bytes,
}

impl<'a> Part<'a> {
    /// A regex whose matches become words of their own.
    pub const fn isolated(regex: &'a str) -> Self {
        Self::Split { pattern: Pattern::Regex(regex), behavior: Behavior::Isolated, invert: false }
    }
}

/// A rule as a name defines it: the parts, and what else the name implies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    pub parts: Cow<'static, [Part<'static>]>,
    /// Whether text is normalized to Unicode's composed form (NFC) first.
    pub nfc: bool,
    /// Whether a word that is a piece is taken as it is, however it would merge.
    pub ignore_merges: bool,
}
