//! The Hugging Face world's view of a GGUF file: the files of a directory made from its metadata.

mod tokenizer;

pub use tokenizer::tokenizer_files;
