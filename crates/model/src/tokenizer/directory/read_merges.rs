//! `merges` of the model in `tokenizer.json`.

use std::fmt;

use quern_tensor_io::StringArray;
use serde::de::{DeserializeSeed, Deserializer, Error as _, SeqAccess, Visitor};

use super::values::Skipped;
use crate::tokenizer::bpe::MAX_MERGES;

/// `model.merges`: a list, or null.
pub(super) struct MergesSeed;

impl<'de> DeserializeSeed<'de> for MergesSeed {
    type Value = StringArray;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<StringArray, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for MergesSeed {
    type Value = StringArray;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list under \"model.merges\"")
    }

    fn visit_unit<E>(self) -> Result<StringArray, E> {
        Ok(StringArray::new())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<StringArray, A::Error> {
        let mut out = StringArray::new();
        let mut at = 0;
        while list.next_element_seed(MergeSeed { out: &mut out, at })?.is_some() {
            at += 1;
            if out.len() > 2 * MAX_MERGES {
                return Err(A::Error::custom(format!("model.merges: more than {MAX_MERGES} entries")));
            }
        }
        Ok(out)
    }
}

/// One merge: "a b", or since transformers 4.45 ["a", "b"].
struct MergeSeed<'m> {
    out: &'m mut StringArray,
    at: usize,
}

impl MergeSeed<'_> {
    fn no_pair<E: serde::de::Error>(&self) -> E {
        E::custom(format!("model.merges: entry {} is no pair of pieces", self.at))
    }
}

impl<'de> DeserializeSeed<'de> for MergeSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for MergeSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a pair of pieces as entry {} of \"model.merges\"", self.at)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<(), E> {
        // Files of the first versions begin as merges.txt does.
        if text.starts_with("#version") {
            return Ok(());
        }
        let (left, right) = text.split_once(' ').ok_or_else(|| self.no_pair())?;
        self.out.push(left);
        self.out.push(right);
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut pair: A) -> Result<(), A::Error> {
        for _ in 0..2 {
            match pair.next_element_seed(PieceSeed(&mut *self.out))? {
                Some(()) => {}
                None => return Err(self.no_pair()),
            }
        }
        match pair.next_element::<Skipped>()? {
            Some(_) => Err(self.no_pair()),
            None => Ok(()),
        }
    }
}

/// Appends a piece.
struct PieceSeed<'m>(&'m mut StringArray);

impl<'de> DeserializeSeed<'de> for PieceSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for PieceSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a piece")
    }

    fn visit_str<E>(self, piece: &str) -> Result<(), E> {
        self.0.push(piece);
        Ok(())
    }
}
