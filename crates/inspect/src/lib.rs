#![doc = include_str!("../README.md")]
//!
//! # What is where
//!
//! - [`summarize`] and [`metadata`]: from headers and small tensors
//! - [`check`]: every value, every shape
//! - [`seeming_grid`]: whether a model was trained for a block type
//! - [`fit`]: which scheme and placement of a model fits a machine, how fast and how good it is
//! - [`machine`]: what a machine offers: processor, memory, disks
//! - [`statistics`]: figures and histograms of all values, input channels that stand out
//! - [`report`]: a page for one model, or for two side by side
//! - [`diff`]: two checkpoints, tensor by tensor
//! - [`words`]: summaries and numbers as people read them

mod attention;
mod check;
pub mod diff;
pub mod fit;
mod grids;
mod loose;
pub mod machine;
mod quantization;
pub mod report;
pub mod statistics;
mod summary;
pub mod words;

pub use attention::{Attention, Rope, Scaling, Window};
pub use check::{CheckReport, Finding, check};
pub use grids::seeming_grid;
pub use loose::Sizes;
pub use quantization::Quantization;
pub use summary::{MetadataEntry, Summary, TensorSummary, TokenizerSummary, TypeTotal, metadata, summarize};
