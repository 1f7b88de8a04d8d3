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
    let _ = (vocabulary, text, out, NONE);
    let _ = BinaryHeap::<Candidate>::new();
    todo!()
}
