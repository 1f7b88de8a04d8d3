//! Byte-level BPE, as GPT-2, Llama 3, Qwen and many others use it.
//!
//! ```text
//! text ──normalizer──> ──pre-tokenizer──> words in the alphabet of bytes ──merges──> ids
//! ```
//! Normalizer and pre-tokenizer are the tokenizers library's; merging is done here, over the one vocabulary that
//! all kinds of tokenizer share: a vocabulary of 150 000 pieces is ready in a tenth of a second, and merges that
//! do not fit the vocabulary, which the library trusts, are found.

pub(crate) mod alphabet;
pub(crate) mod merges;

use std::collections::HashMap;
use std::sync::Arc;

use merges::{MergeTable, Merger};

use super::pre_tokenizer::Pipeline;
use super::vocabulary::{TokenKind, Vocabulary};

/// Longer words are cut: positions are 32-bit.
const MAX_CHARS: usize = 1 << 30;

/// Hardly a longer word comes twice in a text.
const MAX_SEEN: usize = 64;

/// What merging needs beside the vocabulary.
#[derive(Clone, Debug)]
pub(crate) struct ByteLevel {
    /// Shared, because cloning it compiles its regexes again.
    pipeline: Arc<Pipeline>,
    merges: Arc<MergeTable>,
    /// Whether a word that is a piece is taken as it is.
    ignore_merges: bool,
    /// The tokens of the alphabet's characters.
    characters: Vec<Option<u32>>,
    /// What stands for a character without a token; most files have all 256.
    unknown: Option<u32>,
}

/// A merge that the vocabulary does not hold.
pub(crate) struct Misfit {
    pub rank: usize,
    pub piece: String,
}

impl ByteLevel {
    /// Takes `merges` in order of rank; gives also how many do not fit the vocabulary, and the first of these.
    pub fn new<'a>(
        vocabulary: &Vocabulary,
        pipeline: Pipeline,
        merges: impl ExactSizeIterator<Item = (&'a str, &'a str)>,
        ignore_merges: bool,
        unknown: Option<u32>,
    ) -> (Self, usize, Option<Misfit>) {
        let mut table = MergeTable::with_capacity(merges.len());
        let (mut count, mut first, mut whole) = (0, None, String::new());
        for (rank, (left, right)) in merges.enumerate() {
            whole.clear();
            whole.push_str(left);
            whole.push_str(right);
            let ids = [left, right, &whole].map(|piece| vocabulary.find(piece));
            match ids {
                [Some(left), Some(right), Some(whole)] => table.insert(rank as u32, left, right, whole),
                _ => {
                    count += 1;
                    let piece = [left, right, &whole].into_iter().zip(ids).find(|(_, id)| id.is_none());
                    let piece = piece.map_or(left, |(piece, _)| piece).chars().take(60).collect();
                    first.get_or_insert(Misfit { rank, piece });
                }
            }
        }
        let character = |code: u32| {
            let c = char::from_u32(code)?;
            vocabulary.find(c.encode_utf8(&mut [0; 4]))
        };
        let characters = (0..alphabet::END as u32).map(character).collect();
        let engine = Self {
            pipeline: Arc::new(pipeline),
            merges: Arc::new(table),
            ignore_merges,
            characters,
            unknown,
        };
        (engine, count, first)
    }

    /// Appends the tokens of `text`.
    pub fn encode(&self, vocabulary: &Vocabulary, text: &str, out: &mut Vec<u32>) {
        let mut merger = Merger::default();
        let mut start = Vec::new();
        let mut seen: HashMap<String, (usize, usize)> = HashMap::new();
        self.pipeline.words(text, |word| {
            if let Some(&(from, to)) = seen.get(word) {
                return out.extend_from_within(from..to);
            }
            let from = out.len();
            self.encode_word(vocabulary, word, &mut merger, &mut start, out);
            if word.len() <= MAX_SEEN {
                seen.insert(word.to_owned(), (from, out.len()));
            }
        });
    }

    fn encode_word(
        &self,
        vocabulary: &Vocabulary,
        word: &str,
        merger: &mut Merger,
        start: &mut Vec<u32>,
        out: &mut Vec<u32>,
    ) {
        if self.ignore_merges
            && let Some(id) = vocabulary.find(word)
            && vocabulary.kind(id) != Some(TokenKind::Unused)
        {
            return out.push(id);
        }
        start.clear();
        for c in word.chars() {
            let token = match self.characters.get(c as usize) {
                Some(&token) => token,
                None => vocabulary.find(c.encode_utf8(&mut [0; 4])),
            };
            start.extend(token.or(self.unknown));
        }
        for chunk in start.chunks(MAX_CHARS) {
            merger.merge(&self.merges, chunk, out);
        }
    }
}
