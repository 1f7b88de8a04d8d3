//! Encoders, recipes and the streaming quantizer: a checkpoint goes in, a quantized GGUF comes out.
//!
//! - [`calibration`] chooses the tokens a model is run on to learn what its layers see,
//! - [`recipe`] decides which tensor gets which element type,
//! - [`imatrix`] measures which inputs matter, writes and reads that,
//! - [`job`] plans and runs a whole quantization.
//! - [`gptq`] solves layers for GPTQ.

//! - [`bitsandbytes`] quantizes to NF4, FP4 and int8.

pub mod bitsandbytes;
pub mod calibration;
pub mod encode;
pub mod gptq;
pub mod imatrix;
pub mod job;
pub mod load_in;
pub mod recipe;
