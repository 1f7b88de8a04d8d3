//! The vocabulary of a directory while it is put together from several files.

use std::collections::{HashMap, HashSet};

use quern_tensor_io::{Result, StringArray};

use crate::json::{Object, as_u64};
use crate::tokenizer::special::Edges;
use crate::tokenizer::vocabulary::TokenKind;

use super::protobuf::SentencePieceModel;
use super::tokens::{AddedTokens, Token, Tokens};

const ADDED_SCORE: f32 = -1000.0;
const PAD_SCORE: f32 = -10000.0;

/// An added token as llama.cpp's converter classifies it.
fn token_of(content: &str, special: bool) -> Token<'_> {
    let control = special || looks_special(content);
    let kind = if control { TokenKind::Control } else { TokenKind::UserDefined };
    Token { piece: content, score: ADDED_SCORE, kind }
}

/// Added tokens whose publishers forgot to mark them as special.
fn looks_special(content: &str) -> bool {
    let within = |start: &str, end: &str| content.starts_with(start) && content.ends_with(end);
    matches!(content, "<pad>" | "<mask>" | "<2mass>" | "[@BOS@]")
        || within("<|", "|>")
        || within("<\u{FF5C}", "\u{FF5C}>")
        || within("<unused", ">")
}

/// The conditions of an entry on the text around it.
pub(super) fn edges_of(entry: &serde_json::Value) -> Edges {
    let flag = |key: &str| entry.get(key).and_then(serde_json::Value::as_bool).unwrap_or(false);
    let normalized = entry.get("normalized").and_then(serde_json::Value::as_bool);
    Edges {
        left: flag("lstrip"),
        right: flag("rstrip"),
        single_word: flag("single_word"),
        either_space: normalized.unwrap_or(!flag("special")),
    }
}

/// The vocabulary; `None` for ids nothing is known of.
#[derive(Debug, Default)]
pub(super) struct List {
    pub tokens: Tokens,
    /// The conditions of added tokens.
    pub edges: HashMap<u32, Edges>,
    /// The model's size, beyond which there are no tokens.
    size: Option<usize>,
    /// The number of tokens beyond it.
    pub beyond: HashSet<u64>,
}

impl List {
    /// A list of these tokens, cut or filled up to `size`.
    pub fn new(mut tokens: Tokens, size: Option<usize>) -> Self {
        let mut beyond = HashSet::new();
        if let Some(size) = size {
            let past = tokens.known().map(|(id, _)| id).filter(|&id| id >= size);
            beyond = past.map(|id| id as u64).collect();
            tokens.resize(size);
        }
        Self { tokens, edges: HashMap::new(), size, beyond }
    }

    /// The pieces of a SentencePiece model.
    pub fn from_model(model: &SentencePieceModel, size: Option<usize>) -> Self {
        let pieces = model.pieces.iter().zip(&model.scores).zip(&model.kinds);
        let mut tokens = Tokens::default();
        for (id, ((piece, &score), &kind)) in pieces.enumerate() {
            // The converter knows no user-defined pieces: they are ordinary ones of the highest score.
            let kind = if kind == TokenKind::UserDefined { TokenKind::Normal } else { kind };
            tokens.set(id, Token { piece, score, kind });
        }
        Self::new(tokens, size)
    }

    /// Sets token `id`, unless it is beyond the model's size.
    fn set(&mut self, id: u64, token: Token<'_>, edges: Edges) {
        if id >= self.size.unwrap_or(crate::tokenizer::MAX_TOKENS) as u64 {
            self.beyond.insert(id);
            return;
        }
        self.tokens.set(id as usize, token);
        self.edges.insert(id as u32, edges);
    }

    /// An id that the file gives; far beyond the vocabulary it is damage, not a token.
    fn checked_id(&self, object: &Object<'_>, key: &str, id: Option<u64>) -> Result<u64> {
        match id {
            Some(id) if id <= self.tokens.len() as u64 + (1 << 20) => Ok(id),
            _ => Err(object.error(key, "not a token id")),
        }
    }

    /// `added_tokens.json`: text to id.
    pub fn add_old_style(&mut self, object: &Object<'_>) -> Result<()> {
        for (piece, id) in object.entries() {
            let id = self.checked_id(object, piece, as_u64(id))?;
            let token = Token { piece, score: ADDED_SCORE, kind: TokenKind::UserDefined };
            self.set(id, token, Edges::default());
        }
        Ok(())
    }

    /// `added_tokens_decoder` of `tokenizer_config.json`, id to text and whether it is special: all of it, or
    /// what is for ids that nothing else has named.
    pub fn add_decoder(&mut self, config: &Object<'_>, only_missing: bool) -> Result<()> {
        let Some(decoder) = config.object("added_tokens_decoder")? else { return Ok(()) };
        for (key, value) in decoder.entries() {
            let id = self.checked_id(&decoder, key, key.parse().ok())?;
            let Some(entry) = decoder.object(key)? else { continue };
            let content = entry.str("content")?.ok_or_else(|| entry.missing("content"))?;
            let special = entry.bool("special")?.unwrap_or(false);
            if !(only_missing && self.has(id)) {
                self.set(id, token_of(content, special), edges_of(value));
            }
        }
        Ok(())
    }

    fn has(&self, id: u64) -> bool {
        self.tokens.get(id as usize).is_some()
    }

    /// Added tokens of `tokenizer.json`: all of them.
    pub fn add_all(&mut self, added: &AddedTokens) {
        for one in added.iter() {
            self.set(u64::from(one.id), token_of(one.content, one.special), one.edges);
        }
    }

    /// Added tokens of `tokenizer.json` beside a SentencePiece model: those for ids that nothing else has named,
    /// and with `mark` also those that are ordinary pieces of the model. Their conditions on the text around
    /// them apply to all.
    pub fn add_to_model(&mut self, added: &AddedTokens, mark: bool) {
        for one in added.iter() {
            let old = self.tokens.get(one.id as usize);
            let ordinary = old.is_some_and(|t| t.kind == TokenKind::Normal && t.piece == one.content);
            if old.is_none() || (mark && ordinary) {
                self.set(u64::from(one.id), token_of(one.content, one.special), one.edges);
            } else if old.is_some_and(|t| t.piece == one.content) {
                self.edges.insert(one.id, one.edges);
            }
        }
    }

    /// Makes the ordinary piece with this text a control token, if there is one.
    pub fn make_control(&mut self, content: &str) {
        let found = self.tokens.known().find(|(_, token)| token.piece == content).map(|(id, _)| id);
        if let Some(id) = found {
            self.tokens.set_kind(id, TokenKind::Control);
        }
    }

    /// Pieces, scores and kinds by id.
    pub fn finish(self) -> (StringArray, Vec<f32>, Vec<TokenKind>) {
        let count = self.tokens.len();
        let (mut scores, mut kinds) = (Vec::with_capacity(count), Vec::with_capacity(count));
        let mut pieces = StringArray::with_capacity(count);
        for (id, token) in self.tokens.all().enumerate() {
            match token {
                Some(token) => {
                    pieces.push(token.piece);
                    scores.push(token.score);
                    kinds.push(token.kind);
                }
                None => {
                    pieces.push(&format!("[PAD{id}]"));
                    scores.push(PAD_SCORE);
                    kinds.push(TokenKind::Unused);
                }
            }
        }
        (pieces, scores, kinds)
    }
}
