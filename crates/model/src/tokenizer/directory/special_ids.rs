//! Which tokens are beginning and end of text and their like, and which of them are put around a text.
//!
//! `tokenizer_config.json` names them by text, `config.json` by id. The post-processor of `tokenizer.json` states
//! which are added, or `tokenizer_config.json` where it does not. The rules and the order of the sources are those
//! of llama.cpp's converter.

use std::path::Path;

use quern_tensor_io::Result;
use serde_json::Value;

use crate::json::{Json, Object, as_u64};
use crate::tokenizer::special::no_such_token;
use crate::tokenizer::vocabulary::TokenKind;

use super::list::List;
use super::tokenizer_json::Processor;
use super::tokens::{AddedTokens, Token};

/// Types of special tokens in the order the converter writes their ids.
const TYPES: [&str; 8] = ["bos", "eos", "unk", "sep", "pad", "cls", "mask", "eot"];

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Special {
    /// Type and id, in the order found.
    pub ids: Vec<(&'static str, u32)>,
    /// Type and whether it is added, in the order found.
    pub add: Vec<(&'static str, bool)>,
    /// What follows beginning-of-text in front of every text (GLM-4), by text.
    pub after_bos: Vec<String>,
    /// Ids of tokens that do not exist, in words.
    pub notes: Vec<String>,
    /// One of them is the end of text.
    pub lost_end: bool,
}

/// Where to look.
pub(super) struct Places<'a> {
    pub directory: &'a Path,
    pub list: &'a List,
    pub added: &'a AddedTokens,
    pub processors: Option<&'a [Processor]>,
    pub config: Option<&'a Object<'a>>,
    /// Whether the ids of `config.json` count before the texts of `tokenizer_config.json`: llama.cpp's converter finds
    /// texts in `tokenizer.json` alone.
    pub ids_first: bool,
}

/// Reads the files of a directory.
pub(super) fn find(places: &Places<'_>) -> Result<Special> {
    let mut found = Special::default();
    let mut texts = Texts::new(places.config);
    for processor in places.processors.unwrap_or(&[]) {
        found.process(processor, &mut texts);
    }
    if let Some(config) = places.config {
        for kind in TYPES {
            let added = config.get(&format!("add_{kind}_token")).and_then(Value::as_bool);
            if let Some(added) = added
                && !found.add.iter().any(|(k, _)| *k == kind)
            {
                found.add.push((kind, added));
            }
            if !places.ids_first {
                found.find(places, kind, texts.get(kind));
            }
        }
    }
    if let Some(json) = Json::read_optional(&places.directory.join("config.json"))? {
        let whole = json.root();
        // Multimodal releases have some of them in the text model's part.
        let text = whole.get("text_config").filter(|text| text.is_object());
        let text = text.map(|text| whole.with("text_config", text));
        for kind in TYPES {
            // A list (Llama 3's eos) names ends of generation, not the token itself.
            let before = found.notes.len();
            let key = format!("{kind}_token_id");
            let place = match &text {
                Some(text) if whole.get(&key).is_none() => text,
                _ => &whole,
            };
            let value = place.get(&key).filter(|value| !value.is_array());
            let id = value
                .and_then(|value| token_id(place, &key, value, places.list.tokens.len(), &mut found.notes));
            found.lost_end |= kind == "eos" && found.notes.len() > before;
            found.set(places, kind, id.map(u64::from));
        }
    }
    if !places.ids_first
        && let Some(map) = Json::read_optional(&places.directory.join("special_tokens_map.json"))?
    {
        for kind in TYPES {
            found.find(places, kind, content(&map.root(), kind));
        }
    }
    // What no id has named. Without a tokenizer_config.json: what the template puts around a text must have an id to be
    // put there.
    for kind in ["bos", "eos"] {
        found.find(places, kind, texts.get(kind));
    }
    Ok(found)
}

impl Special {
    fn add(&mut self, kind: &'static str, value: bool) {
        match self.add.iter_mut().find(|(k, _)| *k == kind) {
            Some(entry) => entry.1 = value,
            None => self.add.push((kind, value)),
        }
    }

    fn process(&mut self, processor: &Processor, texts: &mut Texts) {
        match processor {
            Processor::ByteLevel => {
                for kind in ["bos", "eos"] {
                    if !self.add.iter().any(|(k, _)| *k == kind) {
                        self.add.push((kind, false));
                    }
                }
            }
            Processor::Roberta { cls, sep } => {
                for kind in ["bos", "eos", "sep"] {
                    self.add(kind, true);
                }
                texts.fill("cls", cls.as_deref());
                texts.fill("sep", sep.as_deref());
            }
            Processor::Template { single, pair } => self.template(single, pair, texts),
        }
    }

    fn template(&mut self, single: &[Option<String>], pair: &[Option<String>], texts: &mut Texts) {
        let (first, last) = match single {
            [first, .., last] => (first.as_deref(), last.as_deref()),
            _ => (None, None),
        };
        if let Some(first) = first {
            if texts.get("bos") != Some(first) && texts.get("cls") != Some(first) {
                texts.fill("bos", Some(first));
                texts.fill("cls", Some(first));
            }
            let known = texts.get("bos") == Some(first) || texts.get("cls") == Some(first);
            self.add("bos", known);
            if known {
                let front = single.iter().skip(1).map_while(Option::as_ref);
                self.after_bos = front.cloned().collect();
            }
        }
        if let Some(last) = last {
            // A text that ends in another token than the end of text: that was the end of a turn.
            if texts.get("eos") != Some(last) {
                let other = texts.get("eos").map(str::to_owned);
                texts.set("eot", other);
                texts.set("eos", Some(last.to_owned()));
            }
            self.add("eos", true);
        }
        if let Some(sep) = adds_separator(first, last, pair, texts) {
            self.add("sep", sep);
            if sep {
                let eos = texts.get("eos").map(str::to_owned);
                texts.fill("sep", eos.as_deref());
            }
        }
    }

    fn set(&mut self, places: &Places<'_>, kind: &'static str, id: Option<u64>) {
        let known = self.ids.iter().any(|(k, _)| *k == kind);
        match id {
            Some(id) if !known && id < places.list.tokens.len() as u64 => self.ids.push((kind, id as u32)),
            _ => {}
        }
    }

    /// Sets the id of the special token with this text.
    fn find(&mut self, places: &Places<'_>, kind: &'static str, content: Option<&str>) {
        let Some(content) = content else { return };
        let id = id_of(places, content).map(u64::from);
        self.set(places, kind, id);
    }
}

/// The id of the special token with this text.
pub(super) fn id_of(places: &Places<'_>, content: &str) -> Option<u32> {
    let added = places.added.iter().find(|added| added.content == content);
    added.map(|added| added.id).or_else(|| {
        let special = |(_, t): &(usize, Token<'_>)| t.piece == content && t.kind != TokenKind::Normal;
        places.list.tokens.known().find(special).map(|(id, _)| id as u32)
    })
}

/// The texts of special tokens, as `tokenizer_config.json` gives them and a template corrects them.
struct Texts(Vec<(&'static str, String)>);

impl Texts {
    fn new(config: Option<&Object<'_>>) -> Self {
        let mut texts = Self(Vec::new());
        let Some(config) = config else { return texts };
        // The end of a turn is none of the types that the file itself gives.
        for kind in TYPES.into_iter().filter(|&kind| kind != "eot") {
            texts.fill(kind, content(config, kind));
        }
        for (kind, other) in [("bos", "cls"), ("eos", "sep")] {
            let other = texts.get(other).map(str::to_owned);
            texts.fill(kind, other.as_deref());
        }
        texts
    }

    fn get(&self, kind: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| *k == kind).map(|(_, text)| text.as_str())
    }

    fn set(&mut self, kind: &'static str, text: Option<String>) {
        self.0.retain(|(k, _)| *k != kind);
        self.0.extend(text.map(|text| (kind, text)));
    }

    /// Sets what is not set yet.
    fn fill(&mut self, kind: &'static str, text: Option<&str>) {
        if self.get(kind).is_none() {
            self.set(kind, text.map(str::to_owned));
        }
    }
}

/// Whether there is a separator between two texts; `None` where the template does not show it.
fn adds_separator(
    first: Option<&str>,
    last: Option<&str>,
    pair: &[Option<String>],
    texts: &Texts,
) -> Option<bool> {
    let mut middle = pair;
    if let (Some(first), [Some(front), rest @ ..]) = (first, middle)
        && first == front
    {
        middle = rest;
    }
    if let (Some(last), [rest @ .., Some(back)]) = (last, middle)
        && last == back
    {
        middle = rest;
    }
    let [None, middle @ .., None] = middle else { return None };
    let is_separator = |t: &Option<String>| {
        t.as_deref().is_some_and(|t| Some(t) == texts.get("sep") || Some(t) == texts.get("eos"))
    };
    match middle {
        [] => None,
        [one] => Some(is_separator(one) && last.is_none()),
        [one, two] => Some((is_separator(one) && last.is_none()) || is_separator(two)),
        _ => Some(false),
    }
}

/// The text of a special token: a string, or an object with `content`.
pub(super) fn content<'a>(object: &Object<'a>, kind: &str) -> Option<&'a str> {
    let entry = object.get(&format!("{kind}_token"))?;
    entry.as_str().or_else(|| entry.get("content")?.as_str())
}

/// `eos_token_id` of `generation_config.json`: one id or a list. Ids of tokens that do not exist are ignored with
/// a note.
pub(super) fn generation_ends(directory: &Path, tokens: usize, notes: &mut Vec<String>) -> Result<Vec<u32>> {
    const KEY: &str = "eos_token_id";
    let Some(json) = Json::read_optional(&directory.join("generation_config.json"))? else {
        return Ok(Vec::new());
    };
    let root = json.root();
    let listed = match root.get(KEY) {
        None => &[],
        Some(Value::Array(list)) => list.as_slice(),
        Some(one) => std::slice::from_ref(one),
    };
    Ok(listed.iter().filter_map(|value| token_id(&root, KEY, value, tokens, notes)).collect())
}

/// The id of a token under `key`; one that does not exist is noted. -1 stands for none.
fn token_id(
    root: &Object<'_>,
    key: &str,
    value: &Value,
    tokens: usize,
    notes: &mut Vec<String>,
) -> Option<u32> {
    match as_u64(value) {
        Some(id) if id < tokens as u64 => return Some(id as u32),
        None if value.as_f64() == Some(-1.0) => return None,
        _ => {}
    }
    let found = match value {
        Value::Number(number) => number.to_string(),
        _ => "the value".to_owned(),
    };
    let file = root.file().file_name().unwrap_or_default().to_string_lossy().into_owned();
    notes.push(no_such_token(&format!("{file}: {key}"), &found, tokens, None));
    None
}
