//! Parts of a JSON file that are read without a tree of the whole.
//!
//! A tree takes thirty times the bytes of a hostile file (`[{},{},…]`). So a file is read from its beginning to its end;
//! what is not needed is skipped, and the small sections that are needed whole have a bound on their size.

use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Values in the sections of one file together. The largest known list of components has some hundreds.
const MOST_VALUES: usize = 1 << 16;
/// Bytes of all texts in them together. (The tables of SentencePiece's unigram models have half a megabyte.)
const MOST_TEXT: usize = 4 << 20;

/// What the sections of a file may still take.
#[derive(Debug)]
pub(super) struct Budget {
    values: usize,
    text: usize,
}

impl Budget {
    /// For one file.
    pub fn new() -> Self {
        Self { values: MOST_VALUES, text: MOST_TEXT }
    }

    fn take<E: serde::de::Error>(&mut self, text: usize) -> Result<(), E> {
        match (self.values.checked_sub(1), self.text.checked_sub(text)) {
            (Some(values), Some(text)) => {
                (self.values, self.text) = (values, text);
                Ok(())
            }
            _ => Err(E::custom(format!(
                "more than {MOST_VALUES} values or {} MiB of text beside vocabulary and merges",
                MOST_TEXT >> 20
            ))),
        }
    }
}

/// A section of a file as a tree.
pub(super) struct Section<'b>(pub &'b mut Budget);

impl<'de> DeserializeSeed<'de> for Section<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Section<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: serde::de::Error>(self, v: bool) -> Result<Value, E> {
        self.0.take(0)?;
        Ok(v.into())
    }

    fn visit_u64<E: serde::de::Error>(self, v: u64) -> Result<Value, E> {
        self.0.take(0)?;
        Ok(v.into())
    }

    fn visit_i64<E: serde::de::Error>(self, v: i64) -> Result<Value, E> {
        self.0.take(0)?;
        Ok(v.into())
    }

    fn visit_f64<E: serde::de::Error>(self, v: f64) -> Result<Value, E> {
        self.0.take(0)?;
        Ok(Number::from_f64(v).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E: serde::de::Error>(self, v: &str) -> Result<Value, E> {
        self.0.take(v.len())?;
        Ok(v.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        self.0.take(0)?;
        let mut out = Vec::new();
        while let Some(value) = list.next_element_seed(Section(&mut *self.0))? {
            out.push(value);
        }
        Ok(Value::Array(out))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        self.0.take(0)?;
        let mut out = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            self.0.take(key.len())?;
            out.insert(key, map.next_value_seed(Section(&mut *self.0))?);
        }
        Ok(Value::Object(out))
    }
}

/// Pieces and their ids, in the file's order.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    text: String,
    /// Where each piece ends, and its id.
    entries: Vec<(u32, u32)>,
}

impl Pieces {
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// All pieces with their ids.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u32)> {
        let mut start = 0;
        self.entries.iter().map(move |&(end, id)| {
            let piece = &self.text[start as usize..end as usize];
            start = end;
            (piece, id)
        })
    }
}

/// Reads an object whose values are ids; `key` is its name in errors.
pub(super) struct PiecesOf<'k>(pub &'k str);

impl<'de> DeserializeSeed<'de> for PiecesOf<'_> {
    type Value = Pieces;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Pieces, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for PiecesOf<'_> {
    type Value = Pieces;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object of pieces and their ids under {:?}", self.0)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pieces, A::Error> {
        let mut out = Pieces::default();
        while map.next_key_seed(Text(&mut out.text))?.is_some() {
            let end = u32::try_from(out.text.len()).map_err(A::Error::custom)?;
            let Id(Some(id)) = map.next_value()? else {
                let start = out.entries.last().map_or(0, |&(end, _)| end as usize);
                let piece: String = out.text[start..].chars().take(60).collect();
                return Err(A::Error::custom(format!("{}.{piece}: not a token id", self.0)));
            };
            if out.entries.len() == crate::tokenizer::MAX_TOKENS {
                let most = crate::tokenizer::MAX_TOKENS;
                return Err(A::Error::custom(format!("{}: more than {most} pieces", self.0)));
            }
            out.entries.push((end, id));
        }
        Ok(out)
    }

    // Of models of other kinds, which are refused by their name.
    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Pieces, A::Error> {
        while list.next_element::<Skipped>()?.is_some() {}
        Ok(Pieces::default())
    }
}

/// Appends a text.
pub(super) struct Text<'t>(pub &'t mut String);

impl<'de> DeserializeSeed<'de> for Text<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Text<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E>(self, v: &str) -> Result<(), E> {
        self.0.push_str(v);
        Ok(())
    }
}

/// A token id, also when it is written as `2.0`; none for any other value.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Id(pub Option<u32>);

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(IdVisitor)
    }
}

struct IdVisitor;

impl Visitor<'_> for IdVisitor {
    type Value = Id;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a token id")
    }

    fn visit_u64<E>(self, v: u64) -> Result<Id, E> {
        Ok(Id(u32::try_from(v).ok()))
    }

    fn visit_i64<E>(self, v: i64) -> Result<Id, E> {
        Ok(Id(u32::try_from(v).ok()))
    }

    fn visit_f64<E>(self, v: f64) -> Result<Id, E> {
        Ok(Id((v.fract() == 0.0 && (0.0..4e9).contains(&v)).then_some(v as u32)))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Id, E> {
        Ok(Id(None))
    }

    fn visit_str<E>(self, _: &str) -> Result<Id, E> {
        Ok(Id(None))
    }

    fn visit_unit<E>(self) -> Result<Id, E> {
        Ok(Id(None))
    }
}

/// A text that is not long.
#[derive(Clone, Debug)]
pub(super) struct Short(pub String);

impl<'de> Deserialize<'de> for Short {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(ShortVisitor)
    }
}

struct ShortVisitor;

impl Visitor<'_> for ShortVisitor {
    type Value = Short;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E: serde::de::Error>(self, v: &str) -> Result<Short, E> {
        const LONGEST: usize = 64 << 10;
        match v.len() > LONGEST {
            true => {
                Err(E::custom(format!("a text of {} bytes where at most {LONGEST} are expected", v.len())))
            }
            false => Ok(Short(v.to_owned())),
        }
    }
}

/// A value that is not used. Unlike serde's `IgnoredAny`, which remembers every level it is in, it has the parser's bound
/// on nesting.
#[derive(Clone, Copy, Debug)]
pub(super) struct Skipped;

impl<'de> Deserialize<'de> for Skipped {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self)
    }
}

impl<'de> Visitor<'de> for Skipped {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self, A::Error> {
        while list.next_element::<Self>()?.is_some() {}
        Ok(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self, A::Error> {
        while map.next_entry::<Self, Self>()?.is_some() {}
        Ok(self)
    }
}
