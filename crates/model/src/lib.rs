//! What a model is: its architecture as data, its configuration, its tensors' names in the Hugging Face
//! and the GGUF world, its tokenizer, its chat template. No arithmetic.
//!
//! ```text
//! Checkpoint (tensor-io) ─┬─> Config      numbers: layers, heads, rope … and the tensors they demand
//!                         ├─> Tokenizer   text <-> ids
//!                         ├─> ChatTemplate   messages -> the text the model was trained on
//!                         └─> View        the checkpoint as the other world would hold it
//! ```
//!
//! [`identify`] opens checkpoints, and names files and folders that are something else.

pub mod architecture;
pub mod architectures;
pub mod chat;
pub mod config;
mod file_type;
pub mod gguf;
pub mod hugging_face;
pub mod identify;
mod json;
pub mod tokenizer;
mod view;

pub use architecture::{Architecture, RopeStyle, TensorRole, World};
pub use chat::{ChatError, ChatPrompt, ChatTemplate, Message};
pub use config::{Config, ExpectedTensor, Experts, Rope, RopeScaling};
pub use file_type::FileType;
pub use gguf::gguf_metadata;
pub use tokenizer::{EncodeOptions, SpecialIds, StreamDecoder, TokenKind, Tokenizer};
pub use view::{Packed, View, ViewTensor, is_redundant};

pub use quern_tensor_io::{Error, Result};
