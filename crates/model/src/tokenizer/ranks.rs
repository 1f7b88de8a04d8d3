//! Merging by ranks, as the tiktoken library does.
//!
//! Its vocabularies have no list of merges: of all neighbours that together are a piece, those are merged whose piece has
//! the lowest rank (its id), the leftmost of equals. As merges, that is every way to make a piece from two others, with
//! the rank of the piece:
//!
//! ```text
//! rank   piece   ways              merge in a list
//! 256    he      h+e               h e
//! 257    th      t+h               t h
//! 258    the     th+e  t+he        t he      what "the" is before the last step by the ranks below 258
//! ```
//!
//! A list of merges has one way for each piece: the parts that a piece has become by the ranks below its own. Where
//! these are two for every piece, both give the same tokens. (Two neighbours are in no other state than the piece by
//! itself would be: no merge has crossed their borders, and those inside have the same order.)

use std::collections::HashMap;

use super::merges::{MergeTable, Merger};

/// The merges of a vocabulary that is ordered by rank.
pub(crate) struct Ranks {
    /// Every way to make a piece.
    pub table: MergeTable,
    /// Both parts of each piece that has become two by the ranks below its own, in the order of ranks.
    pub pairs: Vec<(u32, u32)>,
    /// How many pieces of several bytes have not.
    pub unmade: usize,
}

/// The merges of `pieces`, which are spelled in the alphabet of bytes and have their places as ranks.
pub(crate) fn of(pieces: &[&str]) -> Ranks {
    let ids: HashMap<&str, u32> = pieces.iter().enumerate().map(|(id, &piece)| (piece, id as u32)).collect();
    let mut ranks = Ranks { table: MergeTable::with_capacity(pieces.len()), pairs: Vec::new(), unmade: 0 };
    let (mut merger, mut start, mut parts) = (Merger::default(), Vec::new(), Vec::new());
    for (rank, &piece) in pieces.iter().enumerate() {
        start.clear();
        start.extend(piece.chars().filter_map(|c| ids.get(&*c.encode_utf8(&mut [0; 4])).copied()));
        if start.len() < 2 {
            continue;
        }
        parts.clear();
        merger.merge(&ranks.table, &mut start, &mut parts);
        match parts[..] {
            [left, right] => ranks.pairs.push((left, right)),
            _ => ranks.unmade += 1,
        }
        for (at, _) in piece.char_indices().skip(1) {
            let (left, right) = piece.split_at(at);
            if let (Some(&left), Some(&right)) = (ids.get(left), ids.get(right)) {
                ranks.table.insert(rank as u32, left, right, rank as u32);
            }
        }
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(ranks: &Ranks, pieces: &[&str], word: &str) -> Vec<u32> {
        let at = |c: char| pieces.iter().position(|&p| p == c.to_string()).unwrap() as u32;
        let (mut start, mut out) = (word.chars().map(at).collect::<Vec<_>>(), Vec::new());
        Merger::default().merge(&ranks.table, &mut start, &mut out);
        out
    }

    #[test]
    fn a_piece_is_made_of_what_lower_ranks_leave() {
        let pieces = ["t", "h", "e", "he", "th", "the"];
        let ranks = of(&pieces);
        assert_eq!((ranks.pairs.as_slice(), ranks.unmade), (&[(1, 2), (0, 1), (0, 3)][..], 0));
        assert_eq!(tokens(&ranks, &pieces, "the"), [5]);
    }

    #[test]
    fn pieces_of_parts_with_higher_ranks_are_made_by_rank_alone() {
        // "abc" comes before "ab" and "bc": by ranks "ab" is made first in "abc", and then "abc".
        let pieces = ["a", "b", "c", "abc", "ab"];
        let ranks = of(&pieces);
        assert_eq!((ranks.pairs.as_slice(), ranks.unmade), (&[(0, 1)][..], 1));
        assert_eq!(tokens(&ranks, &pieces, "abcab"), [3, 4]);
    }
}
