//! `tokenizer.json` of the Hugging Face tokenizers library, as far as it describes SentencePiece BPE.

use std::collections::HashMap;

use quern_tensor_io::{Error, Result};
use serde_json::Value;

use crate::json::{Object, as_u64};

use super::SpacePrefix;
use super::from_directory::{Token, added};
use super::vocabulary::{TokenKind, parse_byte};

/// What a `tokenizer.json` says.
#[derive(Debug)]
pub(crate) struct Fast {
    /// By id; `None` for ids without a piece.
    pub tokens: Vec<Option<Token>>,
    /// Id, text, special.
    pub added: Vec<(u32, String, bool)>,
    pub prefix: SpacePrefix,
    /// The special token in front of a single text.
    pub first: Option<String>,
    /// The special token behind a single text.
    pub last: Option<String>,
    /// The template for a pair of texts: special tokens by text, `None` for a text.
    pair: Vec<Option<String>>,
}

impl Fast {
    pub fn read(root: &Object<'_>) -> Result<Self> {
        let model = root.object("model")?.ok_or_else(|| root.missing("model"))?;
        let byte_level = |key: &str| root.get(key).is_some_and(mentions_byte_level);
        let fallback = model.bool("byte_fallback")?.unwrap_or(false);
        match model.str("type")? {
            Some("BPE") | None if byte_level("pre_tokenizer") || byte_level("decoder") => {
                return Err(Error::unsupported(root.file(), super::BYTE_LEVEL));
            }
            Some("BPE") | None if fallback => {}
            Some("BPE") | None => {
                let what =
                    "a BPE tokenizer that is neither byte-level nor falls back to bytes is not supported";
                return Err(Error::unsupported(root.file(), what));
            }
            Some(other) => {
                let name: String = other.chars().take(40).collect();
                return Err(Error::unsupported(
                    root.file(),
                    format!("tokenizer model {name:?} is not supported (BPE is)"),
                ));
            }
        }
        let added = added_tokens(root)?;
        let tokens = tokens(&model, &added)?;
        let (first, last, pair) = template(root);
        Ok(Self { tokens, added, prefix: prefix(root)?, first, last, pair })
    }

    /// Whether a separator stands between two texts; `None` where the template does not tell.
    pub fn adds_separator(&self, sep: Option<&str>, eos: Option<&str>) -> Option<bool> {
        let mut middle = self.pair.as_slice();
        if let (Some(first), [Some(front), rest @ ..]) = (&self.first, middle)
            && first == front
        {
            middle = rest;
        }
        if let (Some(last), [rest @ .., Some(back)]) = (&self.last, middle)
            && last == back
        {
            middle = rest;
        }
        let [None, middle @ .., None] = middle else { return None };
        let is_separator =
            |t: &Option<String>| t.as_deref().is_some_and(|t| Some(t) == sep || Some(t) == eos);
        match middle {
            [] => None,
            [one] => Some(is_separator(one) && self.last.is_none()),
            [one, two] => Some((is_separator(one) && self.last.is_none()) || is_separator(two)),
            _ => Some(false),
        }
    }
}

/// Whether a (possibly nested) component is of the byte-level kind.
fn mentions_byte_level(component: &Value) -> bool {
    let inner = ["pretokenizers", "decoders"].iter().filter_map(|k| component.get(k)?.as_array()).flatten();
    component.get("type").and_then(Value::as_str) == Some("ByteLevel")
        || inner.into_iter().any(|c| c.get("type").and_then(Value::as_str) == Some("ByteLevel"))
}

fn added_tokens(root: &Object<'_>) -> Result<Vec<(u32, String, bool)>> {
    let entries = root.array("added_tokens")?.unwrap_or(&[]);
    let read = |entry: &Value| {
        let id = entry.get("id").and_then(as_u64).filter(|&id| id < super::MAX_TOKENS as u64)?;
        let content = entry.get("content")?.as_str()?;
        let special = entry.get("special").and_then(Value::as_bool).unwrap_or(false);
        Some((id as u32, content.to_owned(), special))
    };
    let bad = || root.error("added_tokens", "objects with id and content are expected");
    entries.iter().map(|e| read(e).ok_or_else(bad)).collect()
}

/// The vocabulary. SentencePiece merges by score, this file lists merges by rank: the piece that merge number
/// `r` makes first gets score `-r`, which orders all merges as the list does.
fn tokens(model: &Object<'_>, added_tokens: &[(u32, String, bool)]) -> Result<Vec<Option<Token>>> {
    let vocab = model.object("vocab")?.ok_or_else(|| model.missing("vocab"))?;
    let ranks = ranks(model)?;
    let last = ranks.len() as f32;
    let mut tokens: Vec<Option<Token>> = Vec::new();
    // Ids are dense in a sound file; a little room for holes, none for an absurd id.
    let end = (vocab.entries().count() + added_tokens.len()) as u64 * 2 + 1024;
    for (piece, id) in vocab.entries() {
        let Some(id) = as_u64(id).filter(|&id| id < end) else {
            return Err(vocab.error(piece, "not a token id"));
        };
        let id = id as usize;
        if id >= tokens.len() {
            tokens.resize(id + 1, None);
        }
        if tokens[id].is_some() {
            return Err(vocab.error(piece, format!("the id {id} is given twice")));
        }
        let (kind, score) = match parse_byte(piece) {
            Some(_) => (TokenKind::Byte, 0.0),
            None => (TokenKind::Normal, ranks.get(piece.as_str()).map_or(-last, |&rank| -(rank as f32))),
        };
        tokens[id] = Some(Token { piece: piece.clone(), score, kind });
    }
    for (id, content, special) in added_tokens {
        // Those beyond the vocabulary are appended by the caller.
        if let Some(token) = tokens.get_mut(*id as usize) {
            *token = Some(added(content, *special));
        }
    }
    Ok(tokens)
}

/// For each piece, the first merge that makes it.
fn ranks(model: &Object<'_>) -> Result<HashMap<String, usize>> {
    let merges = model.array("merges")?.unwrap_or(&[]);
    let mut ranks = HashMap::with_capacity(merges.len());
    for (rank, merge) in merges.iter().enumerate() {
        // "a b", or since transformers 4.45 ["a", "b"].
        let pair = match merge {
            Value::String(text) => text.split_once(' '),
            Value::Array(pair) => match pair.as_slice() {
                [Value::String(a), Value::String(b)] => Some((a.as_str(), b.as_str())),
                _ => None,
            },
            _ => None,
        };
        let Some((a, b)) = pair else {
            return Err(model.error("merges", format!("entry {rank} is no pair of pieces")));
        };
        ranks.entry(format!("{a}{b}")).or_insert(rank);
    }
    Ok(ranks)
}

fn prefix(root: &Object<'_>) -> Result<SpacePrefix> {
    let unsupported = |what: String| Err(Error::unsupported(root.file(), what));
    let mut prefix = SpacePrefix::Never;
    for component in components(root.get("normalizer"), "normalizers") {
        let string = |key: &str| component.get(key).and_then(Value::as_str);
        match string("type").unwrap_or_default() {
            "Prepend" if string("prepend") == Some("\u{2581}") => prefix = SpacePrefix::Always,
            "Replace" if component.pointer("/pattern/String").and_then(Value::as_str) == Some(" ") => {}
            other => return unsupported(format!("normalizer {other:?} is not supported")),
        }
    }
    for component in components(root.get("pre_tokenizer"), "pretokenizers") {
        let string = |key: &str| component.get(key).and_then(Value::as_str);
        let flag = |key: &str| component.get(key).and_then(Value::as_bool);
        match string("type").unwrap_or_default() {
            "Metaspace" if flag("split") == Some(false) => {
                let scheme = string("prepend_scheme");
                prefix = match scheme.or(flag("add_prefix_space").map(|b| if b { "always" } else { "never" }))
                {
                    Some("always") | None => SpacePrefix::AlwaysUnlessSpace,
                    Some("first") => SpacePrefix::FirstUnlessSpace,
                    Some("never") => SpacePrefix::Never,
                    Some(other) => return unsupported(format!("prepend_scheme {other:?} is not supported")),
                };
            }
            "Metaspace" => {
                return unsupported("a Metaspace pre-tokenizer that splits is not supported".into());
            }
            other => return unsupported(format!("pre-tokenizer {other:?} is not supported")),
        }
    }
    Ok(prefix)
}

/// The parts of a normalizer or pre-tokenizer, which may be none, one, or a sequence.
fn components<'a>(component: Option<&'a Value>, inner: &str) -> &'a [Value] {
    match component {
        None => &[],
        Some(one) => {
            one.get(inner).and_then(Value::as_array).map_or(std::slice::from_ref(one), |v| v.as_slice())
        }
    }
}

type Template = (Option<String>, Option<String>, Vec<Option<String>>);

/// First and last special token of a single text, and the template for a pair.
fn template(root: &Object<'_>) -> Template {
    let special = |part: &Value| part.pointer("/SpecialToken/id").and_then(Value::as_str).map(str::to_owned);
    let all = components(root.get("post_processor"), "processors");
    let found = all.iter().find(|c| c.get("type").and_then(Value::as_str) == Some("TemplateProcessing"));
    let parts = |key: &str| found.and_then(|c| c.get(key)?.as_array()).map_or(&[][..], |v| v.as_slice());
    let pair = parts("pair").iter().map(special).collect();
    match parts("single") {
        [first, .., last] => (special(first), special(last), pair),
        _ => (None, None, pair),
    }
}
