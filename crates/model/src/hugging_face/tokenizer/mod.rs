//! The tokenizer files of a Hugging Face directory, rebuilt from GGUF metadata.
//!
//! | file | what it holds |
//! |---|---|
//! | `tokenizer.json` | everything, as the tokenizers library reads it; for SentencePiece vocabularies the merges made from pieces and scores, as transformers makes them |
//! | `tokenizer.model` | a SentencePiece vocabulary for programs that read that |
//! | `tokenizer_config.json`, `special_tokens_map.json` | special tokens, chat template, longest text |
//!
//! Tokens that pad the vocabulary (`[PADn]`) are in none of them. `tokenizer_class` is the one that reads
//! `tokenizer.json` unchanged: the classes of single families override it.

mod config;
mod json;
mod merges;
mod sentence_piece;

use std::path::Path;

use quern_tensor_io::{Error, Metadata, Result};

use crate::tokenizer::gguf_keys::BY_MERGES;
use crate::tokenizer::special::Edges;
use crate::tokenizer::vocabulary::SPACE;
use crate::tokenizer::{TokenKind, Tokenizer};

/// The name and the content of a file.
type NamedFile = (String, Vec<u8>);

/// Names and contents of the tokenizer files that say what the metadata of `file` says, and what is not sure of the
/// tokenizer or left out ([`Tokenizer::notes`]).
///
/// # Errors
/// The metadata holds no tokenizer, a broken one, or one of a kind quern does not read.
pub fn tokenizer_files(file: &Path, metadata: &Metadata) -> Result<(Vec<NamedFile>, Vec<String>)> {
    let tokenizer = Tokenizer::from_gguf(file, metadata)?;
    let tokens = Tokens::new(&tokenizer);
    let pretty = |value: &serde_json::Value| {
        let mut bytes = serde_json::to_vec_pretty(value)
            .map_err(|e| Error::malformed(file, format!("the tokenizer cannot be written as JSON: {e}")))?;
        bytes.push(b'\n');
        Ok(bytes)
    };
    let mut files = vec![
        ("tokenizer.json".to_owned(), pretty(&json::tokenizer_json(&tokenizer, &tokens, metadata))?),
        (
            "tokenizer_config.json".to_owned(),
            pretty(&config::tokenizer_config(&tokenizer, &tokens, metadata))?,
        ),
        ("special_tokens_map.json".to_owned(), pretty(&config::special_tokens_map(&tokenizer, &tokens))?),
    ];
    // A list of merges has no form there, and models that have one (Gemma 4) come without the file.
    let by_merges = metadata.str("tokenizer.ggml.model") == Some(BY_MERGES);
    if !tokenizer.is_byte_level() && !by_merges {
        files.push(("tokenizer.model".to_owned(), sentence_piece::model(&tokenizer, &tokens, metadata)));
    }
    Ok((files, tokenizer.notes().to_vec()))
}

/// One token as Hugging Face's files have it.
struct Entry {
    id: u32,
    text: String,
    kind: TokenKind,
    /// Looked for in raw text.
    added: bool,
    /// Left out when text is made of tokens.
    special: bool,
    edges: Edges,
}

/// All tokens but those that only fill up, by id; no text twice.
struct Tokens(Vec<Entry>);

impl Tokens {
    fn new(tokenizer: &Tokenizer) -> Self {
        let ids = tokenizer.special_ids();
        let named = [ids.bos, ids.eos, ids.unk, ids.sep, ids.pad, ids.mask];
        let mut seen = std::collections::HashSet::new();
        let mut all = Vec::with_capacity(tokenizer.vocab_size());
        for id in 0..tokenizer.vocab_size() as u32 {
            let (Some(piece), Some(kind)) = (tokenizer.piece(id), tokenizer.token_kind(id)) else { continue };
            if piece.is_empty() || (kind == TokenKind::Unused && piece == format!("[PAD{id}]")) {
                continue;
            }
            let added = kind == TokenKind::UserDefined;
            // A Gemma's runs of blanks, which GGUF has as spaces.
            let blank = added && !tokenizer.is_byte_level() && piece.bytes().all(|b| b == b' ');
            let text = if blank { SPACE.to_string().repeat(piece.len()) } else { piece.to_owned() };
            let special = matches!(kind, TokenKind::Control | TokenKind::Unknown)
                || (named.contains(&Some(id)) && kind != TokenKind::Unused);
            if seen.insert(text.clone()) {
                let edges = tokenizer.edges(id);
                all.push(Entry { id, text, kind, added: added || special, special, edges });
            }
        }
        Self(all)
    }

    fn text(&self, id: Option<u32>) -> Option<&str> {
        let at = self.0.binary_search_by_key(&id?, |entry| entry.id).ok()?;
        Some(&self.0[at].text)
    }

    fn added(&self) -> impl Iterator<Item = &Entry> {
        self.0.iter().filter(|entry| entry.added)
    }
}
