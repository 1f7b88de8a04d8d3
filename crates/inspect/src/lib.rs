//! What a model file is, and whether it is sound.
//!
//! [`summarize`] reads headers and small tensors only: it answers in milliseconds whatever the file's size. [`check`] reads
//! every value.

mod attention;
mod check;
mod loose;
mod quantization;
mod summary;

pub use attention::{Attention, Rope, Scaling, Window};
pub use check::{Finding, Report, check};
pub use loose::Sizes;
pub use quantization::Quantization;
pub use summary::{MetadataEntry, Summary, TensorSummary, TokenizerSummary, TypeTotal, metadata, summarize};
