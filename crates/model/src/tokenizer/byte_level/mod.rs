//! Byte-level BPE, as GPT-2, Llama 3, Qwen and many others use it.
//!
//! ```text
//! text ──normalizer──> ──pre-tokenizer──> words in the alphabet of bytes ──merges──> ids
//! ```
//! Normalizer and pre-tokenizer are the tokenizers library's (`pre_tokenizer/`), merging is our own (`bpe.rs`).

pub(crate) mod alphabet;

use std::sync::Arc;

use super::bpe::Bpe;
use super::pre_tokenizer::Pipeline;
use super::vocabulary::Vocabulary;

/// What byte-level BPE needs beside the vocabulary.
#[derive(Clone, Debug)]
pub(crate) struct ByteLevel {
    /// Shared, because cloning it compiles its regexes again.
    pipeline: Arc<Pipeline>,
    bpe: Bpe,
}

impl ByteLevel {
    pub fn new(pipeline: Arc<Pipeline>, bpe: Bpe) -> Self {
        Self { pipeline, bpe }
    }

    /// Appends the tokens of `text`.
    pub fn encode(&self, vocabulary: &Vocabulary, text: &str, out: &mut Vec<u32>) {
        let mut encoder = self.bpe.encoder(vocabulary);
        self.pipeline.words(text, |word| encoder.encode(word, out));
    }
}
