//! The header of a safetensors file, read from its JSON straight into lists of tensors and metadata.
//!
//! Every entry is paid for before it is kept (see [`crate::budget`]), a shape is read only as far as a tensor can have
//! dimensions, and of keys that serde's maps would overwrite each other each must be there once.

use std::borrow::Cow;
use std::fmt;

use serde::de::value::{Error as PlainError, StrDeserializer};
use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, Error, IntoDeserializer, MapAccess, SeqAccess, Visitor,
};

use ::safetensors::Dtype;

use super::METADATA_KEY;
use crate::budget::{Budget, Exceeded, MOST_TENSORS};
use crate::{ElementType, Metadata, TensorInfo};

/// The most dimensions of a tensor: torch's own limit.
const MOST_DIMENSIONS: usize = 64;

/// What a header says. Offsets are those of the header, from the beginning of the data; nothing but types is checked.
#[derive(Debug, Default)]
pub(super) struct RawHeader {
    pub metadata: Metadata,
    /// In the header's order. [`TensorInfo::bytes`] is the distance of the two offsets, 0 where they are the wrong way
    /// round.
    pub tensors: Vec<TensorInfo>,
}

/// Why a header is refused, where there is more to say than serde's error.
#[derive(Debug)]
pub(super) enum Refused {
    /// The element type of this tensor is not read: its name, and the type's.
    Type(String, String),
    /// The budget does not suffice.
    Budget,
    /// Too many tensors.
    Count,
}

/// Reads the header `text`, whose tensors are in the model's `file`-th file.
pub(super) fn read(
    text: &str,
    file: usize,
    budget: &mut Budget,
) -> Result<RawHeader, (Option<Refused>, serde_json::Error)> {
    let mut reading = Reading { header: RawHeader::default(), file, budget, refused: None };
    let mut json = serde_json::Deserializer::from_str(text);
    match (&mut reading).deserialize(&mut json).and_then(|()| json.end()) {
        Ok(()) => Ok(reading.header),
        Err(e) => Err((reading.refused, e)),
    }
}

struct Reading<'b> {
    header: RawHeader,
    file: usize,
    budget: &'b mut Budget,
    refused: Option<Refused>,
}

impl Reading<'_> {
    fn refuse<E: Error>(&mut self, why: Refused) -> E {
        self.refused = Some(why);
        E::custom("the header is refused")
    }

    fn pay<E: Error>(&mut self, pay: impl FnOnce(&mut Budget) -> Result<(), Exceeded>) -> Result<(), E> {
        pay(self.budget).map_err(|Exceeded| self.refuse(Refused::Budget))
    }

    fn tensor<E: Error>(&mut self, name: Cow<'_, str>, raw: RawTensor<'_>) -> Result<(), E> {
        let Some(element_type) = element_type(&raw.dtype.0) else {
            return Err(self.refuse(Refused::Type(name.into_owned(), raw.dtype.0.into_owned())));
        };
        self.pay(|budget| budget.shape(raw.shape.0.len()))?;
        let (begin, end) = raw.data_offsets;
        self.header.tensors.push(TensorInfo {
            name: name.into_owned(),
            element_type,
            shape: raw.shape.0,
            file: self.file,
            offset: begin,
            bytes: usize::try_from(end.saturating_sub(begin)).unwrap_or(usize::MAX),
            strided: None,
        });
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for &mut Reading<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for &mut Reading<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut has_metadata = false;
        while let Some(Text(key)) = map.next_key::<Text<'de>>()? {
            if key == METADATA_KEY {
                if has_metadata {
                    return Err(twice(&key));
                }
                has_metadata = true;
                map.next_value_seed(Entries(&mut *self)).map_err(|e| within(&key, e))?;
                continue;
            }
            if self.header.tensors.len() as u64 >= MOST_TENSORS {
                return Err(self.refuse(Refused::Count));
            }
            self.pay(|budget| budget.tensor(&key))?;
            let raw = map.next_value::<RawTensor<'de>>().map_err(|e| within(&key, e))?;
            self.tensor(key, raw)?;
        }
        Ok(())
    }
}

/// The metadata: an object of texts.
struct Entries<'r, 'b>(&'r mut Reading<'b>);

impl<'de> DeserializeSeed<'de> for Entries<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Entries<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object of texts")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut keys = std::collections::HashSet::new();
        while let Some(Text(key)) = map.next_key::<Text<'de>>()? {
            self.0.pay(|budget| budget.entry(&key))?;
            let Text(value) = map.next_value::<Text<'de>>().map_err(|e| within(&key, e))?;
            self.0.pay(|budget| budget.value(value.len() as u64))?;
            if !keys.insert(key.clone()) {
                return Err(twice(&key));
            }
            self.0.header.metadata.append(key, &*value);
        }
        Ok(())
    }
}

/// One tensor as the header describes it.
#[derive(serde::Deserialize)]
struct RawTensor<'a> {
    #[serde(borrow)]
    dtype: Text<'a>,
    shape: Dimensions,
    data_offsets: (u64, u64),
}

/// Text of the file itself, where nothing in it is escaped.
pub(crate) struct Text<'de>(pub Cow<'de, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Borrow;
        impl<'de> Visitor<'de> for Borrow {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }

            fn visit_string<E: Error>(self, text: String) -> Result<Self::Value, E> {
                Ok(Text(Cow::Owned(text)))
            }
        }
        deserializer.deserialize_str(Borrow)
    }
}

/// The dimensions of a tensor, no more than it can have.
struct Dimensions(Vec<usize>);

impl<'de> Deserialize<'de> for Dimensions {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Dimensions;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a list of dimensions")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
                let mut shape = [0; MOST_DIMENSIONS];
                let mut count = 0;
                while let Some(dimension) = items.next_element()? {
                    let Some(place) = shape.get_mut(count) else {
                        let what =
                            format_args!("more than the {MOST_DIMENSIONS} dimensions a tensor can have");
                        return Err(A::Error::custom(what));
                    };
                    *place = dimension;
                    count += 1;
                }
                Ok(Dimensions(shape[..count].to_vec()))
            }
        }
        deserializer.deserialize_seq(Collect)
    }
}

fn element_type(dtype: &str) -> Option<ElementType> {
    let text: StrDeserializer<PlainError> = dtype.into_deserializer();
    super::element_type(Dtype::deserialize(text).ok()?)
}

fn twice<E: Error>(key: &str) -> E {
    E::custom(format_args!("the key {key:?} appears twice"))
}

fn within<E: Error>(key: &str, e: E) -> E {
    E::custom(format_args!("{key:?}: {e}"))
}
