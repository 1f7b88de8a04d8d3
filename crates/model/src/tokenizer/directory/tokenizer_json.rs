//! `tokenizer.json` of the Hugging Face tokenizers library: BPE, byte-level or in SentencePiece's form.

use std::sync::Arc;

use quern_tensor_io::{Error, Result, StringArray};
use serde_json::Value;

use crate::json::{Object, as_u64};
use crate::tokenizer::SpacePrefix;
use crate::tokenizer::pre_tokenizer::Pipeline;
use crate::tokenizer::vocabulary::{TokenKind, parse_byte};

use super::list::{Added, Token, edges_of};

/// What a `tokenizer.json` says.
#[derive(Debug)]
pub(super) struct TokenizerJson {
    pub model: Model,
    pub added: Vec<Added>,
    pub processors: Vec<Processor>,
}

/// The two kinds of BPE.
#[derive(Debug)]
pub(super) enum Model {
    SentencePiece(SentencePieceParts),
    ByteLevel(ByteLevelParts),
}

/// SentencePiece BPE.
#[derive(Debug)]
pub(super) struct SentencePieceParts {
    /// Without scores.
    pub tokens: Vec<Option<Token>>,
    pub prefix: SpacePrefix,
    /// Whether a normalizer makes U+2581 of spaces before added tokens are looked for a second time.
    pub normalizes: bool,
    /// Left and right pieces in turn.
    pub merges: StringArray,
    pub ignore_merges: bool,
    pub unknown: Option<String>,
    pub fuse_unknown: bool,
}

/// Byte-level BPE, from whatever files.
#[derive(Debug)]
pub(super) struct ByteLevelParts {
    pub tokens: Vec<Option<Token>>,
    /// Left and right pieces in turn.
    pub merges: StringArray,
    pub ignore_merges: bool,
    pub unknown: Option<String>,
    pub normalizer: Value,
    pub pre_tokenizer: Value,
    pub pipeline: Arc<Pipeline>,
}

/// What is put around a text, as far as it is understood.
#[derive(Debug)]
pub(super) enum Processor {
    ByteLevel,
    Roberta {
        cls: Option<String>,
        sep: Option<String>,
    },
    /// Special tokens by text, `None` for a text.
    Template {
        single: Vec<Option<String>>,
        pair: Vec<Option<String>>,
    },
}

impl TokenizerJson {
    pub fn read(root: &Object<'_>) -> Result<Self> {
        let model = root.object("model")?.ok_or_else(|| root.missing("model"))?;
        let byte_level = ["pre_tokenizer", "decoder", "normalizer"]
            .iter()
            .any(|key| root.get(key).is_some_and(mentions_byte_level));
        let fallback = model.bool("byte_fallback")?.unwrap_or(false);
        match model.str("type")? {
            Some("BPE") | None if byte_level || fallback => {}
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
        let model = match byte_level {
            true => Model::ByteLevel(byte_level_parts(root, &model, added.len())?),
            false => Model::SentencePiece(sentence_piece_parts(root, &model, added.len())?),
        };
        Ok(Self { model, added, processors: processors(root) })
    }
}

/// Whether a (possibly nested) component is of the byte-level kind.
fn mentions_byte_level(component: &Value) -> bool {
    let lists = ["pretokenizers", "decoders", "normalizers"];
    let mut inner = lists.iter().filter_map(|k| component.get(k)?.as_array()).flatten();
    kind(component) == "ByteLevel" || inner.any(mentions_byte_level)
}

fn kind(component: &Value) -> &str {
    component.get("type").and_then(Value::as_str).unwrap_or_default()
}

fn added_tokens(root: &Object<'_>) -> Result<Vec<Added>> {
    let entries = root.array("added_tokens")?.unwrap_or(&[]);
    let read = |entry: &Value| {
        let max = crate::tokenizer::MAX_TOKENS as u64;
        let id = entry.get("id").and_then(as_u64).filter(|&id| id < max)? as u32;
        let content = entry.get("content")?.as_str()?.to_owned();
        let special = entry.get("special").and_then(Value::as_bool).unwrap_or(false);
        Some(Added { id, content, special, edges: edges_of(entry) })
    };
    let bad = || root.error("added_tokens", "objects with id and content are expected");
    entries.iter().map(|e| read(e).ok_or_else(bad)).collect()
}

/// The pieces of `vocab` by id; `token` makes a token of each.
pub(super) fn pieces(
    vocab: &Object<'_>,
    added: usize,
    token: impl Fn(&str) -> Token,
) -> Result<Vec<Option<Token>>> {
    let mut tokens: Vec<Option<Token>> = Vec::new();
    // Ids are dense in a valid file; small gaps are allowed, an absurd id is not.
    let end = (vocab.entries().count() + added) as u64 * 2 + 1024;
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
        tokens[id] = Some(token(piece));
    }
    Ok(tokens)
}

/// An ordinary piece of a byte-level vocabulary.
pub(super) fn plain(piece: &str) -> Token {
    Token { piece: piece.to_owned(), score: 0.0, kind: TokenKind::Normal }
}

fn byte_level_parts(root: &Object<'_>, model: &Object<'_>, added: usize) -> Result<ByteLevelParts> {
    for key in ["continuing_subword_prefix", "end_of_word_suffix"] {
        if model.str(key)?.is_some_and(|text| !text.is_empty()) {
            let what = format!("{} is not supported in a byte-level tokenizer", model.name(key));
            return Err(Error::unsupported(root.file(), what));
        }
    }
    let vocab = model.object("vocab")?.ok_or_else(|| model.missing("vocab"))?;
    let component = |key: &str| root.get(key).cloned().unwrap_or(Value::Null);
    let (normalizer, pre_tokenizer) = (component("normalizer"), component("pre_tokenizer"));
    let pipeline = Pipeline::new(&normalizer, &pre_tokenizer).map_err(|(key, what)| root.error(key, what))?;
    Ok(ByteLevelParts {
        tokens: pieces(&vocab, added, plain)?,
        merges: merges(model)?,
        ignore_merges: model.bool("ignore_merges")?.unwrap_or(false),
        unknown: model.str("unk_token")?.map(str::to_owned),
        normalizer,
        pre_tokenizer,
        pipeline: Arc::new(pipeline),
    })
}

fn sentence_piece_parts(root: &Object<'_>, model: &Object<'_>, added: usize) -> Result<SentencePieceParts> {
    let vocab = model.object("vocab")?.ok_or_else(|| model.missing("vocab"))?;
    let token = |piece: &str| {
        let kind = if parse_byte(piece).is_some() { TokenKind::Byte } else { TokenKind::Normal };
        Token { kind, ..plain(piece) }
    };
    Ok(SentencePieceParts {
        tokens: pieces(&vocab, added, token)?,
        prefix: prefix(root)?,
        normalizes: root.get("normalizer").is_some(),
        merges: merges(model)?,
        ignore_merges: model.bool("ignore_merges")?.unwrap_or(false),
        unknown: model.str("unk_token")?.map(str::to_owned),
        fuse_unknown: model.bool("fuse_unk")?.unwrap_or(false),
    })
}

/// All merges, left and right pieces in turn.
fn merges(model: &Object<'_>) -> Result<StringArray> {
    let list = model.array("merges")?.unwrap_or(&[]);
    let mut merges = StringArray::with_capacity(2 * list.len());
    for (at, merge) in list.iter().enumerate() {
        // "a b", or since transformers 4.45 ["a", "b"].
        let pair = match merge {
            // Files of the first versions begin as merges.txt does.
            Value::String(text) if text.starts_with("#version") => continue,
            Value::String(text) => text.split_once(' '),
            Value::Array(pair) => match pair.as_slice() {
                [Value::String(a), Value::String(b)] => Some((a.as_str(), b.as_str())),
                _ => None,
            },
            _ => None,
        };
        let Some((a, b)) = pair else {
            return Err(model.error("merges", format!("entry {at} is no pair of pieces")));
        };
        merges.push(a);
        merges.push(b);
    }
    Ok(merges)
}

fn prefix(root: &Object<'_>) -> Result<SpacePrefix> {
    let unsupported = |what: String| Err(Error::unsupported(root.file(), what));
    let mut prefix = SpacePrefix::Never;
    let mut spaces_gone = false;
    for component in components(root.get("normalizer"), "normalizers") {
        let string = |key: &str| component.get(key).and_then(Value::as_str);
        match kind(component) {
            "Prepend" if string("prepend") == Some("\u{2581}") => prefix = SpacePrefix::Always,
            "Replace" if component.pointer("/pattern/String").and_then(Value::as_str) == Some(" ") => {
                spaces_gone = string("content") == Some("\u{2581}");
            }
            other => return unsupported(format!("normalizer {other:?} is not supported")),
        }
    }
    for component in components(root.get("pre_tokenizer"), "pretokenizers") {
        let string = |key: &str| component.get(key).and_then(Value::as_str);
        let flag = |key: &str| component.get(key).and_then(Value::as_bool);
        match kind(component) {
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
            // Gemma's, which finds nothing: its normalizer leaves no space.
            "Split" if spaces_gone && component.pointer("/pattern/String") == Some(&" ".into()) => {}
            other => return unsupported(format!("pre-tokenizer {other:?} is not supported")),
        }
    }
    Ok(prefix)
}

/// The parts of a component, which may be none, one, or a sequence.
fn components<'a>(component: Option<&'a Value>, inner: &str) -> &'a [Value] {
    match component {
        None => &[],
        Some(one) => {
            one.get(inner).and_then(Value::as_array).map_or(std::slice::from_ref(one), |v| v.as_slice())
        }
    }
}

fn processors(root: &Object<'_>) -> Vec<Processor> {
    let special = |part: &Value| part.pointer("/SpecialToken/id").and_then(Value::as_str).map(str::to_owned);
    let read = |component: &Value| {
        let parts = |key: &str| {
            let list = component.get(key).and_then(Value::as_array);
            list.map_or(Vec::new(), |list| list.iter().map(special).collect())
        };
        let first = |key: &str| Some(component.get(key)?.get(0)?.as_str()?.to_owned());
        Some(match kind(component) {
            "ByteLevel" => Processor::ByteLevel,
            "RobertaProcessing" => Processor::Roberta { cls: first("cls"), sep: first("sep") },
            "TemplateProcessing" => Processor::Template { single: parts("single"), pair: parts("pair") },
            _ => return None,
        })
    };
    components(root.get("post_processor"), "processors").iter().filter_map(read).collect()
}
