//! Quantization: bytes against golden files, jobs from checkpoints to files, calibration.
//!
//! One program, so that what is tested is linked once. Tests that count memory, or need a card, are programs of their own.

#![allow(missing_docs)]

#[path = "../common/mod.rs"]
mod common;

mod architectures;
mod bitsandbytes;
mod calibrated_embedding;
mod calibrated_gguf;
mod calibrated_place;
mod calibration;
mod codebooks;
mod end_to_end;
mod golden_bytes;
mod gptq;
mod gptq_job;
mod grids;
mod hostile;
mod imatrix;
mod recipe;
mod rounded;
