#![doc = include_str!("../README.md")]
//!
//! # What is where
//!
//! ```text
//! Checkpoint (tensor-io) ─┬─> Config        numbers: layers, heads, rope … and the tensors they demand
//!                         ├─> Tokenizer     text <-> ids
//!                         ├─> ChatTemplate  messages -> the text the model was trained on
//!                         └─> View          the tensors under the names and layouts of Hugging Face or of GGUF
//! ```
//!
//! [`architectures`] holds one description per family, [`architecture`] the types they are written in.
//! [`identify`] opens checkpoints, and names files and folders that are something else. [`Contents`] matches what a
//! checkpoint holds with what its configuration demands. [`provenance`] says how a model was made, [`card`] writes that
//! for people. [`pattern`] compiles regular expressions, with bounds.

pub mod architecture;
pub mod architectures;
pub mod card;
pub mod chat;
pub mod config;
pub mod contents;
mod file_type;
pub mod gguf;
pub mod hugging_face;
pub mod identify;
mod json;
pub mod pattern;
pub mod provenance;
pub mod tokenizer;
mod view;

pub use architecture::{Architecture, Convention, RopeStyle, TensorRole};
pub use chat::{ChatError, ChatPrompt, ChatTemplate, Message};
pub use config::{
    Config, DeltaNet, ExpectedTensor, ExpertGroups, Experts, Latent, Mamba2, Multipliers, QueryGrowth, Rope,
    RopeScaling, ShortConv, StateMixer, States,
};
pub use contents::Contents;
pub use file_type::FileType;
pub use gguf::gguf_metadata;
pub use tokenizer::{EncodeOptions, SpecialIds, StreamDecoder, TokenKind, Tokenizer};
pub use view::{Packed, Pair, SideBySide, View, ViewTensor};

pub use quern_tensor_io::{Error, Result};
