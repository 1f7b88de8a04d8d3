//! `tokenizer.json` of the Hugging Face tokenizers library: BPE, byte-level or in SentencePiece's form.

use std::path::Path;
use std::sync::Arc;

use quern_tensor_io::{Error, Result, StringArray};
use serde_json::Value;

use crate::tokenizer::SpacePrefix;
use crate::tokenizer::pre_tokenizer::Pipeline;
use crate::tokenizer::vocabulary::{TokenKind, parse_byte};

use super::read_json::{self, Content, ModelContent};
use super::tokens::{AddedTokens, Token, Tokens};
use super::values::{Pieces, Short};

/// What a `tokenizer.json` says.
#[derive(Debug)]
pub(super) struct TokenizerJson {
    pub model: Model,
    pub added: AddedTokens,
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
    pub tokens: Tokens,
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
    pub tokens: Tokens,
    /// Left and right pieces in turn.
    pub merges: StringArray,
    pub ignore_merges: bool,
    /// Whether neighbours become the piece of the lowest id, whatever the merges are.
    pub by_rank: bool,
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
    /// Reads `file`.
    pub fn read(file: &Path) -> Result<Self> {
        let mut content = read_json::read(file, read_json::Whole)?;
        let missing = |key: &str| Error::malformed(file, format!("the key {key:?} is missing"));
        let mut model = content.model.take().ok_or_else(|| missing("model"))?;
        let parts = [&content.pre_tokenizer, &content.decoder, &content.normalizer];
        let byte_level = parts.into_iter().any(mentions_byte_level);
        match model.kind.as_ref().map(|Short(name)| name.as_str()) {
            Some("BPE") | None if byte_level || model.byte_fallback => {}
            Some("BPE") | None => {
                let what =
                    "a BPE tokenizer that is neither byte-level nor falls back to bytes is not supported";
                return Err(Error::unsupported(file, what));
            }
            Some(other) => {
                let name: String = other.chars().take(40).collect();
                return Err(Error::unsupported(
                    file,
                    format!("tokenizer model {name:?} is not supported (BPE is)"),
                ));
            }
        }
        let vocab = model.vocab.take().ok_or_else(|| missing("model.vocab"))?;
        let processors = processors(&content.post_processor);
        let added = std::mem::take(&mut content.added);
        let model = match byte_level {
            true => {
                let tokens = pieces(file, "model.vocab", &vocab, added.len(), |_| TokenKind::Normal)?;
                Model::ByteLevel(byte_level_parts(file, content, model, tokens)?)
            }
            false => {
                let kind = |piece: &str| match parse_byte(piece) {
                    Some(_) => TokenKind::Byte,
                    None => TokenKind::Normal,
                };
                let tokens = pieces(file, "model.vocab", &vocab, added.len(), kind)?;
                Model::SentencePiece(sentence_piece_parts(file, &content, model, tokens)?)
            }
        };
        Ok(Self { model, added, processors })
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

/// The pieces of `vocab`, which is called `key` in errors, by id.
pub(super) fn pieces(
    file: &Path,
    key: &str,
    vocab: &Pieces,
    added: usize,
    kind: impl Fn(&str) -> TokenKind,
) -> Result<Tokens> {
    let mut tokens = Tokens::default();
    // Ids are dense in a valid file; small gaps are allowed, an absurd id is not.
    let end = (vocab.len() + added) * 2 + 1024;
    for (piece, id) in vocab.iter() {
        let bad = |what: String| {
            let piece: String = piece.chars().take(60).collect();
            Error::malformed(file, format!("{key}.{piece}: {what}"))
        };
        let id = id as usize;
        if id >= end {
            return Err(bad("not a token id".into()));
        }
        if tokens.get(id).is_some() {
            return Err(bad(format!("the id {id} is given twice")));
        }
        tokens.set(id, Token { piece, score: 0.0, kind: kind(piece) });
    }
    Ok(tokens)
}

fn byte_level_parts(
    file: &Path,
    content: Content,
    model: ModelContent,
    tokens: Tokens,
) -> Result<ByteLevelParts> {
    let affixes = [
        ("continuing_subword_prefix", &model.continuing_subword_prefix),
        ("end_of_word_suffix", &model.end_of_word_suffix),
    ];
    for (key, affix) in affixes {
        if affix.as_ref().is_some_and(|Short(text)| !text.is_empty()) {
            let what = format!("model.{key} is not supported in a byte-level tokenizer");
            return Err(Error::unsupported(file, what));
        }
    }
    let Content { normalizer, pre_tokenizer, .. } = content;
    let pipeline = Pipeline::new(&normalizer, &pre_tokenizer)
        .map_err(|(key, what)| Error::malformed(file, format!("{key}: {what}")))?;
    Ok(ByteLevelParts {
        tokens,
        merges: model.merges,
        ignore_merges: model.ignore_merges,
        by_rank: false,
        unknown: model.unknown.map(|Short(text)| text),
        normalizer,
        pre_tokenizer,
        pipeline: Arc::new(pipeline),
    })
}

fn sentence_piece_parts(
    file: &Path,
    content: &Content,
    model: ModelContent,
    tokens: Tokens,
) -> Result<SentencePieceParts> {
    Ok(SentencePieceParts {
        tokens,
        prefix: prefix(file, content)?,
        normalizes: !content.normalizer.is_null(),
        merges: model.merges,
        ignore_merges: model.ignore_merges,
        unknown: model.unknown.map(|Short(text)| text),
        fuse_unknown: model.fuse_unknown,
    })
}

fn prefix(file: &Path, content: &Content) -> Result<SpacePrefix> {
    let unsupported = |what: String| Err(Error::unsupported(file, what));
    let mut prefix = SpacePrefix::Never;
    let mut spaces_gone = false;
    for component in components(&content.normalizer, "normalizers") {
        let string = |key: &str| component.get(key).and_then(Value::as_str);
        match kind(component) {
            "Prepend" if string("prepend") == Some("\u{2581}") => prefix = SpacePrefix::Always,
            "Replace" if component.pointer("/pattern/String").and_then(Value::as_str) == Some(" ") => {
                spaces_gone = string("content") == Some("\u{2581}");
            }
            other => return unsupported(format!("normalizer {other:?} is not supported")),
        }
    }
    for component in components(&content.pre_tokenizer, "pretokenizers") {
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
fn components<'a>(component: &'a Value, inner: &str) -> &'a [Value] {
    match component {
        Value::Null => &[],
        one => one.get(inner).and_then(Value::as_array).map_or(std::slice::from_ref(one), |v| v.as_slice()),
    }
}

fn processors(section: &Value) -> Vec<Processor> {
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
    components(section, "processors").iter().filter_map(read).collect()
}
