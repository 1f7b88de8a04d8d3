//! Cutting text at special tokens.
//!
//! Added (user-defined) tokens are always recognised, control and unknown tokens only on request; at each
//! place the longest one wins.

use super::vocabulary::{TokenKind, Vocabulary};

/// A piece of text between special tokens, or one of those.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fragment<'a> {
    /// Ordinary text, not empty.
    Text(&'a str),
    /// A special token.
    Token(u32),
}

/// Special tokens by their text.
#[derive(Clone, Debug, Default)]
pub(crate) struct SpecialTokens {
    /// Longest first.
    tokens: Vec<(String, u32, bool)>,
    /// Whether a special token starts with this byte.
    starts: Vec<bool>,
}

impl SpecialTokens {
    pub fn new(vocabulary: &Vocabulary) -> Self {
        let mut tokens = Vec::new();
        let mut starts = vec![false; 256];
        for (id, kind) in vocabulary.kinds().iter().enumerate() {
            let control = matches!(kind, TokenKind::Control | TokenKind::Unknown);
            let piece = vocabulary.piece(id as u32).unwrap_or_default();
            if !piece.is_empty() && (control || *kind == TokenKind::UserDefined) {
                starts[usize::from(piece.as_bytes()[0])] = true;
                tokens.push((piece.to_owned(), id as u32, control));
            }
        }
        // Stable: of equal texts the first id wins.
        tokens.sort_by_key(|(piece, _, _)| std::cmp::Reverse(piece.len()));
        Self { tokens, starts }
    }

    /// Cuts `text`; control tokens count only with `control`.
    pub fn split<'a>(&self, text: &'a str, control: bool) -> Vec<Fragment<'a>> {
        let mut out = Vec::new();
        let (mut from, mut at) = (0, 0);
        while let Some(&byte) = text.as_bytes().get(at) {
            let found = match self.starts.get(usize::from(byte)) {
                Some(true) => self.at(&text.as_bytes()[at..], control),
                _ => None,
            };
            let Some((id, len)) = found else {
                at += 1;
                continue;
            };
            if from < at {
                out.push(Fragment::Text(&text[from..at]));
            }
            out.push(Fragment::Token(id));
            at += len;
            from = at;
        }
        if from < text.len() {
            out.push(Fragment::Text(&text[from..]));
        }
        out
    }

    fn at(&self, rest: &[u8], control: bool) -> Option<(u32, usize)> {
        let matching = |(piece, _, is_control): &&(String, u32, bool)| {
            (control || !is_control) && rest.starts_with(piece.as_bytes())
        };
        self.tokens.iter().find(matching).map(|(piece, id, _)| (*id, piece.len()))
    }
}
