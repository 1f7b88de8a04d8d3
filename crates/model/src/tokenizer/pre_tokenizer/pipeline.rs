//! Normalizing and cutting text, with the tokenizers library's components.

use serde_json::Value;
use tokenizers::{
    NormalizedString, Normalizer, NormalizerWrapper, OffsetReferential, OffsetType, PreTokenizedString,
    PreTokenizer, PreTokenizerWrapper,
};

use super::Rule;
use crate::tokenizer::byte_level::alphabet;

/// The library's components a file may name. Others belong to tokenizers of other kinds; `Precompiled` and
/// `FixedLength` do not check their input.
const NORMALIZERS: &[&str] = &[
    "Sequence",
    "NFC",
    "NFD",
    "NFKC",
    "NFKD",
    "Lowercase",
    "Strip",
    "StripAccents",
    "Replace",
    "Prepend",
    "Nmt",
    "ByteLevel",
];
const PRE_TOKENIZERS: &[&str] = &[
    "Sequence",
    "ByteLevel",
    "Split",
    "Digits",
    "Punctuation",
    "Whitespace",
    "WhitespaceSplit",
    "Metaspace",
    "UnicodeScripts",
    "BertPreTokenizer",
];

/// What is done to text before its words are merged.
#[derive(Clone, Debug)]
pub(crate) struct Pipeline {
    normalizer: Option<NormalizerWrapper>,
    pre_tokenizer: Option<PreTokenizerWrapper>,
}

impl Pipeline {
    /// From the `normalizer` and `pre_tokenizer` of a `tokenizer.json` (null where there is none). The error
    /// names the key and what is wrong with it.
    pub fn new(normalizer: &Value, pre_tokenizer: &Value) -> Result<Self, (&'static str, String)> {
        let mut pipeline = Self { normalizer: None, pre_tokenizer: None };
        if !normalizer.is_null() {
            check(normalizer, "normalizers", NORMALIZERS).map_err(|what| ("normalizer", what))?;
            let read = serde_json::from_value(normalizer.clone());
            pipeline.normalizer = Some(read.map_err(|e| ("normalizer", short(&e.to_string())))?);
        }
        if !pre_tokenizer.is_null() {
            check(pre_tokenizer, "pretokenizers", PRE_TOKENIZERS).map_err(|what| ("pre_tokenizer", what))?;
            let read = serde_json::from_value(pre_tokenizer.clone());
            pipeline.pre_tokenizer = Some(read.map_err(|e| ("pre_tokenizer", short(&e.to_string())))?);
        }
        Ok(pipeline)
    }

    /// The pipeline of a rule from the table.
    pub fn of_rule(rule: &Rule) -> Result<Self, (&'static str, String)> {
        Self::new(&rule.normalizer(), &rule.pre_tokenizer())
    }

    /// Calls `each` with the words of `text`, spelled in the alphabet of bytes.
    pub fn words(&self, text: &str, mut each: impl FnMut(&str)) {
        let mut normalized = NormalizedString::from(text);
        // The components of the two lists fail on no text; if one did, the text would stay as it is.
        if let Some(normalizer) = &self.normalizer {
            let _ = normalizer.normalize(&mut normalized);
        }
        let mut cut = PreTokenizedString::from(normalized);
        if let Some(pre_tokenizer) = &self.pre_tokenizer
            && pre_tokenizer.pre_tokenize(&mut cut).is_err()
        {
            return each(&alphabet::encode(text));
        }
        for (word, ..) in cut.get_splits(OffsetReferential::Normalized, OffsetType::None) {
            each(word);
        }
    }
}

/// Whether all components are known, and none has a pattern without text, which matches everywhere.
fn check(component: &Value, inner: &str, known: &[&str]) -> Result<(), String> {
    let name = component.get("type").and_then(Value::as_str).unwrap_or_default();
    if !known.contains(&name) {
        return Err(format!("{:?} is not supported", short(name)));
    }
    let pattern = |key: &str| component.pointer(key).and_then(Value::as_str);
    if pattern("/pattern/String") == Some("") || pattern("/pattern/Regex") == Some("") {
        return Err(format!("{name:?} has an empty pattern"));
    }
    match component.get(inner).and_then(Value::as_array) {
        Some(all) => all.iter().try_for_each(|c| check(c, inner, known)),
        None => Ok(()),
    }
}

/// A hostile file is not quoted at length.
fn short(text: &str) -> String {
    text.chars().take(200).collect()
}
