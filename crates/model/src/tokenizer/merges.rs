//! The merges of a BPE model, and one word merged by them.
//!
//! A word starts as one token per character. Of all neighbours that the list merges, the pair that is
//! first in the list is merged, the leftmost of equals, until none is left. A heap holds the candidates; one
//! whose tokens have changed since is outdated and skipped.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

const NONE: u32 = u32::MAX;

/// Rank and result of each pair of tokens that merges.
#[derive(Clone, Debug, Default)]
pub(crate) struct MergeTable {
    pairs: HashMap<(u32, u32), (u32, u32)>,
}

impl MergeTable {
    pub fn with_capacity(count: usize) -> Self {
        Self { pairs: HashMap::with_capacity(count) }
    }

    /// Lets `left` and `right` merge into `whole`. Of equal pairs the last counts, as in the tokenizers library.
    pub fn insert(&mut self, rank: u32, left: u32, right: u32, whole: u32) {
        self.pairs.insert((left, right), (rank, whole));
    }

    fn get(&self, left: u32, right: u32) -> Option<(u32, u32)> {
        self.pairs.get(&(left, right)).copied()
    }
}

/// A token, linked to its neighbours.
#[derive(Clone, Copy)]
struct Symbol {
    token: u32,
    previous: u32,
    /// `NONE` at the end.
    next: u32,
    merged_away: bool,
}

/// Merges one word at a time; keeps its memory between words.
#[derive(Default)]
pub(crate) struct Merger {
    symbols: Vec<Symbol>,
    /// Rank, position, result; the least comes first.
    heap: BinaryHeap<Reverse<(u32, u32, u32)>>,
}

impl Merger {
    /// Appends the tokens that `start`, one token per character, merges into.
    pub fn merge(&mut self, table: &MergeTable, start: &[u32], out: &mut Vec<u32>) {
        let symbol = |(at, &token): (usize, &u32)| {
            let at = at as u32;
            let next = if at as usize + 1 < start.len() { at + 1 } else { NONE };
            Symbol { token, previous: at.wrapping_sub(1), next, merged_away: false }
        };
        self.symbols.clear();
        self.symbols.extend(start.iter().enumerate().map(symbol));
        for left in 0..start.len().saturating_sub(1) {
            self.push(table, left as u32);
        }
        while let Some(Reverse((_, at, whole))) = self.heap.pop() {
            let left = self.symbols[at as usize];
            if left.merged_away || left.next == NONE {
                continue;
            }
            let right = self.symbols[left.next as usize];
            if table.get(left.token, right.token).is_none_or(|(_, now)| now != whole) {
                continue;
            }
            self.symbols[left.next as usize].merged_away = true;
            if right.next != NONE {
                self.symbols[right.next as usize].previous = at;
            }
            self.symbols[at as usize] = Symbol { token: whole, next: right.next, ..left };
            if left.previous != NONE {
                self.push(table, left.previous);
            }
            self.push(table, at);
        }
        out.extend(self.symbols.iter().filter(|s| !s.merged_away).map(|s| s.token));
    }

    /// Makes the token at `at` and the next one a candidate, if they merge.
    fn push(&mut self, table: &MergeTable, at: u32) {
        let left = self.symbols[at as usize];
        if left.next == NONE {
            return;
        }
        if let Some((rank, whole)) = table.get(left.token, self.symbols[left.next as usize].token) {
            self.heap.push(Reverse((rank, at, whole)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokenizers::Model;
    use tokenizers::models::bpe::{BPE, Vocab};

    proptest! {
        /// Against the tokenizers library, on alphabets so small that merges overlap everywhere.
        #[test]
        fn merges_as_the_tokenizers_library_does(
            pairs in proptest::collection::vec((0usize..30, 0usize..30), 0..40),
            word in "[abc]{1,40}",
        ) {
            let mut vocabulary: Vec<String> = ["a", "b", "c"].map(String::from).into();
            let mut merges = Vec::new();
            for (left, right) in pairs {
                let (Some(left), Some(right)) = (vocabulary.get(left), vocabulary.get(right)) else { continue };
                let (left, right) = (left.clone(), right.clone());
                let whole = format!("{left}{right}");
                if !vocabulary.contains(&whole) {
                    vocabulary.push(whole);
                }
                merges.push((left, right));
            }
            let id = |piece: &str| vocabulary.iter().position(|v| v == piece).unwrap() as u32;
            let mut table = MergeTable::default();
            for (rank, (left, right)) in merges.iter().enumerate() {
                table.insert(rank as u32, id(left), id(right), id(&format!("{left}{right}")));
            }
            let start: Vec<u32> = word.chars().map(|c| id(c.encode_utf8(&mut [0; 4]))).collect();
            let mut tokens = Vec::new();
            Merger::default().merge(&table, &start, &mut tokens);

            let ids: Vocab = vocabulary.iter().map(|v| (v.clone(), id(v))).collect();
            let model = BPE::builder()
                .vocab_and_merges(ids, merges)
                .build()
                .unwrap();
            let expected: Vec<u32> = model.tokenize(&word).unwrap().iter().map(|t| t.id).collect();
            prop_assert_eq!(tokens, expected);
        }
    }
}
