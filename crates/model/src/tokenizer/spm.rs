//! SentencePiece BPE.
//!
//! The text starts as one symbol per character. Of all neighbours whose concatenation is a piece, the pair
//! with the highest score is merged, the leftmost of equals, until none is left; symbols that are no piece
//! are spelled in bytes. A heap holds the candidates; one whose symbols have changed since is stale and
//! skipped when it comes up, so the whole takes O(n log n).

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use super::vocabulary::Vocabulary;

const NONE: u32 = u32::MAX;

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

/// Appends the tokens of `text`, in which spaces are already U+2581.
pub(crate) fn encode(vocabulary: &Vocabulary, text: &str, out: &mut Vec<u32>) {
    // Offsets are 32-bit. Nothing near that size is one text; if it is, it is cut between characters.
    let mut rest = text;
    while rest.len() > MAX_BYTES {
        let cut = rest.floor_char_boundary(MAX_BYTES);
        Merger::new(vocabulary, &rest[..cut]).run(out);
        rest = &rest[cut..];
    }
    Merger::new(vocabulary, rest).run(out);
}

const MAX_BYTES: usize = 1 << 30;

struct Merger<'a> {
    vocabulary: &'a Vocabulary,
    text: &'a str,
    symbols: Vec<Symbol>,
}

impl<'a> Merger<'a> {
    fn new(vocabulary: &'a Vocabulary, text: &'a str) -> Self {
        let mut symbols = Vec::with_capacity(text.len());
        for (at, (start, c)) in text.char_indices().enumerate() {
            let (at, start, len) = (at as u32, start as u32, c.len_utf8() as u32);
            symbols.push(Symbol { start, len, previous: at.wrapping_sub(1), next: at + 1 });
        }
        if let Some(last) = symbols.last_mut() {
            last.next = NONE;
        }
        Self { vocabulary, text, symbols }
    }

    fn run(mut self, out: &mut Vec<u32>) {
        let pairs = 1..self.symbols.len() as u32;
        let candidates: Vec<Candidate> = pairs.filter_map(|right| self.candidate(right - 1, right)).collect();
        let mut heap = BinaryHeap::from(candidates);
        while let Some(best) = heap.pop() {
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
                heap.extend(self.candidate(best.left, next));
            }
            let previous = self.symbols[left].previous;
            if previous != NONE {
                heap.extend(self.candidate(previous, best.left));
            }
        }
        self.emit(out);
    }

    fn candidate(&self, left: u32, right: u32) -> Option<Candidate> {
        let (l, r) = (&self.symbols[left as usize], &self.symbols[right as usize]);
        let len = l.len + r.len;
        let text = &self.text[l.start as usize..(l.start + len) as usize];
        let (_, score) = self.vocabulary.merged(text)?;
        // Adding zero makes -0 and 0 equal, as they are for the leftmost rule.
        Some(Candidate { score: score + 0.0, left, right, len })
    }

    /// Looks up what is left; what is no piece becomes bytes, or one unknown token for a whole run.
    fn emit(&self, out: &mut Vec<u32>) {
        let mut after_unknown = false;
        for symbol in self.symbols.iter().filter(|s| s.len > 0) {
            let text = &self.text[symbol.start as usize..(symbol.start + symbol.len) as usize];
            if let Some((id, _)) = self.vocabulary.merged(text) {
                out.push(id);
                after_unknown = false;
            } else if text.bytes().all(|b| self.vocabulary.byte(b).is_some()) {
                out.extend(text.bytes().filter_map(|b| self.vocabulary.byte(b)));
                after_unknown = false;
            } else if !after_unknown {
                out.extend(self.vocabulary.unknown());
                after_unknown = true;
            }
        }
    }
}
