//! JSON objects with their keys in order, each key once: of duplicate keys serde's maps would keep the last.

use std::collections::HashSet;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};

use super::METADATA_KEY;

/// An object of values of one type.
#[derive(Debug, Default)]
pub(crate) struct Pairs<V>(pub Vec<(String, V)>);

/// A safetensors header: the metadata, and everything else as a tensor.
#[derive(Debug, Default)]
pub(super) struct RawHeader {
    pub metadata: Pairs<String>,
    pub tensors: Vec<(String, RawTensor)>,
}

/// One tensor as the header describes it.
#[derive(Debug, serde::Deserialize)]
pub(super) struct RawTensor {
    pub dtype: String,
    pub shape: Vec<usize>,
    pub data_offsets: (u64, u64),
}

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Pairs<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect<V>(PhantomData<V>);
        impl<'de, V: Deserialize<'de>> Visitor<'de> for Collect<V> {
            type Value = Pairs<V>;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut seen = HashSet::new();
                let mut pairs = Vec::new();
                while let Some(key) = next_key(&mut map, &mut seen)? {
                    let value = next_value(&mut map, &key)?;
                    pairs.push((key, value));
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Collect(PhantomData))
    }
}

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = RawHeader;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut seen = HashSet::new();
                let mut header = RawHeader::default();
                while let Some(key) = next_key(&mut map, &mut seen)? {
                    if key == METADATA_KEY {
                        header.metadata = next_value(&mut map, &key)?;
                    } else {
                        let value = next_value(&mut map, &key)?;
                        header.tensors.push((key, value));
                    }
                }
                Ok(header)
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

fn next_key<'de, A: MapAccess<'de>>(
    map: &mut A,
    seen: &mut HashSet<String>,
) -> Result<Option<String>, A::Error> {
    let Some(key) = map.next_key::<String>()? else { return Ok(None) };
    match seen.insert(key.clone()) {
        true => Ok(Some(key)),
        false => Err(A::Error::custom(format_args!("the key {key:?} appears twice"))),
    }
}

fn next_value<'de, A: MapAccess<'de>, V: Deserialize<'de>>(map: &mut A, key: &str) -> Result<V, A::Error> {
    map.next_value().map_err(|e| A::Error::custom(format_args!("{key:?}: {e}")))
}
