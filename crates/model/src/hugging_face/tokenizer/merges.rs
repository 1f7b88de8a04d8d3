//! The merges of a BPE model: those a GGUF file lists, or those that a SentencePiece vocabulary implies.

use std::collections::HashMap;

use quern_tensor_io::Metadata;
use serde_json::{Value, json};

use crate::tokenizer::TokenKind;
use crate::tokenizer::gguf_keys::split_merge;

use super::{Entry, Tokens};

/// The longest piece, in bytes, whose merges are looked for: all its halves are tried. The longest of published
/// vocabularies have some 400 bytes.
const LONGEST: usize = 1024;

/// The listed merges that fit the vocabulary: the tokenizers library reads no file with others.
pub(super) fn listed(tokens: &Tokens, metadata: &Metadata) -> Vec<Value> {
    let known: HashMap<&str, u32> = tokens.0.iter().map(|e| (e.text.as_str(), e.id)).collect();
    let fits = |&(left, right): &(&str, &str)| {
        let whole = [left, right].concat();
        [left, right, &whole].iter().all(|piece| known.contains_key(*piece))
    };
    let all = metadata.strings("tokenizer.ggml.merges").into_iter().flat_map(|merges| merges.iter());
    all.map(split_merge).filter(fits).map(|(left, right)| json!([left, right])).collect()
}

/// Every way to put a piece together from two others, the piece with the highest score first, as transformers
/// orders them: of equal scores the longest left part first, then the longest right part, then by id. Blanks that
/// were added (Gemma's) are found whole by SentencePiece, so they come before all others.
pub(super) fn made(tokens: &Tokens, metadata: &Metadata) -> Vec<Value> {
    let scores = metadata.f32s("tokenizer.ggml.scores").unwrap_or_default();
    let score = |entry: &Entry| match entry.kind {
        TokenKind::UserDefined => f32::INFINITY,
        _ => scores.get(entry.id as usize).copied().unwrap_or(0.0) + 0.0,
    };
    let merges = |entry: &&Entry| {
        let blank = || entry.text.chars().all(|c| c.is_whitespace() || c == '\u{2581}');
        match entry.kind {
            TokenKind::Normal | TokenKind::Unused => !entry.special,
            TokenKind::UserDefined => blank(),
            TokenKind::Unknown | TokenKind::Control | TokenKind::Byte => false,
        }
    };
    let mergeable = || tokens.0.iter().filter(merges);
    let ids: HashMap<&str, u32> = mergeable().map(|e| (e.text.as_str(), e.id)).collect();
    let mut made = Vec::new();
    for entry in mergeable().filter(|entry| entry.text.len() <= LONGEST) {
        let start = made.len();
        for (at, _) in entry.text.char_indices().skip(1) {
            let (left, right) = entry.text.split_at(at);
            if let (Some(&l), Some(&r)) = (ids.get(left), ids.get(right)) {
                let lengths = (left.chars().count(), right.chars().count());
                made.push((score(entry), lengths, (l, r), left, right));
            }
        }
        made[start..].sort_by_key(|&(_, _, ids, ..)| ids);
    }
    // Stable, so what is equal keeps the order of ids.
    made.sort_by(|a, b| b.0.total_cmp(&a.0).then(b.1.cmp(&a.1)));
    made.into_iter().map(|(.., left, right)| json!([left, right])).collect()
}
