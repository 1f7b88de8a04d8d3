#![doc = include_str!("../README.md")]
//!
//! # What is where
//!
//! - [`job`] plans and runs a quantization to GGUF; [`recipe`] decides the type of each tensor, [`encode`] has the
//!   encoders
//! - [`calibrated`] quantizes a whole model under calibration, to GPTQ or to GGUF; [`gptq`] solves single linear layers
//! - [`bitsandbytes`] quantizes to NF4, FP4 and int8, [`rounded`] to FP8 and the integers of compressed-tensors
//! - [`imatrix`] measures, reads and writes importance matrices
//! - [`calibration`] chooses the token sequences that a model is run on for GPTQ and importance matrices
//! - [`load_in`] quantizes a model while it is loaded for running

pub mod auto;
pub mod bitsandbytes;
pub mod calibrated;
pub mod calibration;
pub mod encode;
mod finite;
pub mod gptq;
pub mod imatrix;
pub mod job;
mod linears;
pub mod load_in;
mod plain_source;
pub mod recipe;
pub mod rounded;
