//! What a model file is, and whether it is sound.
//!
//! [`summarize`] reads headers and small tensors only: it answers in milliseconds whatever the file's size. [`check`] reads
//! every value.

mod check;
mod loose;
mod quantization;
mod summary;

pub use check::{CheckReport, Finding, check};
pub use loose::Sizes;
pub use quantization::Quantization;
pub use summary::{MetadataEntry, Summary, TensorSummary, TokenizerSummary, TypeTotal, metadata, summarize};
