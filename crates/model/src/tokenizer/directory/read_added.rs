//! `added_tokens` of `tokenizer.json`.

use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use super::tokens::{Added, AddedTokens};
use super::values::{Id, Short, Skipped};
use crate::tokenizer::MAX_TOKENS;
use crate::tokenizer::special::Edges;

/// More added tokens than this are treated as damage.
const MAX_ADDED: usize = 1 << 18;

/// `added_tokens`: a list, or null.
pub(super) struct AddedSeed;

impl<'de> DeserializeSeed<'de> for AddedSeed {
    type Value = AddedTokens;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<AddedTokens, D::Error> {
        deserializer.deserialize_any(self)
    }
}

/// An entry of it, as far as it is used.
#[derive(Default)]
struct AddedEntry {
    id: Id,
    content: Option<Short>,
    special: Option<bool>,
    lstrip: Option<bool>,
    rstrip: Option<bool>,
    single_word: Option<bool>,
    normalized: Option<bool>,
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "snake_case")]
enum AddedKey {
    Id,
    Content,
    Special,
    Lstrip,
    Rstrip,
    SingleWord,
    Normalized,
    #[serde(other)]
    Other,
}

impl<'de> Deserialize<'de> for AddedEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(AddedVisitor)
    }
}

struct AddedVisitor;

impl<'de> Visitor<'de> for AddedVisitor {
    type Value = AddedEntry;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object as an entry of \"added_tokens\"")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<AddedEntry, A::Error> {
        let mut out = AddedEntry::default();
        while let Some(key) = map.next_key::<AddedKey>()? {
            match key {
                AddedKey::Id => out.id = map.next_value()?,
                AddedKey::Content => out.content = map.next_value()?,
                AddedKey::Special => out.special = map.next_value()?,
                AddedKey::Lstrip => out.lstrip = map.next_value()?,
                AddedKey::Rstrip => out.rstrip = map.next_value()?,
                AddedKey::SingleWord => out.single_word = map.next_value()?,
                AddedKey::Normalized => out.normalized = map.next_value()?,
                AddedKey::Other => drop(map.next_value::<Skipped>()?),
            }
        }
        Ok(out)
    }
}

impl<'de> Visitor<'de> for AddedSeed {
    type Value = AddedTokens;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list under \"added_tokens\"")
    }

    fn visit_unit<E>(self) -> Result<AddedTokens, E> {
        Ok(AddedTokens::default())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<AddedTokens, A::Error> {
        let mut out = AddedTokens::default();
        while let Some(entry) = list.next_element::<AddedEntry>()? {
            if out.len() == MAX_ADDED {
                return Err(A::Error::custom(format!("added_tokens: more than {MAX_ADDED} entries")));
            }
            let id = entry.id.0.filter(|&id| (id as usize) < MAX_TOKENS);
            let (Some(id), Some(Short(content))) = (id, entry.content) else {
                return Err(A::Error::custom("added_tokens: objects with id and content are expected"));
            };
            let special = entry.special.unwrap_or(false);
            let edges = Edges {
                left: entry.lstrip.unwrap_or(false),
                right: entry.rstrip.unwrap_or(false),
                single_word: entry.single_word.unwrap_or(false),
                either_space: entry.normalized.unwrap_or(!special),
            };
            out.push(Added { id, content: &content, special, edges });
        }
        Ok(out)
    }
}
