//! Conversions between Hugging Face and GGUF, both ways.
//!
//! One program, so that what is tested is linked once. Tests that count memory, or need a card, are programs of their own.

#![allow(missing_docs)]

mod common;

mod architectures;
mod gguf;
mod gpt_oss;
mod packed;
mod refusals;
mod verification;
