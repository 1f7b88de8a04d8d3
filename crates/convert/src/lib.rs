#![doc = include_str!("../README.md")]
//!
//! # How a conversion goes
//!
//! ```text
//! Checkpoint ──plan()──> ConvertPlan: one row per tensor (from, to, exact or lossy, size)   a dry run ends here
//!                          │
//!                        run(): rows are copied, cast or unpacked by all threads, a batch at a time, while a
//!                          │    writer thread writes the batch before; the output appears when it is complete
//!                          │
//!                        verify(): the output is opened, read under the source's names and compared with it
//! ```
//!
//! From Hugging Face to GGUF, vectors and the few small matrices that llama.cpp wants in f32 become f32, which holds
//! them exactly. In the other direction they get the type of the matrices again where that holds them exactly.
//!
//! - [`plan()`] decides, from names, shapes and headers,
//! - [`run()`] writes,
//! - [`verify()`] reads again what was written,
//! - [`Edit`] changes metadata of a GGUF file during a conversion,
//! - [`PlainSource`] writes a model as plain numbers for a job that needs them so.
//!   [`PlainOutline`] is the same without the numbers, for a plan.

mod cast;
mod edit;
mod options;
mod piece;
mod plain_source;
mod plan;
mod run;
mod sink;
mod verify;

pub use edit::Edit;
pub use options::{Options, Target};
pub use plain_source::{PlainOutline, PlainSource, needs_plain_source};
pub use plan::{ConvertPlan, ConvertRow, Fidelity, plan};
pub use run::{ConvertReport, run};
pub use verify::{Mismatch, Verification, verify};

pub use quern_tensor_io::{Error, Result};
