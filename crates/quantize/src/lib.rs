//! Encoders, recipes and the streaming quantizer: a checkpoint goes in, a quantized GGUF comes out.
//!
//! - [`recipe`] decides which tensor gets which element type,
//! - [`imatrix`] reads what calibration measured,
//! - [`job`] plans and runs a whole quantization.

pub mod encode;
pub mod imatrix;
pub mod job;
pub mod recipe;
