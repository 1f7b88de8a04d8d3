//! Cutting text at special tokens.
//!
//! Added (user-defined) tokens are always recognised, control and unknown tokens only on request; at each
//! place the longest one wins.

use std::collections::HashMap;

use super::vocabulary::{SPACE, TokenKind, Vocabulary};

/// The note on the id of a special token that does not exist; `instead` is taken in its place.
pub(crate) fn no_such_token(key: &str, found: &str, tokens: usize, instead: Option<u32>) -> String {
    let instead = instead.map(|id| format!("; {id} is taken instead")).unwrap_or_default();
    format!("{key}: {found} is not the id of one of the {tokens} tokens and is ignored{instead}")
}

/// The conditions of an added token on the text around it (`lstrip`, `rstrip`, `single_word` in Hugging Face's files).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Edges {
    /// Blanks in front belong to it.
    pub left: bool,
    /// Blanks behind belong to it.
    pub right: bool,
    /// It is recognised only where no word character touches its ends.
    pub single_word: bool,
    /// It is looked for where spaces have become U+2581 (`normalized`), so the two are one in it.
    pub either_space: bool,
}

/// A piece of text between special tokens, or one of those.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fragment<'a> {
    /// Ordinary text, not empty.
    Text(&'a str),
    /// A special token.
    Token(u32),
}

/// Special tokens by their text.
///
/// In a GGUF file and in a SentencePiece model, added tokens that are blanks (Gemma's) are spaces, while the
/// model's own tokenizer looks for them twice: as they are spelled, with U+2581, in raw text, and again where spaces
/// have become U+2581.
#[derive(Clone, Debug, Default)]
pub(crate) struct SpecialTokens {
    raw: Table,
    blanks: Table,
}

impl SpecialTokens {
    /// All special tokens of a vocabulary. `edges` holds only tokens with conditions. With `as_spaces` the
    /// vocabulary has spaces in added tokens where the tokenizer has U+2581.
    pub fn new(vocabulary: &Vocabulary, edges: &HashMap<u32, Edges>, as_spaces: bool) -> Self {
        let (mut raw, mut blanks) = (Table::default(), Table::default());
        for (id, kind) in vocabulary.kinds().iter().enumerate() {
            let id = id as u32;
            let control = matches!(kind, TokenKind::Control | TokenKind::Unknown);
            let piece = vocabulary.piece(id).unwrap_or_default();
            if piece.is_empty() || !(control || *kind == TokenKind::UserDefined) {
                continue;
            }
            let edges = edges.get(&id).copied().unwrap_or_default();
            let special = Special { id, control, edges };
            let (spaced, sign) = (piece.replace(SPACE, " "), SPACE.encode_utf8(&mut [0; 4]).to_owned());
            if as_spaces && !control && spaced.bytes().all(|b| b == b' ') {
                raw.add(&piece.replace(' ', &sign), special);
                blanks.add(&spaced, special);
                continue;
            }
            raw.add(piece, special);
            if !control && (as_spaces || edges.either_space) {
                raw.add(&spaced, special);
                raw.add(&piece.replace(' ', &sign), special);
            }
        }
        raw.sort();
        blanks.sort();
        Self { raw, blanks }
    }

    /// Cuts `text`; control tokens count only with `control`.
    pub fn split<'a>(&self, text: &'a str, control: bool) -> Vec<Fragment<'a>> {
        self.raw.split(text, control)
    }

    /// Cuts text between special tokens, in which every blank is a space, at tokens that are blanks. `None` if
    /// there is nothing to cut.
    pub fn split_blanks<'a>(&self, text: &'a str) -> Option<Vec<Fragment<'a>>> {
        (!self.blanks.tokens.is_empty()).then(|| self.blanks.split(text, false))
    }
}

#[derive(Clone, Copy, Debug)]
struct Special {
    id: u32,
    control: bool,
    edges: Edges,
}

#[derive(Clone, Debug, Default)]
struct Table {
    tokens: HashMap<String, Special>,
    /// For each first byte, the lengths that texts which start so have, longest first.
    lengths: Vec<Vec<usize>>,
}

impl Table {
    /// Of equal texts the first one counts.
    fn add(&mut self, text: &str, special: Special) {
        self.lengths.resize(256, Vec::new());
        self.tokens.entry(text.to_owned()).or_insert(special);
        self.lengths[usize::from(text.as_bytes()[0])].push(text.len());
    }

    fn sort(&mut self) {
        for lengths in &mut self.lengths {
            lengths.sort_unstable_by_key(|&len| std::cmp::Reverse(len));
            lengths.dedup();
        }
    }

    fn split<'a>(&self, text: &'a str, control: bool) -> Vec<Fragment<'a>> {
        let mut out = Vec::new();
        let (mut from, mut at) = (0, 0);
        while at < text.len() {
            let Some((special, len)) = self.at(text, at, control) else {
                at += 1;
                continue;
            };
            let (before, after) = (&text[from..at], &text[at + len..]);
            let before = if special.edges.left { before.trim_end() } else { before };
            if !before.is_empty() {
                out.push(Fragment::Text(before));
            }
            out.push(Fragment::Token(special.id));
            let after = if special.edges.right { after.trim_start() } else { after };
            at = text.len() - after.len();
            from = at;
        }
        if from < text.len() {
            out.push(Fragment::Text(&text[from..]));
        }
        out
    }

    /// The special token at byte `at`, and its length.
    fn at(&self, text: &str, at: usize, control: bool) -> Option<(Special, usize)> {
        let lengths = self.lengths.get(usize::from(text.as_bytes()[at]))?;
        let special = |&len: &usize| {
            let special = *self.tokens.get(text.get(at..at + len)?)?;
            let wanted = control || !special.control;
            (wanted && (!special.edges.single_word || stands_alone(text, at, len))).then_some((special, len))
        };
        lengths.iter().find_map(special)
    }
}

fn stands_alone(text: &str, at: usize, len: usize) -> bool {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    let (before, after) = (text[..at].chars().next_back(), text[at + len..].chars().next());
    !before.is_some_and(word) && !after.is_some_and(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_take_what_they_ask_for() {
        let pieces = ["<a>", "<b>", "<ab>", "ab", "<ab", "é"];
        let kinds = [TokenKind::Control, TokenKind::Control, TokenKind::UserDefined, TokenKind::UserDefined];
        let kinds = [&kinds[..], &[TokenKind::UserDefined; 2]].concat();
        let vocabulary = Vocabulary::byte_level(pieces.into_iter().collect(), kinds, None);
        let edges = HashMap::from([
            (0, Edges { right: true, ..Edges::default() }),
            (1, Edges { left: true, ..Edges::default() }),
            (3, Edges { single_word: true, ..Edges::default() }),
        ]);
        let special = SpecialTokens::new(&vocabulary, &edges, false);
        use Fragment::{Text, Token};
        assert_eq!(
            special.split("x <a> \ty <b> z", true),
            [Text("x "), Token(0), Text("y"), Token(1), Text(" z")]
        );
        assert_eq!(special.split("x <a> y", false), [Text("x <a> y")]);
        assert_eq!(
            special.split("<ab><abab ab xabéé", true),
            [Token(2), Token(4), Text("ab "), Token(3), Text(" xab"), Token(5), Token(5)]
        );
        assert_eq!(special.split(" <b><a> ", true), [Token(1), Token(0)]);
        assert_eq!(special.split("", true), []);
    }
}
