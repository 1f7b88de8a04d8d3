//! The tokenizer files of a Hugging Face directory.
//!
//! | file | what is taken from it |
//! |---|---|
//! | `tokenizer.model` | pieces, scores, kinds |
//! | `tokenizer.json` | the same where there is no `tokenizer.model` (score = minus the rank of the first merge that makes the piece); added tokens, space prefix, whether BOS and EOS are added |
//! | `tokenizer_config.json` | added tokens, special tokens' texts, `add_bos_token` …, chat template |
//! | `added_tokens.json`, `special_tokens_map.json`, `chat_template.jinja` | the older places of the same |
//! | `config.json`, `generation_config.json` | special tokens' ids, further ends of text |
//!
//! The rules are those of llama.cpp's converter, so that what is read here and what is read from the GGUF
//! file made of it agree; where it loses something that transformers respects, transformers wins.

use std::path::Path;

use quern_tensor_io::{Error, Result, StringArray};
use serde_json::Value;

use crate::json::{Json, Object, as_u64, read_bytes, read_text};

use super::fast::Fast;
use super::protobuf::{self, SentencePieceModel};
use super::vocabulary::{SPACE, TokenKind};
use super::{Parts, SpacePrefix, SpecialIds, Tokenizer};

/// Types of special tokens in the order the converter writes their ids.
pub(crate) const TYPES: [&str; 8] = ["bos", "eos", "unk", "sep", "pad", "cls", "mask", "eot"];

/// What the files of a directory say, as it goes into GGUF metadata and into a [`Tokenizer`].
#[derive(Debug)]
pub(crate) struct Source {
    pub pieces: StringArray,
    pub scores: Vec<f32>,
    pub kinds: Vec<TokenKind>,
    /// Type and id, in the order found.
    pub ids: Vec<(&'static str, u32)>,
    /// Type and whether it is added, in the order found.
    pub add: Vec<(&'static str, bool)>,
    pub prefix: SpacePrefix,
    /// Whether `tokenizer_config.json` speaks of the prefix.
    pub prefix_given: bool,
    /// Name and text; the one named `default` is the one to use.
    pub chat_templates: Vec<(String, String)>,
    /// Ends of text from `generation_config.json`.
    pub ends: Vec<u32>,
}

impl Source {
    /// Reads `directory`. With `vocab_size`, pieces beyond are dropped and missing ones filled up.
    pub fn read(directory: &Path, vocab_size: Option<usize>) -> Result<Self> {
        let optional = |name: &str| Json::read_optional(&directory.join(name));
        let fast = match optional("tokenizer.json")? {
            Some(json) => Some(Fast::read(&json.root())?),
            None => None,
        };
        let config = optional("tokenizer_config.json")?;
        let config = config.as_ref().map(Json::root);
        let model_file = directory.join("tokenizer.model");
        let model = match model_file.is_file() {
            true => Some(protobuf::parse(&model_file, &read_bytes(&model_file)?)?),
            false => None,
        };

        let mut list = match (&model, &fast) {
            (Some(model), _) => List::from_model(model),
            (None, Some(fast)) => List { tokens: fast.tokens.clone() },
            (None, None) if directory.join("vocab.json").is_file() => {
                return Err(Error::unsupported(directory.join("vocab.json"), super::BYTE_LEVEL));
            }
            (None, None) => {
                let what = "there is no tokenizer here (neither tokenizer.json nor tokenizer.model)";
                return Err(Error::malformed(directory, what));
            }
        };
        if let Some(size) = vocab_size {
            list.tokens.resize(size, None);
        }
        if let Some(json) = optional("added_tokens.json")? {
            list.add_old_style(&json.root(), vocab_size)?;
        }
        if let Some(config) = &config {
            list.add_decoder(config, vocab_size)?;
        }
        if let Some(fast) = &fast {
            list.add_missing(fast, vocab_size);
        }

        let mut special = Special { list: &list, fast: fast.as_ref(), ids: Vec::new(), add: Vec::new() };
        special.read(directory, config.as_ref())?;
        let Special { ids, add, .. } = special;

        let given = match &config {
            Some(config) => config.bool("add_prefix_space")?,
            None => None,
        };
        let prefix = match (&fast, &model) {
            (Some(fast), _) => fast.prefix,
            (None, Some(model)) if given.unwrap_or(model.add_dummy_prefix) => SpacePrefix::Always,
            _ => SpacePrefix::Never,
        };
        let ends = generation_ends(directory, list.tokens.len())?;
        let chat_templates = chat_templates(directory, config.as_ref())?;
        let (pieces, scores, kinds) = list.finish();
        Ok(Self {
            pieces,
            scores,
            kinds,
            ids,
            add,
            prefix,
            prefix_given: given.is_some(),
            chat_templates,
            ends,
        })
    }

    pub fn id(&self, kind: &str) -> Option<u32> {
        self.ids.iter().find(|(k, _)| *k == kind).map(|&(_, id)| id)
    }

    pub fn adds(&self, kind: &str) -> Option<bool> {
        self.add.iter().find(|(k, _)| *k == kind).map(|&(_, add)| add)
    }

    pub fn into_tokenizer(self) -> Tokenizer {
        // Where no file names them, the ids every model of this kind has.
        let default = |id: u32, kind: TokenKind| (self.kinds.get(id as usize) == Some(&kind)).then_some(id);
        let unknown = || self.kinds.iter().position(|&k| k == TokenKind::Unknown).map(|i| i as u32);
        let ids = SpecialIds {
            bos: self.id("bos").or_else(|| default(1, TokenKind::Control)),
            eos: self.id("eos").or_else(|| default(2, TokenKind::Control)),
            unk: self.id("unk").or_else(unknown),
            sep: self.id("sep"),
            pad: self.id("pad"),
            mask: self.id("mask"),
            eot: self.id("eot"),
            eom: None,
        };
        let chat_template = self.chat_templates.iter().find(|(name, _)| name == "default");
        Tokenizer::assemble(Parts {
            ids,
            add_bos: self.adds("bos").unwrap_or(true),
            add_eos: self.adds("eos").unwrap_or(false),
            prefix: self.prefix,
            chat_template: chat_template.map(|(_, text)| text.clone()),
            pieces: self.pieces,
            scores: self.scores,
            kinds: self.kinds,
            ends: self.ends,
        })
    }
}

/// One token.
#[derive(Clone, Debug)]
pub(crate) struct Token {
    pub piece: String,
    pub score: f32,
    pub kind: TokenKind,
}

/// The vocabulary while it is put together; `None` for ids nothing is known of.
struct List {
    tokens: Vec<Option<Token>>,
}

impl List {
    fn from_model(model: &SentencePieceModel) -> Self {
        let pieces = model.pieces.iter().zip(&model.scores).zip(&model.kinds);
        let token = |((piece, &score), &kind): ((&str, &f32), &TokenKind)| {
            // The converter knows no user-defined pieces: they are ordinary ones of the highest score.
            let kind = if kind == TokenKind::UserDefined { TokenKind::Normal } else { kind };
            Some(Token { piece: piece.to_owned(), score, kind })
        };
        Self { tokens: pieces.map(token).collect() }
    }

    /// Sets token `id`, unless it lies beyond `vocab_size`.
    fn set(&mut self, id: u64, token: Token, vocab_size: Option<usize>) {
        let end = vocab_size.unwrap_or(super::MAX_TOKENS) as u64;
        if id < end {
            let id = id as usize;
            if id >= self.tokens.len() {
                self.tokens.resize(id + 1, None);
            }
            self.tokens[id] = Some(token);
        }
    }

    /// An id that the file gives; far beyond the vocabulary it is damage, not a token.
    fn checked_id(&self, object: &Object<'_>, key: &str, id: Option<u64>) -> Result<u64> {
        match id {
            Some(id) if id <= self.tokens.len() as u64 + (1 << 20) => Ok(id),
            _ => Err(object.error(key, "not a token id")),
        }
    }

    /// `added_tokens.json`: text to id.
    fn add_old_style(&mut self, object: &Object<'_>, vocab_size: Option<usize>) -> Result<()> {
        for (piece, id) in object.entries() {
            let id = self.checked_id(object, piece, as_u64(id))?;
            self.set(
                id,
                Token { piece: piece.clone(), score: ADDED_SCORE, kind: TokenKind::UserDefined },
                vocab_size,
            );
        }
        Ok(())
    }

    /// `added_tokens_decoder` of `tokenizer_config.json`: id to text and whether it is special.
    fn add_decoder(&mut self, config: &Object<'_>, vocab_size: Option<usize>) -> Result<()> {
        let Some(decoder) = config.object("added_tokens_decoder")? else { return Ok(()) };
        for (key, _) in decoder.entries() {
            let id = self.checked_id(&decoder, key, key.parse().ok())?;
            let Some(entry) = decoder.object(key)? else { continue };
            let content = entry.str("content")?.ok_or_else(|| entry.missing("content"))?;
            self.set(id, added(content, entry.bool("special")?.unwrap_or(false)), vocab_size);
        }
        Ok(())
    }

    /// Added tokens of `tokenizer.json` for ids that nothing else has named.
    fn add_missing(&mut self, fast: &Fast, vocab_size: Option<usize>) {
        for (id, content, special) in &fast.added {
            if self.tokens.get(*id as usize).is_none_or(Option::is_none) {
                self.set(u64::from(*id), added(content, *special), vocab_size);
            }
        }
    }

    fn finish(self) -> (StringArray, Vec<f32>, Vec<TokenKind>) {
        let (mut pieces, mut scores, mut kinds) = (StringArray::new(), Vec::new(), Vec::new());
        for (id, token) in self.tokens.into_iter().enumerate() {
            match token {
                Some(token) => {
                    pieces.push(&token.piece);
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

const ADDED_SCORE: f32 = -1000.0;
const PAD_SCORE: f32 = -10000.0;

/// An added token as the converter classifies it.
pub(super) fn added(content: &str, special: bool) -> Token {
    if special || looks_special(content) {
        return Token { piece: content.to_owned(), score: ADDED_SCORE, kind: TokenKind::Control };
    }
    // Recognised in raw text, so with spaces as raw text has them.
    Token { piece: content.replace(SPACE, " "), score: ADDED_SCORE, kind: TokenKind::UserDefined }
}

/// Added tokens whose publishers forgot to mark them as special.
fn looks_special(content: &str) -> bool {
    let within = |start: &str, end: &str| content.starts_with(start) && content.ends_with(end);
    matches!(content, "<pad>" | "<mask>" | "<2mass>" | "[@BOS@]")
        || within("<|", "|>")
        || within("<\u{FF5C}", "\u{FF5C}>")
        || within("<unused", ">")
}

/// Finds the special tokens' ids and whether they are added.
struct Special<'a> {
    list: &'a List,
    fast: Option<&'a Fast>,
    ids: Vec<(&'static str, u32)>,
    add: Vec<(&'static str, bool)>,
}

impl Special<'_> {
    fn read(&mut self, directory: &Path, config: Option<&Object<'_>>) -> Result<()> {
        let map = Json::read_optional(&directory.join("special_tokens_map.json"))?;
        let map = map.as_ref().map(Json::root);
        if let Some(fast) = self.fast {
            let text = |kind| config.and_then(|c| content(c, kind));
            // A first or last token of the template is one of these, or it is not known what it is.
            let ends = [text("bos").or(text("cls")), text("eos").or(text("sep"))];
            let matches = |found: &str, known: Option<&str>| known.is_none_or(|known| known == found);
            if let Some(first) = &fast.first {
                self.add.push(("bos", matches(first, ends[0])));
            }
            if let Some(last) = &fast.last {
                self.add.push(("eos", matches(last, ends[1])));
            }
            if let Some(middle) = fast.adds_separator(text("sep"), text("eos")) {
                self.add.push(("sep", middle));
            }
        }
        if let Some(config) = config {
            for kind in TYPES {
                let added = config.get(&format!("add_{kind}_token")).and_then(Value::as_bool);
                if let Some(added) = added {
                    match self.add.iter_mut().find(|(k, _)| *k == kind) {
                        Some(entry) => entry.1 = added,
                        None => self.add.push((kind, added)),
                    }
                }
                self.find(kind, content(config, kind));
            }
        }
        // transformers' Llama classes add BOS whatever the template says; for the others a template that puts
        // nothing in front means it, and readers of the GGUF must be told.
        let class = config.and_then(|c| c.get("tokenizer_class")?.as_str()).unwrap_or_default();
        let silent = !self.add.iter().any(|(k, _)| *k == "bos");
        if self.fast.is_some() && silent && !class.starts_with("Llama") {
            self.add.push(("bos", false));
        }
        if let Some(json) = Json::read_optional(&directory.join("config.json"))? {
            for kind in TYPES {
                // A list (Llama 3's eos) names ends of generation, not the token itself.
                let id = json.root().get(&format!("{kind}_token_id")).and_then(Value::as_u64);
                self.set(kind, id);
            }
        }
        for kind in TYPES {
            self.find(kind, map.as_ref().and_then(|m| content(m, kind)));
        }
        Ok(())
    }

    fn set(&mut self, kind: &'static str, id: Option<u64>) {
        let known = self.ids.iter().any(|(k, _)| *k == kind);
        match id {
            Some(id) if !known && id < self.list.tokens.len() as u64 => self.ids.push((kind, id as u32)),
            _ => {}
        }
    }

    /// Sets the id of the special token with this text.
    fn find(&mut self, kind: &'static str, content: Option<&str>) {
        let Some(content) = content else { return };
        let added = self.fast.into_iter().flat_map(|f| &f.added).find(|(_, c, _)| c == content);
        let id = added.map(|&(id, ..)| u64::from(id)).or_else(|| {
            let special = |t: &Option<Token>| {
                t.as_ref().is_some_and(|t| t.piece == content && t.kind != TokenKind::Normal)
            };
            self.list.tokens.iter().position(special).map(|id| id as u64)
        });
        self.set(kind, id);
    }
}

/// The text of a special token: a string, or an object with `content`.
fn content<'a>(object: &Object<'a>, kind: &str) -> Option<&'a str> {
    let entry = object.get(&format!("{kind}_token"))?;
    entry.as_str().or_else(|| entry.get("content")?.as_str())
}

/// `eos_token_id` of `generation_config.json`: one id or a list.
fn generation_ends(directory: &Path, tokens: usize) -> Result<Vec<u32>> {
    let Some(json) = Json::read_optional(&directory.join("generation_config.json"))? else {
        return Ok(Vec::new());
    };
    let root = json.root();
    let listed = match root.get("eos_token_id") {
        None => &[],
        Some(Value::Array(list)) => list.as_slice(),
        Some(one) => std::slice::from_ref(one),
    };
    let id = |value: &Value| match as_u64(value).filter(|&id| id < tokens as u64) {
        Some(id) => Ok(id as u32),
        None => Err(root.error("eos_token_id", format!("not the id of one of {tokens} tokens"))),
    };
    listed.iter().map(id).collect()
}

fn chat_templates(directory: &Path, config: Option<&Object<'_>>) -> Result<Vec<(String, String)>> {
    let default = |text: &str| vec![("default".to_owned(), text.to_owned())];
    if let Some(config) = config {
        match config.get("chat_template") {
            None => {}
            Some(Value::String(text)) => return Ok(default(text)),
            Some(Value::Array(list)) => {
                let named = |entry: &Value| {
                    let part = |key| entry.get(key).and_then(Value::as_str).map(str::to_owned);
                    part("name").zip(part("template")).ok_or_else(|| {
                        config.error("chat_template", "a list of objects with name and template is expected")
                    })
                };
                return list.iter().map(named).collect();
            }
            Some(_) => return Err(config.error("chat_template", "a string or a list is expected")),
        }
    }
    let file = directory.join("chat_template.jinja");
    if file.is_file() {
        return Ok(default(&read_text(&file)?));
    }
    if let Some(json) = Json::read_optional(&directory.join("chat_template.json"))? {
        return Ok(json.root().str("chat_template")?.map_or(Vec::new(), default));
    }
    Ok(Vec::new())
}
