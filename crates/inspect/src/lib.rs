#![doc = include_str!("../README.md")]
//!
//! # What is where
//!
//! - [`summarize`] and [`metadata`]: from headers and small tensors
//! - [`check`]: every value, every shape
//! - [`fit`]: which scheme and placement of a model fits a machine, how fast and how good it is
//! - [`machine`]: what a machine offers: processor, memory, disks
//! - [`diff`]: two checkpoints, tensor by tensor

mod attention;
mod check;
pub mod diff;
pub mod fit;
mod loose;
pub mod machine;
mod quantization;
mod summary;

pub use attention::{Attention, Rope, Scaling, Window};
pub use check::{CheckReport, Finding, check};
pub use loose::Sizes;
pub use quantization::Quantization;
pub use summary::{MetadataEntry, Summary, TensorSummary, TokenizerSummary, TypeTotal, metadata, summarize};
