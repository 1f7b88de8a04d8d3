//! Scores for a SentencePiece vocabulary that comes with a list of merges instead.
//!
//! GGUF has scores only. The piece that merge number `r` makes first gets score `-r`, which orders all merges as the
//! list does. The scores are equivalent to the list if it was made from scores, as transformers does: then it
//! holds every way to compose a piece, one piece after the other. They may not be if the list was trained.

use std::collections::HashSet;

use quern_tensor_io::StringArray;

use crate::tokenizer::vocabulary::{TokenKind, Vocabulary};

use super::tokens::{AddedTokens, Tokens};

/// Longer pieces are not looked into for merges that are not listed: the time for it grows with the square.
const LONGEST: usize = 1024;

/// Sets the scores of ordinary pieces, and counts the merges for which they do not say what the list says.
///
/// Pieces are compared by the first id of their text; merges of other texts make no piece.
pub(super) fn set(tokens: &mut Tokens, merges: &StringArray, added: &AddedTokens) -> usize {
    let pieces: StringArray = tokens.all().map(|token| token.map_or("", |token| token.piece)).collect();
    let vocabulary = Vocabulary::byte_level(pieces, vec![TokenKind::Normal; tokens.len()], None);
    let piece = |i: usize| merges.get(i).unwrap_or_default();
    let count = merges.len() / 2;
    let mut ranks = vec![u32::MAX; tokens.len()];
    let mut listed: HashSet<(u32, u32)> = HashSet::with_capacity(count);
    let mut out_of_order = Vec::new();
    let (mut before, mut whole) = (None, String::new());
    for rank in 0..count {
        let (left, right) = (piece(2 * rank), piece(2 * rank + 1));
        whole.clear();
        whole.push_str(left);
        whole.push_str(right);
        listed.extend(vocabulary.find(left).zip(vocabulary.find(right)));
        let made = vocabulary.find(&whole);
        if let Some(id) = made {
            match &mut ranks[id as usize] {
                first @ &mut u32::MAX => *first = rank as u32,
                _ if made != before => out_of_order.push(id),
                _ => {}
            }
        }
        before = made;
    }
    let is_normal =
        |tokens: &Tokens, id: usize| tokens.get(id).is_some_and(|token| token.kind == TokenKind::Normal);
    for id in 0..tokens.len() {
        let first = tokens.get(id).and_then(|token| vocabulary.find(token.piece));
        let rank = first.map(|first| ranks[first as usize]).filter(|&rank| rank != u32::MAX);
        if is_normal(tokens, id) {
            tokens.set_score(id, -(rank.map_or(count, |rank| rank as usize) as f32));
        }
    }

    // Ordinary pieces, each once. Added tokens are found whole, before anything is merged.
    let mut known: Vec<bool> = (0..tokens.len()).map(|id| is_normal(tokens, id)).collect();
    for (id, token) in tokens.known() {
        match vocabulary.find(token.piece).map(|first| first as usize) {
            Some(first) if first != id => known[first] |= std::mem::take(&mut known[id]),
            _ => {}
        }
    }
    for one in added.iter() {
        vocabulary.find(one.content).into_iter().for_each(|id| known[id as usize] = false);
    }
    let is_known = |id: Option<u32>| id.is_some_and(|id| known[id as usize]);
    let part = |text: &str, id: Option<u32>| is_known(id) || text.chars().nth(1).is_none();
    let unlisted = |whole: &str| {
        let is_missing = |&(at, _): &(usize, char)| {
            let (left, right) = whole.split_at(at);
            let ids = [left, right].map(|text| vocabulary.find(text));
            let listed = || matches!(ids, [Some(left), Some(right)] if listed.contains(&(left, right)));
            part(left, ids[0]) && part(right, ids[1]) && !listed()
        };
        whole.char_indices().skip(1).filter(is_missing).count()
    };
    let wholes = tokens.known().filter(|&(id, token)| known[id] && token.piece.len() <= LONGEST);
    out_of_order.iter().filter(|&&id| known[id as usize]).count()
        + wholes.map(|(_, token)| unlisted(token.piece)).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::super::tokens::Token;
    use super::*;

    fn misfits(pieces: &[&str], merges: &[(&str, &str)]) -> (Vec<f32>, usize) {
        let mut tokens = Tokens::default();
        for (id, piece) in pieces.iter().enumerate() {
            tokens.set(id, Token { piece, score: 0.0, kind: TokenKind::Normal });
        }
        let merges: StringArray = merges.iter().flat_map(|(a, b)| [*a, *b]).collect();
        let count = set(&mut tokens, &merges, &AddedTokens::default());
        (tokens.known().map(|(_, t)| t.score).collect(), count)
    }

    #[test]
    fn lists_made_from_scores_are_distinguished_from_others() {
        let pieces = ["a", "b", "ab", "ba", "aba"];
        let whole = [("a", "b"), ("b", "a"), ("ab", "a"), ("a", "ba")];
        assert_eq!(misfits(&pieces, &whole), (vec![-4.0, -4.0, 0.0, -1.0, -2.0], 0));
        // "a" and "ba" would merge by score.
        assert_eq!(misfits(&pieces, &whole[..3]).1, 1);
        // "aba" is made in two places of the list.
        let torn = [("a", "b"), ("ab", "a"), ("b", "a"), ("a", "ba")];
        assert_eq!(misfits(&pieces, &torn).1, 1);
    }
}
