//! Container to container, scheme to scheme: planned, streamed, verified.
//!
//! ```text
//! Checkpoint ──plan()──> ConvertPlan: one row a tensor (from, to, exact or lossy, size)       the dry run ends here
//!                          │
//!                        run(): rows are copied, cast or unpacked by all threads, a batch at a time, while a
//!                          │    writer thread writes the batch before; the output appears when it is whole
//!                          │
//!                        verify(): the output is opened, seen from the source's world and compared with it
//! ```
//!
//! A conversion changes the container, never the numbers, unless an element type is asked for. From Hugging Face
//! to GGUF, vectors and the few small matrices that llama.cpp wants so become f32, which holds them exactly; on
//! the way back they get the matrices' type again where that holds them exactly.
//!
//! - [`plan()`] decides, from names, shapes and headers,
//! - [`run()`] writes,
//! - [`verify()`] reads again what was written,
//! - [`Edit`] changes metadata of a GGUF file on the way,
//! - [`PlainSource`] writes a model as plain numbers for a job that needs them so.

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
pub use plain_source::{PlainSource, needs_plain_source};
pub use plan::{ConvertPlan, ConvertRow, Fidelity, plan};
pub use run::{ConvertReport, run};
pub use verify::{Mismatch, Verification, verify};

pub use quern_tensor_io::{Error, Result};
