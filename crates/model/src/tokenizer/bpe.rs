//! Converts words to tokens by a list of merges, as the tokenizers library's BPE model does.
//!
//! Merging is done here, over the one vocabulary that all kinds of tokenizer share: a vocabulary of 150 000 pieces
//! is ready in a tenth of a second, and merges that do not fit the vocabulary, which the library does not check, are
//! found.

use std::sync::Arc;

use super::byte_level::alphabet;
use super::merges::{MergeTable, Merger};
use super::pre_tokenizer::Word;
use super::ranks;
use super::seen::Seen;
use super::vocabulary::{TokenKind, Vocabulary};

/// Longer words are cut: positions are 32-bit.
const MAX_CHARS: usize = 1 << 30;

/// Memory for longer words is given back after each.
const MAX_KEPT: usize = 1 << 16;

/// More merges than this are treated as damage: a vocabulary of 262 144 tokens made from scores has 580 000.
pub(crate) const MAX_MERGES: usize = 1 << 20;

/// What goes with the merges.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct BpeOptions {
    /// Whether a word that is a piece is taken as it is.
    pub ignore_merges: bool,
    /// Whether the list of merges is nothing, and neighbours become the piece of the lowest id (`ranks.rs`). Ordinary
    /// pieces then are in front of all other tokens.
    pub by_rank: bool,
    /// Whether characters that are no piece are spelled in byte tokens.
    pub byte_fallback: bool,
    /// The token for a character without one, if there is such a token.
    pub unknown: Option<u32>,
    /// Whether a run of such characters is one token.
    pub fuse_unknown: bool,
}

/// A BPE model.
#[derive(Clone, Debug)]
pub(crate) struct Bpe {
    table: Arc<MergeTable>,
    options: BpeOptions,
    /// The tokens of the first characters of Unicode, among them the alphabet of bytes.
    characters: Vec<Option<u32>>,
}

/// A merge that the vocabulary does not hold.
#[derive(Debug)]
pub(crate) struct Misfit {
    pub rank: usize,
    pub piece: String,
}

impl Bpe {
    /// Takes `merges` in order of rank; gives also how many do not fit the vocabulary, and the first of these.
    pub fn new<'a>(
        vocabulary: &Vocabulary,
        merges: impl ExactSizeIterator<Item = (&'a str, &'a str)>,
        options: BpeOptions,
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
        (Self::of(vocabulary, table, options), count, first)
    }

    /// Merges by the ids of what is made.
    pub fn by_rank(vocabulary: &Vocabulary, options: BpeOptions) -> Self {
        let ordinary = |&id: &u32| vocabulary.kind(id) == Some(TokenKind::Normal);
        let pieces: Vec<&str> = (0..).take_while(ordinary).filter_map(|id| vocabulary.piece(id)).collect();
        Self::of(vocabulary, ranks::of(&pieces).table, options)
    }

    fn of(vocabulary: &Vocabulary, table: MergeTable, options: BpeOptions) -> Self {
        let character = |code: u32| {
            let c = char::from_u32(code)?;
            vocabulary.find(c.encode_utf8(&mut [0; 4]))
        };
        let characters = (0..alphabet::END as u32).map(character).collect();
        Self { table: Arc::new(table), options, characters }
    }

    /// Encodes the words of a text of so many bytes, one after the other, in one vocabulary.
    pub fn encoder<'a>(&'a self, vocabulary: &'a Vocabulary, bytes: usize) -> Encoder<'a> {
        Encoder {
            bpe: self,
            vocabulary,
            merger: Merger::default(),
            start: Vec::new(),
            spelled: String::new(),
            seen: Seen::for_text(bytes),
        }
    }
}

/// Encodes the words of a text; remembers some of those it has seen.
pub(crate) struct Encoder<'a> {
    bpe: &'a Bpe,
    vocabulary: &'a Vocabulary,
    merger: Merger,
    start: Vec<u32>,
    spelled: String,
    seen: Seen,
}

impl Encoder<'_> {
    /// Whether a word is encoded independently of its surroundings: it may be split where nothing merges.
    pub fn may_cut(&self) -> bool {
        !self.bpe.options.ignore_merges
    }

    /// Appends the tokens of `word`. All calls must have the same `out`, which must not be shortened between them.
    pub fn encode(&mut self, word: Word<'_>, out: &mut Vec<u32>) {
        let (Word::Bytes(text) | Word::Spelled(text)) = word;
        let slot = match self.seen.find(text, matches!(word, Word::Bytes(_))) {
            Ok((from, to)) => return out.extend_from_within(from..to),
            Err(slot) => slot,
        };
        let from = out.len();
        match word {
            Word::Bytes(text) => self.encode_bytes(text, out),
            Word::Spelled(text) => self.encode_spelled(text, out),
        }
        if let Some(slot) = slot {
            self.seen.set(slot, from, out.len());
        }
    }

    /// A word that is a piece, where those are taken as they are.
    fn whole(&self, word: &str) -> Option<u32> {
        let id = self.vocabulary.find(word)?;
        (self.vocabulary.kind(id) != Some(TokenKind::Unused)).then_some(id)
    }

    fn encode_bytes(&mut self, word: &str, out: &mut Vec<u32>) {
        let BpeOptions { ignore_merges, byte_fallback, unknown, .. } = self.bpe.options;
        if byte_fallback {
            return self.encode_spelled(&alphabet::encode(word), out);
        }
        if ignore_merges && word.len() <= self.vocabulary.longest() {
            self.spelled.clear();
            self.spelled.extend(word.bytes().map(alphabet::char_of));
            if let Some(id) = self.whole(&self.spelled) {
                return out.push(id);
            }
        }
        self.start.clear();
        self.start.reserve_exact(word.len());
        let mut after_unknown = false;
        for byte in word.bytes() {
            match self.bpe.characters[alphabet::char_of(byte) as usize] {
                Some(token) => {
                    self.start.push(token);
                    after_unknown = false;
                }
                None if after_unknown && self.bpe.options.fuse_unknown => {}
                None => {
                    self.start.extend(unknown);
                    after_unknown = true;
                }
            }
        }
        self.merge(out);
    }

    fn encode_spelled(&mut self, word: &str, out: &mut Vec<u32>) {
        let BpeOptions { ignore_merges, byte_fallback, unknown, fuse_unknown, .. } = self.bpe.options;
        if ignore_merges && let Some(id) = self.whole(word) {
            return out.push(id);
        }
        self.start.clear();
        if word.len() > MAX_KEPT {
            self.start.reserve_exact(word.chars().count());
        }
        let mut after_unknown = false;
        for c in word.chars() {
            let mut buffer = [0; 4];
            let text = &*c.encode_utf8(&mut buffer);
            let token = match self.bpe.characters.get(c as usize) {
                Some(&token) => token,
                None => self.vocabulary.find(text),
            };
            let bytes = || text.bytes().map(|b| self.vocabulary.byte(b));
            if let Some(token) = token {
                self.start.push(token);
                after_unknown = false;
            } else if byte_fallback && bytes().all(|b| b.is_some()) {
                self.start.extend(bytes().flatten());
                after_unknown = false;
            } else if !(after_unknown && fuse_unknown) {
                self.start.extend(unknown);
                after_unknown = true;
            }
        }
        self.merge(out);
    }

    fn merge(&mut self, out: &mut Vec<u32>) {
        for chunk in self.start.chunks_mut(MAX_CHARS) {
            self.merger.merge(&self.bpe.table, chunk, out);
        }
        if self.start.capacity() > MAX_KEPT {
            self.start = Vec::new();
        }
    }
}
