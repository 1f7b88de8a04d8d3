//! The index of a model in several files (`model.safetensors.index.json`): which files it names.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};

use crate::clean::{brief, clean};
use crate::listing::Names;
use crate::select::folder;

/// The largest models have some hundred shards; a name of one has at most 99999.
const MOST_SHARDS: usize = 100_000;

/// The shards an index names, as paths in the repository, or an explanation.
pub(crate) fn shards(index: &str, text: &[u8], names: &Names) -> Result<Vec<String>, String> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: Files,
    }
    let index_json: Index = serde_json::from_slice(text)
        .map_err(|e| format!("not an index of shards: {}", clean(&e.to_string())))?;
    let files = index_json.weight_map.0;
    if files.is_empty() {
        return Err("the index lists no shards".to_owned());
    }
    let folder = folder(index);
    let found = files.into_iter().map(|file| match names.get(format!("{folder}{file}").as_str()) {
        Some(name) => Ok(name.to_string()),
        None => {
            Err(format!("the index lists the shard {:?}, which the repository does not hold", brief(&file)))
        }
    });
    found.collect()
}

/// The files of a `weight_map`, each once: many thousand tensors are in a few files.
struct Files(BTreeSet<String>);

impl<'de> Deserialize<'de> for Files {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        json.deserialize_map(Self(BTreeSet::new()))
    }
}

impl<'de> Visitor<'de> for Files {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a map from tensors to files")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Self, A::Error> {
        while map.next_key::<IgnoredAny>()?.is_some() {
            let file = map.next_value::<Cow<str>>()?;
            if !self.0.contains(&*file) {
                if self.0.len() == MOST_SHARDS {
                    return Err(A::Error::custom(format!("it names more than {MOST_SHARDS} files")));
                }
                self.0.insert(file.into_owned());
            }
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_leads_to_its_shards_and_nowhere_else() {
        let all: Names = ["d/a.safetensors", "d/b.safetensors", "secret"].map(Into::into).into();
        let map = |file: &str| format!(r#"{{"weight_map":{{"x":"a.safetensors","y":"{file}"}}}}"#);
        let index = "d/model.safetensors.index.json";
        assert_eq!(
            shards(index, map("b.safetensors").as_bytes(), &all).unwrap(),
            ["d/a.safetensors", "d/b.safetensors"]
        );
        for file in ["c.safetensors", "../secret", "/etc/passwd"] {
            assert!(shards(index, map(file).as_bytes(), &all).is_err(), "{file}");
        }
        assert!(shards(index, b"{}", &all).is_err());
        assert!(shards(index, br#"{"weight_map":{}}"#, &all).is_err());
    }
}
