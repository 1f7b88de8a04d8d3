//! Configurations, tokenizers, templates and names of tensors, against what others read and write.
//!
//! One program, so that what is tested is linked once. Tests that count memory, or need a card, are programs of their own.

#![allow(missing_docs)]

#[path = "../common/mod.rs"]
mod common;

mod architectures;
mod chat;
mod config;
mod config_gguf;
mod config_golden;
mod directory;
mod gguf;
mod identify;
mod mixtures;
mod sparse;
mod special_ids;
mod tokenizer;
mod tokenizer_architectures;
mod tokenizer_byte_level;
mod tokenizer_hostile;
mod tokenizer_tiktoken;
