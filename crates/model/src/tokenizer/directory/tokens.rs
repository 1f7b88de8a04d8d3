//! Tokens while they are read: text in one allocation, sixteen bytes a token beside it.

use quern_tensor_io::StringArray;

use crate::tokenizer::special::Edges;
use crate::tokenizer::vocabulary::TokenKind;

/// One token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Token<'a> {
    pub piece: &'a str,
    pub score: f32,
    pub kind: TokenKind,
}

/// Where a token's text is; of no kind if nothing is known of the id.
#[derive(Clone, Copy, Debug)]
struct Entry {
    start: u32,
    len: u32,
    score: f32,
    kind: Option<TokenKind>,
}

const UNKNOWN: Entry = Entry { start: 0, len: 0, score: 0.0, kind: None };

/// Tokens by id.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tokens {
    text: String,
    entries: Vec<Entry>,
}

impl Tokens {
    /// One more than the largest id.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Drops ids from `len` on, or adds ids of which nothing is known up to there.
    pub fn resize(&mut self, len: usize) {
        self.entries.resize(len, UNKNOWN);
    }

    pub fn get(&self, id: usize) -> Option<Token<'_>> {
        let entry = self.entries.get(id)?;
        let piece = &self.text[entry.start as usize..][..entry.len as usize];
        Some(Token { piece, score: entry.score, kind: entry.kind? })
    }

    /// Sets token `id`. Texts are those of files of bounded size, so that offsets fit 32 bits.
    pub fn set(&mut self, id: usize, token: Token<'_>) {
        if id >= self.len() {
            self.resize(id + 1);
        }
        let start = self.text.len() as u32;
        self.text.push_str(token.piece);
        self.entries[id] =
            Entry { start, len: token.piece.len() as u32, score: token.score, kind: Some(token.kind) };
    }

    pub fn set_score(&mut self, id: usize, score: f32) {
        self.entries[id].score = score;
    }

    pub fn set_kind(&mut self, id: usize, kind: TokenKind) {
        self.entries[id].kind = Some(kind);
    }

    /// All ids, with what is known of them.
    pub fn all(&self) -> impl Iterator<Item = Option<Token<'_>>> {
        (0..self.len()).map(|id| self.get(id))
    }

    /// The tokens that are known, with their ids.
    pub fn known(&self) -> impl Iterator<Item = (usize, Token<'_>)> {
        self.all().enumerate().filter_map(|(id, token)| Some((id, token?)))
    }
}

/// A token that a file adds to the vocabulary.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Added<'a> {
    pub id: u32,
    pub content: &'a str,
    pub special: bool,
    pub edges: Edges,
}

/// Tokens that a file adds to the vocabulary, in its order.
#[derive(Clone, Debug, Default)]
pub(crate) struct AddedTokens {
    contents: StringArray,
    properties: Vec<(u32, bool, Edges)>,
}

impl AddedTokens {
    pub fn len(&self) -> usize {
        self.properties.len()
    }

    pub fn push(&mut self, one: Added<'_>) {
        self.contents.push(one.content);
        self.properties.push((one.id, one.special, one.edges));
    }

    pub fn iter(&self) -> impl Iterator<Item = Added<'_>> {
        let all = self.contents.iter().zip(&self.properties);
        all.map(|(content, &(id, special, edges))| Added { id, content, special, edges })
    }
}
