//! `tokenizer.json`, read from its beginning to its end into what is kept of it.

use std::fmt;
use std::path::Path;

use quern_tensor_io::{Error, Result, StringArray};
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, Visitor};
use serde_json::Value;
use serde_json::error::Category;

use super::read_added::AddedSeed;
use super::read_merges::MergesSeed;
use super::tokens::AddedTokens;
use super::values::{Budget, Pieces, PiecesOf, Section, Short, Skipped};
use crate::identify;
use crate::json::read_text;

/// The content of the file.
#[derive(Debug, Default)]
pub(super) struct Content {
    pub added: AddedTokens,
    pub normalizer: Value,
    pub pre_tokenizer: Value,
    pub post_processor: Value,
    pub decoder: Value,
    pub model: Option<ModelContent>,
}

/// The content of `model`.
#[derive(Debug, Default)]
pub(super) struct ModelContent {
    pub kind: Option<Short>,
    pub byte_fallback: bool,
    pub ignore_merges: bool,
    pub fuse_unknown: bool,
    pub unknown: Option<Short>,
    pub continuing_subword_prefix: Option<Short>,
    pub end_of_word_suffix: Option<Short>,
    pub vocab: Option<Pieces>,
    /// Left and right pieces in turn.
    pub merges: StringArray,
}

/// A larger file is treated as damage; the largest known ones have 35 MB.
const MAX_BYTES: u64 = 64 << 20;

/// Reads `file` as what `seed` makes of it.
pub(super) fn read<T>(file: &Path, seed: impl for<'de> DeserializeSeed<'de, Value = T>) -> Result<T> {
    let size = std::fs::metadata(file).map_err(|e| Error::new(file, e))?.len();
    if size > MAX_BYTES {
        let what = format!("{size} bytes; at most {} MiB are expected of a tokenizer", MAX_BYTES >> 20);
        return Err(Error::malformed(file, what));
    }
    let text = read_text(file)?;
    let refused = |e: &str| match identify::of_content(text.as_bytes()) {
        Some(identity) => Error::unsupported(file, identity.to_string()),
        None => Error::malformed(file, format!("not valid JSON: {e}")),
    };
    if !text.trim_ascii_start().starts_with('{') {
        return Err(refused("an object is expected"));
    }
    let mut json = serde_json::Deserializer::from_str(&text);
    let read = seed.deserialize(&mut json).and_then(|value| json.end().map(|()| value));
    read.map_err(|e| match e.classify() {
        Category::Data => Error::malformed(file, e.to_string()),
        Category::Io | Category::Syntax | Category::Eof => refused(&e.to_string()),
    })
}

/// Reads the whole file.
pub(super) struct Whole;

impl<'de> DeserializeSeed<'de> for Whole {
    type Value = Content;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Content, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Whole {
    type Value = Content;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Content, A::Error> {
        let (mut out, mut budget) = (Content::default(), Budget::new());
        while let Some(key) = map.next_key::<Key>()? {
            let section = match key {
                Key::AddedTokens => {
                    out.added = map.next_value_seed(AddedSeed)?;
                    continue;
                }
                Key::Model => {
                    out.model = map.next_value_seed(ModelSeed)?;
                    continue;
                }
                Key::Other => {
                    map.next_value::<Skipped>()?;
                    continue;
                }
                Key::Normalizer => &mut out.normalizer,
                Key::PreTokenizer => &mut out.pre_tokenizer,
                Key::PostProcessor => &mut out.post_processor,
                Key::Decoder => &mut out.decoder,
            };
            *section = map.next_value_seed(Section(&mut budget))?;
        }
        Ok(out)
    }
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "snake_case")]
enum Key {
    AddedTokens,
    Normalizer,
    PreTokenizer,
    PostProcessor,
    Decoder,
    Model,
    #[serde(other)]
    Other,
}

/// `model`: an object, or null.
struct ModelSeed;

impl<'de> DeserializeSeed<'de> for ModelSeed {
    type Value = Option<ModelContent>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<ModelContent>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "snake_case")]
enum ModelKey {
    Type,
    ByteFallback,
    IgnoreMerges,
    FuseUnk,
    UnkToken,
    ContinuingSubwordPrefix,
    EndOfWordSuffix,
    Vocab,
    Merges,
    #[serde(other)]
    Other,
}

impl<'de> Visitor<'de> for ModelSeed {
    type Value = Option<ModelContent>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object under \"model\"")
    }

    fn visit_unit<E>(self) -> Result<Option<ModelContent>, E> {
        Ok(None)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Option<ModelContent>, A::Error> {
        let mut out = ModelContent::default();
        while let Some(key) = map.next_key::<ModelKey>()? {
            match key {
                ModelKey::Type => out.kind = map.next_value()?,
                ModelKey::ByteFallback => {
                    out.byte_fallback = map.next_value::<Option<bool>>()?.unwrap_or(false)
                }
                ModelKey::IgnoreMerges => {
                    out.ignore_merges = map.next_value::<Option<bool>>()?.unwrap_or(false)
                }
                ModelKey::FuseUnk => out.fuse_unknown = map.next_value::<Option<bool>>()?.unwrap_or(false),
                ModelKey::UnkToken => out.unknown = map.next_value()?,
                ModelKey::ContinuingSubwordPrefix => out.continuing_subword_prefix = map.next_value()?,
                ModelKey::EndOfWordSuffix => out.end_of_word_suffix = map.next_value()?,
                ModelKey::Vocab => out.vocab = Some(map.next_value_seed(PiecesOf("model.vocab"))?),
                ModelKey::Merges => out.merges = map.next_value_seed(MergesSeed)?,
                ModelKey::Other => drop(map.next_value::<Skipped>()?),
            }
        }
        Ok(Some(out))
    }
}

/// Reads an object of pieces and their ids alone, as `vocab.json` is.
pub(super) fn read_pieces(file: &Path) -> Result<Pieces> {
    struct Vocab;
    impl<'de> DeserializeSeed<'de> for Vocab {
        type Value = Pieces;

        fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Pieces, D::Error> {
            PiecesOf("the vocabulary").deserialize(deserializer)
        }
    }
    read(file, Vocab)
}
