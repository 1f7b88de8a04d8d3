//! The GGUF metadata and tensor types of any checkpoint: what llama.cpp's converter would write for it.

mod card;
mod limits;
mod matrices;
mod metadata;
mod mixture;
mod name;
mod tokenizer;

pub use matrices::{is_quantizable, is_stored_as_matrix};
pub use metadata::gguf_metadata;
pub(crate) use metadata::{metadata_of, own_metadata, sizes};
pub use tokenizer::tokenizer_metadata;
