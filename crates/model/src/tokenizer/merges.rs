//! The merges of a BPE model, and one word merged by them.
//!
//! A word starts as one token per character. Of all neighbours that the list merges, the pair that is
//! first in the list is merged, the leftmost of equals, until none is left.
//!
//! Nearly all words are short: then all pairs are looked through each time. In a long one (a text of one letter is one
//! word) a heap holds the candidates; one whose tokens have changed since is outdated and skipped. It takes 12 bytes for
//! each token: the token, one bit that says whether it is still there, and 8 bytes for a candidate.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::bits::Bits;
use super::hash::Key;

const NONE: u32 = u32::MAX;

/// The rank and the result of a pair of tokens that merges; free where `left` is `NONE`.
#[derive(Clone, Copy, Debug)]
struct Slot {
    left: u32,
    right: u32,
    rank: u32,
    whole: u32,
}

const FREE: Slot = Slot { left: NONE, right: NONE, rank: NONE, whole: NONE };

/// Rank and result of each pair of tokens that merges: open addressing, linear probing, at most three quarters full.
#[derive(Clone, Debug)]
pub(crate) struct MergeTable {
    slots: Vec<Slot>,
    used: usize,
    key: Key,
}

impl MergeTable {
    pub fn with_capacity(count: usize) -> Self {
        let slots = (count + count / 3 + 1).next_power_of_two();
        Self { slots: vec![FREE; slots], used: 0, key: Key::random() }
    }

    /// Lets `left` and `right` merge into `whole`. Of equal pairs the last counts, as in the tokenizers library.
    pub fn insert(&mut self, rank: u32, left: u32, right: u32, whole: u32) {
        if (self.used + 1) * 4 > self.slots.len() * 3 {
            let all = vec![FREE; self.slots.len() * 2];
            for slot in std::mem::replace(&mut self.slots, all).into_iter().filter(|s| s.left != NONE) {
                let at = self.slot(slot.left, slot.right);
                self.slots[at] = slot;
            }
        }
        let at = self.slot(left, right);
        self.used += usize::from(self.slots[at].left == NONE);
        self.slots[at] = Slot { left, right, rank, whole };
    }

    /// The slot of a pair, or the free one where it belongs.
    fn slot(&self, left: u32, right: u32) -> usize {
        let mask = self.slots.len() - 1;
        let mut at = self.key.number(u64::from(left) << 32 | u64::from(right)) as usize & mask;
        loop {
            let slot = &self.slots[at];
            if (slot.left == left && slot.right == right) || slot.left == NONE {
                return at;
            }
            at = (at + 1) & mask;
        }
    }

    /// Rank and result of a pair; `NONE` for both if it does not merge.
    fn get(&self, left: u32, right: u32) -> (u32, u32) {
        let slot = &self.slots[self.slot(left, right)];
        (slot.rank, slot.whole)
    }
}

/// Longer words take the heap.
const SHORT: usize = 48;
/// Memory for longer words is given back after each.
const KEPT: usize = 1 << 16;

/// A token, and what it merges into with the next one.
#[derive(Clone, Copy)]
struct Part {
    token: u32,
    rank: u32,
    whole: u32,
}

/// Merges one word at a time; keeps its memory between words.
#[derive(Default)]
pub(crate) struct Merger {
    parts: Vec<Part>,
    /// Bits of the tokens that have not been merged into one on their left.
    present: Bits,
    /// Rank and position; the least comes first.
    heap: BinaryHeap<Reverse<u64>>,
}

impl Merger {
    /// Appends the tokens that `start`, one token per character, merges into. What is left of `start` has no meaning.
    pub fn merge(&mut self, table: &MergeTable, start: &mut [u32], out: &mut Vec<u32>) {
        match start.len() {
            0 => {}
            1 => out.push(start[0]),
            2..=SHORT => self.merge_short(table, start, out),
            _ => self.merge_long(table, start, out),
        }
    }

    fn merge_short(&mut self, table: &MergeTable, start: &[u32], out: &mut Vec<u32>) {
        let parts = &mut self.parts;
        parts.clear();
        parts.extend(start.windows(2).map(|pair| {
            let (rank, whole) = table.get(pair[0], pair[1]);
            Part { token: pair[0], rank, whole }
        }));
        parts.push(Part { token: start[start.len() - 1], rank: NONE, whole: NONE });
        loop {
            let (mut best, mut at) = (NONE, 0);
            for (i, part) in parts.iter().enumerate() {
                if part.rank < best {
                    (best, at) = (part.rank, i);
                }
            }
            if best == NONE {
                break;
            }
            parts[at].token = parts[at].whole;
            parts.remove(at + 1);
            for left in [at.checked_sub(1), Some(at)].into_iter().flatten() {
                let (rank, whole) = match parts.get(left + 1) {
                    Some(next) => table.get(parts[left].token, next.token),
                    None => (NONE, NONE),
                };
                (parts[left].rank, parts[left].whole) = (rank, whole);
            }
        }
        out.extend(parts.iter().map(|part| part.token));
    }

    fn merge_long(&mut self, table: &MergeTable, tokens: &mut [u32], out: &mut Vec<u32>) {
        let count = tokens.len();
        self.present.fill(count);
        let first = |at: usize| {
            let (rank, _) = table.get(tokens[at], tokens[at + 1]);
            (rank != NONE).then_some(Reverse(u64::from(rank) << 32 | at as u64))
        };
        let mut candidates = std::mem::take(&mut self.heap).into_vec();
        candidates.clear();
        // Counted first where a guess would take much memory.
        let needed = if count > KEPT { (0..count - 1).filter_map(first).count() } else { count };
        candidates.reserve_exact(needed);
        candidates.extend((0..count - 1).filter_map(first));
        self.heap = candidates.into();

        while let Some(Reverse(candidate)) = self.heap.pop() {
            let (rank, at) = ((candidate >> 32) as u32, candidate as u32 as usize);
            let Some(next) = self.follower(at) else { continue };
            let (now, whole) = table.get(tokens[at], tokens[next]);
            if now != rank {
                continue;
            }
            self.present.unset(next);
            tokens[at] = whole;
            if let Some(before) = self.present.before(at) {
                self.push(table, tokens, before);
            }
            self.push(table, tokens, at);
        }
        if count > KEPT {
            self.heap = BinaryHeap::new();
        }
        out.reserve(self.present.count());
        let is_present = |&(at, _): &(usize, &u32)| self.present.is_set(at);
        out.extend(tokens.iter().enumerate().filter(is_present).map(|(_, &token)| token));
        if count > KEPT {
            self.present = Bits::default();
        }
    }

    /// Makes the token at `at` and the next one a candidate, if they merge.
    fn push(&mut self, table: &MergeTable, tokens: &[u32], at: usize) {
        let Some(next) = self.follower(at) else { return };
        let (rank, _) = table.get(tokens[at], tokens[next]);
        if rank == NONE {
            return;
        }
        if self.heap.len() == self.heap.capacity() {
            let mut heap = std::mem::take(&mut self.heap);
            heap.retain(|&Reverse(candidate)| {
                let at = candidate as u32 as usize;
                let next = self.follower(at);
                next.is_some_and(|next| table.get(tokens[at], tokens[next]).0 == (candidate >> 32) as u32)
            });
            if heap.len() > heap.capacity() / 2 {
                // There are no more of them than tokens.
                let room = tokens.len().saturating_sub(heap.len());
                heap.reserve_exact(heap.len().min(room) + 1);
            }
            self.heap = heap;
        }
        self.heap.push(Reverse(u64::from(rank) << 32 | at as u64));
    }

    /// The place of the next token that is present; `None` if the one at `at` is not, or is the last.
    fn follower(&self, at: usize) -> Option<usize> {
        self.present.is_set(at).then(|| self.present.after(at)).flatten()
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
            times in 1usize..6,
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
            let word = word.repeat(times);
            let id = |piece: &str| vocabulary.iter().position(|v| v == piece).unwrap() as u32;
            let mut table = MergeTable::with_capacity(0);
            for (rank, (left, right)) in merges.iter().enumerate() {
                table.insert(rank as u32, id(left), id(right), id(&format!("{left}{right}")));
            }
            let mut start: Vec<u32> = word.chars().map(|c| id(c.encode_utf8(&mut [0; 4]))).collect();
            let mut tokens = Vec::new();
            Merger::default().merge(&table, &mut start, &mut tokens);

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
