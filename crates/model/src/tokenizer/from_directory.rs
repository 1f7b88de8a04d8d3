//! The tokenizer files of a Hugging Face directory.
use std::path::Path;

use quern_tensor_io::Result;

use super::Tokenizer;

/// What the files of a directory say.
pub(crate) struct Source;
impl Source {
    pub fn read(_directory: &Path, _vocab_size: Option<usize>) -> Result<Self> {
        todo!()
    }
    pub fn into_tokenizer(self) -> Result<Tokenizer> {
        todo!()
    }
}
