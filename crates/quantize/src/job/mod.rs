//! The quantization job: a checkpoint in any container goes in, a GGUF file comes out.
//!
//! ```text
//! View ──plan()──> QuantizePlan: one row a tensor (from, to, bytes), warnings          the dry run ends here
//!                    │
//!                  run(): rows are decoded to f32, checked, encoded by all threads, a batch at a time,
//!                         while a writer thread writes the batch before; the file appears when whole
//! ```
//!
//! Models that were trained for `q4_0` or `q4_1`, or quantized before, are recognized by [`Grids::find`]; given in the
//! options, they are encoded without error.
//!
//! Memory does not grow with the model: three batches of output, one row buffer a thread; pages of the
//! source are given back as they are consumed. Every row is encoded alone, so neither threads nor batches
//! change a byte.

mod error;
mod grids;
mod made;
mod metadata;
mod piece;
mod plan;
mod run;
mod validate;

pub use error::Error;
pub use grids::{GridReport, Grids, TensorGrid};
pub(crate) use made::Made;
pub(crate) use piece::{check_finite, check_made, rows_per_matrix};
pub(crate) use plan::matrices;
pub use plan::{Options, QuantizePlan, QuantizeRow, Warning, plan};
pub(crate) use run::run_with;
pub use run::{QuantizeReport, run};
pub use validate::bad_block;
