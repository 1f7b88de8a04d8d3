//! SentencePiece BPE.
//!
//! The text starts as one symbol per character. Of all neighbours whose concatenation is a piece, the pair
//! with the highest score is merged, the leftmost of equals, until none is left; symbols that are no piece
//! are spelled in bytes. A heap holds the candidates; one whose symbols have changed since is outdated and
//! skipped, so the total time is O(n log n).
//!
//! No merge can cross a place where no piece would fit, so the text is first cut there: before each space
//! (U+2581) whose left neighbour precedes a space in no piece. The parts are words; the tokens of words that
//! occurred before are copied. The result is the same as for the whole text at once.
//!
//! A `tokenizer.json` lists merges instead of scores. Made from scores it gives the same tokens; trained by the
//! tokenizers library it need not, so there the list is followed (`bpe.rs`).

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};

use super::bpe::Bpe;
use super::vocabulary::{SPACE, Vocabulary};

const NONE: u32 = u32::MAX;

/// Offsets are 32-bit; a word longer than this is cut between characters.
const MAX_BYTES: usize = 1 << 30;

/// Appends the tokens of `text`, in which spaces are already U+2581.
pub(crate) fn encode(vocabulary: &Vocabulary, text: &str, out: &mut Vec<u32>) {
    let mut merger = Merger::default();
    let mut seen: HashMap<&str, (usize, usize)> = HashMap::new();
    for word in (Words { vocabulary, rest: text }) {
        if let Some(&(start, end)) = seen.get(word) {
            out.extend_from_within(start..end);
            continue;
        }
        let start = out.len();
        merger.encode(vocabulary, word, out);
        // Long runs rarely occur again.
        if word.len() <= 64 {
            seen.insert(word, (start, out.len()));
        }
    }
}

/// Appends the tokens of `text` as a list of merges makes them instead of scores.
pub(crate) fn encode_by_merges(vocabulary: &Vocabulary, bpe: &Bpe, text: &str, out: &mut Vec<u32>) {
    let mut encoder = bpe.encoder(vocabulary);
    match bpe.may_cut() {
        true => Words { vocabulary, rest: text }.for_each(|word| encoder.encode(word, out)),
        false => encoder.encode(text, out),
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

/// A run of text, linked to its neighbours; length 0 once merged into its left one.
struct Symbol {
    start: u32,
    len: u32,
    previous: u32,
    next: u32,
}

/// Two neighbours that may be merged.
struct Candidate {
    score: f32,
    left: u32,
    right: u32,
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

/// Merges one word at a time; keeps its memory between words.
#[derive(Default)]
struct Merger {
    symbols: Vec<Symbol>,
    heap: BinaryHeap<Candidate>,
}

impl Merger {
    fn encode(&mut self, vocabulary: &Vocabulary, text: &str, out: &mut Vec<u32>) {
        self.symbols.clear();
        for (at, (start, c)) in text.char_indices().enumerate() {
            let (at, start, len) = (at as u32, start as u32, c.len_utf8() as u32);
            self.symbols.push(Symbol { start, len, previous: at.wrapping_sub(1), next: at + 1 });
        }
        if let Some(last) = self.symbols.last_mut() {
            last.next = NONE;
        }
        self.merge(vocabulary, text);
        self.emit(vocabulary, text, out);
    }

    fn merge(&mut self, vocabulary: &Vocabulary, text: &str) {
        let mut candidates = std::mem::take(&mut self.heap).into_vec();
        let pairs = 1..self.symbols.len() as u32;
        candidates.extend(pairs.filter_map(|right| self.candidate(vocabulary, text, right - 1, right)));
        self.heap = candidates.into();
        while let Some(best) = self.heap.pop() {
            let (left, right) = (best.left as usize, best.right as usize);
            let (left_len, right_len) = (self.symbols[left].len, self.symbols[right].len);
            if left_len == 0 || right_len == 0 || left_len + right_len != best.len {
                continue;
            }
            let next = self.symbols[right].next;
            self.symbols[left].len = best.len;
            self.symbols[left].next = next;
            self.symbols[right].len = 0;
            if next != NONE {
                self.symbols[next as usize].previous = best.left;
                let candidate = self.candidate(vocabulary, text, best.left, next);
                self.heap.extend(candidate);
            }
            let previous = self.symbols[left].previous;
            if previous != NONE {
                let candidate = self.candidate(vocabulary, text, previous, best.left);
                self.heap.extend(candidate);
            }
        }
    }

    fn candidate(&self, vocabulary: &Vocabulary, text: &str, left: u32, right: u32) -> Option<Candidate> {
        let (l, r) = (&self.symbols[left as usize], &self.symbols[right as usize]);
        let len = l.len + r.len;
        let (_, score) = vocabulary.merged(&text[l.start as usize..(l.start + len) as usize])?;
        // Adding zero makes -0 and 0 equal, as they are for the leftmost rule.
        Some(Candidate { score: score + 0.0, left, right, len })
    }

    /// Looks up what is left; what is no piece becomes bytes, or one unknown token for a whole run.
    fn emit(&self, vocabulary: &Vocabulary, text: &str, out: &mut Vec<u32>) {
        let mut after_unknown = false;
        for symbol in self.symbols.iter().filter(|s| s.len > 0) {
            let text = &text[symbol.start as usize..(symbol.start + symbol.len) as usize];
            if let Some((id, _)) = vocabulary.merged(text) {
                out.push(id);
                after_unknown = false;
            } else if text.bytes().all(|b| vocabulary.byte(b).is_some()) {
                out.extend(text.bytes().filter_map(|b| vocabulary.byte(b)));
                after_unknown = false;
            } else if !after_unknown {
                out.extend(vocabulary.unknown());
                after_unknown = true;
            }
        }
    }
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
            encode(&vocabulary, &text, &mut out);
            prop_assert_eq!(out, specification(&vocabulary, &text));
        }
    }
}
