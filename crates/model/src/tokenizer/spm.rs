//! SentencePiece BPE.
//!
//! The text starts as one symbol per character. Of all neighbours whose concatenation is a piece, the pair
//! with the highest score is merged, the leftmost of equals, until none is left; symbols that are no piece
//! are spelled in bytes. A heap holds the candidates; one whose symbols have changed since is outdated and
//! skipped, so the total time is O(n log n). Symbols are one bit for each byte of the text, set where one starts, and a
//! candidate takes 12 bytes.
//!
//! No merge can cross a place where no piece would fit, so the text is first cut there: before each space
//! (U+2581) whose left neighbour precedes a space in no piece. The parts are words; the tokens of words that
//! occurred before are copied. The result is the same as for the whole text at once.
//!
//! A `tokenizer.json` lists merges instead of scores. Made from scores it gives the same tokens; trained by the
//! tokenizers library it need not, so there the list is followed (`bpe.rs`).

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use super::bits::Bits;
use super::bpe;
use super::pre_tokenizer::Word;
use super::seen::Seen;
use super::vocabulary::{SPACE, Vocabulary};

/// Offsets are 32-bit; a word longer than this is cut between characters.
const MAX_BYTES: usize = 1 << 30;

/// Encodes the words of a text; remembers some of those it has seen.
pub(crate) struct Encoder<'a> {
    vocabulary: &'a Vocabulary,
    merger: Merger,
    seen: Seen,
}

impl<'a> Encoder<'a> {
    /// An encoder for a text of so many bytes.
    pub fn new(vocabulary: &'a Vocabulary, bytes: usize) -> Self {
        Self { vocabulary, merger: Merger::default(), seen: Seen::for_text(bytes) }
    }

    /// Appends the tokens of `text`, in which spaces are already U+2581. All calls must have the same `out`, which must not
    /// be shortened between them.
    pub fn encode(&mut self, text: &str, out: &mut Vec<u32>) {
        for word in (Words { vocabulary: self.vocabulary, rest: text }) {
            let slot = match self.seen.find(word, false) {
                Ok((from, to)) => {
                    out.extend_from_within(from..to);
                    continue;
                }
                Err(slot) => slot,
            };
            let from = out.len();
            self.merger.encode(self.vocabulary, word, out);
            if let Some(slot) = slot {
                self.seen.set(slot, from, out.len());
            }
        }
    }
}

/// Appends the tokens of `text` as a list of merges makes them instead of scores.
pub(crate) fn encode_by_merges(
    vocabulary: &Vocabulary,
    encoder: &mut bpe::Encoder<'_>,
    text: &str,
    out: &mut Vec<u32>,
) {
    match encoder.may_cut() {
        true => Words { vocabulary, rest: text }.for_each(|word| encoder.encode(Word::Spelled(word), out)),
        false => encoder.encode(Word::Spelled(text), out),
    }
}

/// The text, split where no merge can cross.
struct Words<'a> {
    vocabulary: &'a Vocabulary,
    rest: &'a str,
}

impl<'a> Iterator for Words<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        if self.rest.is_empty() {
            return None;
        }
        let can_cut = |&(at, _): &(usize, &str)| {
            let before = self.rest[..at].chars().next_back();
            before.is_some_and(|c| !self.vocabulary.joins_space(c))
        };
        let cut = self.rest.match_indices(SPACE).find(can_cut).map_or(self.rest.len(), |(at, _)| at);
        let boundary = |at: &usize| self.rest.is_char_boundary(*at);
        let cut = if cut > MAX_BYTES { (1..=MAX_BYTES).rev().find(boundary).unwrap_or(cut) } else { cut };
        let (word, rest) = self.rest.split_at(cut);
        self.rest = rest;
        Some(word)
    }
}

/// Two neighbours that may be merged: where the left one starts, and the length of both.
struct Candidate {
    score: f32,
    left: u32,
    len: u32,
}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then(other.left.cmp(&self.left))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Candidate {}

/// Memory for longer words is given back after each.
const MAX_KEPT: usize = 1 << 16;

/// Merges one word at a time; keeps its memory between words.
#[derive(Default)]
struct Merger {
    /// One bit for each byte, and one for the end of the word.
    starts: Bits,
    heap: BinaryHeap<Candidate>,
}

impl Merger {
    fn encode(&mut self, vocabulary: &Vocabulary, text: &str, out: &mut Vec<u32>) {
        self.starts.clear(text.len() + 1);
        text.char_indices().for_each(|(at, _)| self.starts.set(at));
        self.starts.set(text.len());
        self.merge(vocabulary, text);
        if text.len() > MAX_KEPT {
            self.heap = BinaryHeap::new();
        }
        self.emit(vocabulary, text, out);
        if text.len() > MAX_KEPT {
            self.starts = Bits::default();
        }
    }

    fn merge(&mut self, vocabulary: &Vocabulary, text: &str) {
        let starts = &self.starts;
        let all = || {
            let pairs = text.char_indices().zip(text.char_indices().skip(1));
            pairs.filter_map(|((left, _), (right, _))| candidate(starts, vocabulary, text, left, right))
        };
        let mut candidates = std::mem::take(&mut self.heap).into_vec();
        candidates.clear();
        // Counted first where a guess would take much memory.
        candidates.reserve_exact(if text.len() > MAX_KEPT { all().count() } else { text.len() });
        candidates.extend(all());
        self.heap = candidates.into();
        while let Some(best) = self.heap.pop() {
            let Some((left, right)) = outstanding(&self.starts, &best) else { continue };
            self.starts.unset(right);
            if let Some(next) = self.starts.after(left).filter(|&next| next < text.len()) {
                self.push(vocabulary, text, left, next);
            }
            if let Some(previous) = self.starts.before(left) {
                self.push(vocabulary, text, previous, left);
            }
        }
    }

    /// Makes two neighbours a candidate, if they may be merged.
    fn push(&mut self, vocabulary: &Vocabulary, text: &str, left: usize, right: usize) {
        let Some(candidate) = candidate(&self.starts, vocabulary, text, left, right) else { return };
        if self.heap.len() == self.heap.capacity() {
            let starts = &self.starts;
            self.heap.retain(|candidate| outstanding(starts, candidate).is_some());
            if self.heap.len() > self.heap.capacity() / 2 {
                // There are no more of them than characters.
                let room = text.len().saturating_sub(self.heap.len());
                self.heap.reserve_exact(self.heap.len().min(room) + 1);
            }
        }
        self.heap.push(candidate);
    }

    /// Looks up what is left; what is no piece becomes bytes, or one unknown token for a whole run.
    fn emit(&self, vocabulary: &Vocabulary, text: &str, out: &mut Vec<u32>) {
        let (mut after_unknown, mut at) = (false, 0);
        while at < text.len() {
            let end = self.starts.after(at).unwrap_or(text.len());
            let symbol = &text[at..end];
            at = end;
            if let Some((id, _)) = vocabulary.merged(symbol) {
                out.push(id);
                after_unknown = false;
            } else if symbol.bytes().all(|b| vocabulary.byte(b).is_some()) {
                out.extend(symbol.bytes().filter_map(|b| vocabulary.byte(b)));
                after_unknown = false;
            } else if !after_unknown {
                out.extend(vocabulary.unknown());
                after_unknown = true;
            }
        }
    }
}

/// The symbols at `left` and `right` as a candidate, if together they are a piece.
fn candidate(
    starts: &Bits,
    vocabulary: &Vocabulary,
    text: &str,
    left: usize,
    right: usize,
) -> Option<Candidate> {
    let end = starts.after(right)?;
    let (_, score) = vocabulary.merged(&text[left..end])?;
    // Adding zero makes -0 and 0 equal, as they are for the leftmost rule.
    Some(Candidate { score: score + 0.0, left: left as u32, len: (end - left) as u32 })
}

/// Where the two symbols of a candidate start; `None` if one of them has been merged since.
fn outstanding(starts: &Bits, candidate: &Candidate) -> Option<(usize, usize)> {
    let left = candidate.left as usize;
    let right = starts.is_set(left).then(|| starts.after(left)).flatten()?;
    let end = starts.after(right)?;
    (end == left + candidate.len as usize).then_some((left, right))
}

#[cfg(test)]
mod tests {
    use super::super::vocabulary::TokenKind;
    use super::*;
    use proptest::prelude::*;

    /// The rule as it is written: of all neighbours that make a piece merge the best, leftmost first.
    fn specification(vocabulary: &Vocabulary, text: &str) -> Vec<u32> {
        let mut symbols: Vec<String> = text.chars().map(String::from).collect();
        loop {
            let pair = |i: usize| vocabulary.merged(&format!("{}{}", symbols[i], symbols[i + 1]));
            let pairs = (0..symbols.len().saturating_sub(1)).filter_map(|i| Some((pair(i)?.1, i)));
            let Some((_, i)) = pairs.reduce(|a, b| if b.0 > a.0 { b } else { a }) else { break };
            let right = symbols.remove(i + 1);
            symbols[i].push_str(&right);
        }
        let mut out: Vec<u32> = Vec::new();
        let mut unknown = false;
        for symbol in symbols {
            match vocabulary.merged(&symbol) {
                Some((id, _)) => out.push(id),
                None if !unknown => out.push(0),
                None => {}
            }
            unknown = vocabulary.merged(&symbol).is_none();
        }
        out
    }

    proptest! {
        /// Small alphabets, so that pieces overlap, scores tie, and spaces are anywhere in pieces.
        #[test]
        fn words_and_heap_change_nothing(
            pieces in proptest::collection::btree_map("[ab▁]{1,4}", -3i8..3, 1..25),
            text in "[abc▁]{0,40}",
        ) {
            let mut all: Vec<(&str, f32)> = vec![("<unk>", 0.0)];
            all.extend(pieces.iter().map(|(piece, &score)| (piece.as_str(), f32::from(score))));
            let mut kinds = vec![TokenKind::Normal; all.len()];
            kinds[0] = TokenKind::Unknown;
            let scores = all.iter().map(|p| p.1).collect();
            let vocabulary = Vocabulary::new(all.iter().map(|p| p.0).collect(), scores, kinds, Some(0));
            let mut out = Vec::new();
            Encoder::new(&vocabulary, text.len()).encode(&text, &mut out);
            prop_assert_eq!(out, specification(&vocabulary, &text));
        }
    }
}
