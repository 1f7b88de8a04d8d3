//! Scores for a SentencePiece vocabulary that comes with a list of merges instead.
//!
//! GGUF has scores only. The piece that merge number `r` makes first gets score `-r`, which orders all merges as the
//! list does. The scores are equivalent to the list if it was made from scores, as transformers does: then it
//! holds every way to compose a piece, one piece after the other. They may not be if the list was trained.

use std::collections::{HashMap, HashSet};

use quern_tensor_io::StringArray;

use crate::tokenizer::vocabulary::TokenKind;

use super::list::{Added, Token};

/// Sets the scores of ordinary pieces, and counts the merges for which they do not say what the list says.
pub(super) fn set(tokens: &mut [Option<Token>], merges: &StringArray, added: &[Added]) -> usize {
    let piece = |i: usize| merges.get(i).unwrap_or_default();
    let count = merges.len() / 2;
    let mut ranks: HashMap<String, usize> = HashMap::with_capacity(count);
    let mut listed: HashSet<(&str, &str)> = HashSet::with_capacity(count);
    let mut out_of_order = Vec::new();
    let mut before = String::new();
    for rank in 0..count {
        let (left, right) = (piece(2 * rank), piece(2 * rank + 1));
        let whole = [left, right].concat();
        listed.insert((left, right));
        if ranks.contains_key(&whole) && whole != before {
            out_of_order.push(whole.clone());
        }
        ranks.entry(whole.clone()).or_insert(rank);
        before = whole;
    }
    for token in tokens.iter_mut().flatten().filter(|t| t.kind == TokenKind::Normal) {
        token.score = -(ranks.get(&token.piece).copied().unwrap_or(count) as f32);
    }

    // Added tokens are found whole, before anything is merged.
    let added: HashSet<&str> = added.iter().map(|one| one.content.as_str()).collect();
    let ordinary = |t: &&Token| t.kind == TokenKind::Normal && !added.contains(t.piece.as_str());
    let known: HashSet<&str> = tokens.iter().flatten().filter(ordinary).map(|t| t.piece.as_str()).collect();
    let part = |text: &str| known.contains(text) || text.chars().nth(1).is_none();
    let unlisted = |whole: &&str| {
        let split = |(at, _): (usize, char)| whole.split_at(at);
        let pairs = whole.char_indices().skip(1).map(split);
        pairs.filter(|(left, right)| part(left) && part(right) && !listed.contains(&(*left, *right))).count()
    };
    out_of_order.iter().filter(|whole| known.contains(whole.as_str())).count()
        + known.iter().map(unlisted).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::super::tokenizer_json::plain;
    use super::*;

    fn misfits(pieces: &[&str], merges: &[(&str, &str)]) -> (Vec<f32>, usize) {
        let mut tokens: Vec<Option<Token>> = pieces.iter().map(|piece| Some(plain(piece))).collect();
        let merges: StringArray = merges.iter().flat_map(|(a, b)| [*a, *b]).collect();
        let count = set(&mut tokens, &merges, &[]);
        (tokens.iter().flatten().map(|t| t.score).collect(), count)
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
