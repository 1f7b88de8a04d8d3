//! The one place that compiles regular expressions: those of users and recipes over names ([`NamePattern`]), and those
//! of `tokenizer.json` over text (`TextPattern`).
//!
//! An expression of a few bytes can ask for gigabytes (`((a{1000}){1000}){1000}`), for a stack of any depth, or for
//! hours in a search. Every expression is therefore measured before it is compiled, compiled with a bound on its size,
//! and searched for with a bound on what the search may take. What goes beyond is an error that says so.
//!
//! ```text
//! expression ──lengths, groups, nesting (`measure.rs`)──> compiled, at most 1 MiB ──> searches, counted and timed
//! ```

mod clock;
mod measure;
mod names;
mod text;

pub(crate) use clock::Clock;
pub use names::{MOST_PATTERNS, NamePattern};
pub(crate) use text::TextPattern;

/// Why an expression is refused: half a sentence that continues the name of its place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PatternError(String);

impl PatternError {
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Self(what.into())
    }
}

/// An expression as errors show it: not at length, whoever wrote it.
pub fn shown(pattern: &str) -> String {
    const SHOWN: usize = 60;
    match pattern.char_indices().nth(SHOWN) {
        None => format!("{pattern:?}"),
        Some((end, _)) => format!("{:?}", format!("{}…", &pattern[..end])),
    }
}
