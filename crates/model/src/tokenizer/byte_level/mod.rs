//! Byte-level BPE, as GPT-2, Llama 3, Qwen and many others use it.
//!
//! ```text
//! text ──normalizer──> ──pre-tokenizer──> words in the alphabet of bytes ──merges──> ids
//! ```
//! Normalizing and cutting are in `pre_tokenizer/`, merging in `bpe.rs`.

pub(crate) mod alphabet;

use std::sync::Arc;

use super::bpe::{Bpe, Encoder};
use super::pre_tokenizer::Pipeline;
use super::vocabulary::Vocabulary;
use crate::pattern::PatternError;

/// What byte-level BPE needs beside the vocabulary.
#[derive(Clone, Debug)]
pub(crate) struct ByteLevel {
    /// Shared: its expressions are large.
    pipeline: Arc<Pipeline>,
    bpe: Bpe,
}

impl ByteLevel {
    pub fn new(pipeline: Arc<Pipeline>, bpe: Bpe) -> Self {
        Self { pipeline, bpe }
    }

    /// Encodes the parts of a text of so many bytes.
    pub fn encoder<'a>(&'a self, vocabulary: &'a Vocabulary, bytes: usize) -> Encoder<'a> {
        self.bpe.encoder(vocabulary, bytes)
    }

    /// Appends the tokens of `text`.
    ///
    /// # Errors
    /// The rules make far more of the text, or take far longer, than those of any known tokenizer.
    pub fn encode(
        &self,
        encoder: &mut Encoder<'_>,
        text: &str,
        out: &mut Vec<u32>,
    ) -> Result<(), PatternError> {
        self.pipeline.words(text, |word| encoder.encode(word, out))
    }
}
