//! The GGUF world's view of any checkpoint: what llama.cpp's converter would write for it.

mod card;
mod metadata;
mod name;
mod tokenizer;
mod view;

pub use metadata::gguf_metadata;
pub use tokenizer::tokenizer_metadata;
pub use view::{GgufView, ViewTensor, is_redundant};
