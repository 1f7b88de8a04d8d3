//! The GGUF container.

mod writer;

pub use writer::{TensorPlan, Writer};
