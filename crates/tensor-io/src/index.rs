//! Models in several files with an index: `model.safetensors.index.json` or `pytorch_model.bin.index.json`, which
//! have the same form.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::path::{Component, Path};

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};

use crate::budget::{Budget, Exceeded, MOST_TENSORS};
use crate::checkpoint::Parts;
use crate::map::MappedFile;
use crate::names::NameTable;
use crate::safetensors::json::Text;
use crate::safetensors::reader;
use crate::{Container, Error, Metadata, Result, TensorInfo, pytorch};

/// The most bytes of an index. That of 370 000 tensors with names of 80 bytes has some 50 MB.
const MOST_BYTES: usize = 128 << 20;

/// What an entry of an index costs beside its text, which stays where it is.
const ENTRY: u64 = 64;

/// What a shard costs beside its name.
const SHARD: u64 = 512;

/// An index file. Its `metadata.total_size` is ignored: it is often wrong, and not needed.
#[derive(Debug, Default)]
struct Index<'a> {
    /// Tensors and the number of their shard, in the file's order.
    entries: Vec<(Cow<'a, str>, u32)>,
    shards: Vec<String>,
}

/// Opens the model that the index at `path` describes.
pub(crate) fn open(path: &Path) -> Result<(Container, Parts)> {
    let listing = MappedFile::open(path)?;
    let index = read(path, listing.bytes())?;
    // Of the shards: that the index is not too large for them was checked.
    let mut budget = Budget::new();
    let folder = path.parent().unwrap_or(Path::new(""));
    let names: Vec<&str> =
        index.shards.iter().map(String::as_str).collect::<BTreeSet<_>>().into_iter().collect();
    let missing: Vec<_> = names.iter().filter(|n| !folder.join(n).exists()).copied().collect();
    if !missing.is_empty() {
        let shown = missing.iter().take(8).copied().collect::<Vec<_>>().join(", ");
        let more = if missing.len() > 8 { ", ..." } else { "" };
        let what = format!(
            "{} of {} shards are missing beside it: {shown}{more}; download them into this folder",
            missing.len(),
            names.len()
        );
        return Err(Error::malformed(path, what));
    }

    let is_pytorch = |name: &&&str| [".bin", ".pt", ".pth"].iter().any(|end| name.ends_with(end));
    let container = match names.iter().filter(is_pytorch).count() {
        0 => Container::Safetensors,
        n if n == names.len() => Container::PyTorch,
        _ => return Err(Error::malformed(path, "lists both safetensors and PyTorch shards")),
    };
    let (mut files, mut tensors) = (Vec::with_capacity(names.len()), Vec::new());
    let (mut metadata, mut strided) = (Metadata::new(), Vec::new());
    for (number, name) in names.iter().enumerate() {
        let file = MappedFile::open(&folder.join(name))?;
        if container == Container::PyTorch {
            pytorch::read(file.path(), file.bytes(), number, (&mut tensors, &mut strided), &mut budget)?;
        } else {
            let mut header = reader::read(file.path(), file.bytes(), number, &mut budget)?;
            if number == 0 {
                metadata = header.metadata;
            }
            tensors.append(&mut header.tensors);
        }
        files.push(file);
        if tensors.len() as u64 > MOST_TENSORS {
            return Err(too_many(path));
        }
    }
    let names = check(path, &index, &names, &tensors)?;
    Ok((container, Parts { files, metadata, tensors, names, strided }))
}

/// Names of the shards that the index at `path` lists.
pub(crate) fn shards(path: &Path) -> Result<BTreeSet<String>> {
    let file = MappedFile::open(path)?;
    Ok(read(path, file.bytes())?.shards.into_iter().collect())
}

/// Reads an index and checks that every shard is in or below its folder.
fn read<'a>(path: &Path, data: &'a [u8]) -> Result<Index<'a>> {
    if data.len() > MOST_BYTES {
        let what = format!(
            "it has {} bytes, and quern reads an index of at most {} MiB; download the model's own index again",
            data.len(),
            MOST_BYTES >> 20
        );
        return Err(Error::malformed(path, what));
    }
    let refuse = |e: String| Error::malformed(path, format!("not an index of shards: {e}"));
    let text = std::str::from_utf8(data).map_err(|e| refuse(e.to_string()))?;
    // Its own bytes are mapped and touched, so that only the shards and the spare pay for its entries.
    let budget = Budget::new();
    let mut reading =
        Reading { path, index: Index::default(), numbers: HashMap::new(), budget, refused: None };
    let mut json = serde_json::Deserializer::from_str(text);
    let read = (&mut reading).deserialize(&mut json).and_then(|()| json.end());
    match (read, reading.refused) {
        (Ok(()), _) => {}
        (Err(_), Some(refused)) => return Err(*refused),
        (Err(e), None) => return Err(refuse(e.to_string())),
    }
    let index = reading.index;
    match NameTable::of(index.entries.len(), |i| index.entries[i].0.as_ref()) {
        Ok(_) => Ok(index),
        Err((_, second)) => Err(refuse(format!("the key {:?} appears twice", index.entries[second].0))),
    }
}

fn too_many(path: &Path) -> Error {
    Error::malformed(path, format!("a model of more than {MOST_TENSORS} tensors, which quern does not read"))
}

struct Reading<'a, 'p> {
    path: &'p Path,
    index: Index<'a>,
    /// The numbers of the shards.
    numbers: HashMap<String, u32>,
    budget: Budget,
    /// Why the file is refused, where there is more to say than serde's error.
    refused: Option<Box<Error>>,
}

impl<'a> Reading<'a, '_> {
    fn refuse<E: serde::de::Error>(&mut self, why: Error) -> E {
        self.refused = Some(Box::new(why));
        E::custom("the index is refused")
    }

    fn pay<E: serde::de::Error>(&mut self, bytes: u64) -> Result<(), E> {
        let path = self.path;
        self.budget.spend(bytes).map_err(|Exceeded| self.refuse(Error::malformed(path, Exceeded::WHAT)))
    }

    /// The number of a shard, which is checked where it is new.
    fn shard<E: serde::de::Error>(&mut self, tensor: &str, file: &str) -> Result<u32, E> {
        if let Some(&number) = self.numbers.get(file) {
            return Ok(number);
        }
        let inside = Path::new(file).components().all(|c| matches!(c, Component::Normal(_)));
        if file.is_empty() || !inside || file.contains(['\\', '\0']) {
            let brief: String = file.chars().take(80).collect();
            let what = format!(
                "weight_map points to {brief:?}; a shard must be a plain file name in the index's folder"
            );
            return Err(self.refuse(Error::malformed(self.path, what).with_tensor(tensor)));
        }
        let shard = self.path.with_file_name(file);
        self.budget.add(shard.metadata().map_or(0, |m| if m.is_file() { m.len() } else { 0 }));
        self.pay(SHARD + 4 * file.len() as u64)?;
        let number = self.index.shards.len() as u32; // a shard has paid for more than a byte
        self.index.shards.push(file.to_owned());
        self.numbers.insert(file.to_owned(), number);
        Ok(number)
    }

    fn entries<'de: 'a, A: MapAccess<'de>>(&mut self, mut map: A) -> Result<(), A::Error> {
        while let Some(Text(tensor)) = map.next_key::<Text<'de>>()? {
            let file = map.next_value::<Text<'de>>();
            let Text(file) = file.map_err(|e| A::Error::custom(format_args!("{tensor:?}: {e}")))?;
            if self.index.entries.len() as u64 >= MOST_TENSORS {
                return Err(self.refuse(too_many(self.path)));
            }
            self.pay(ENTRY + if matches!(tensor, Cow::Owned(_)) { tensor.len() as u64 + 32 } else { 0 })?;
            let number = self.shard(&tensor, &file)?;
            self.index.entries.push((tensor, number));
        }
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for &mut Reading<'de, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for &mut Reading<'de, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object with a weight_map")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut found = false;
        while let Some(Text(key)) = map.next_key::<Text<'de>>()? {
            match key.as_ref() {
                "weight_map" if found => return Err(A::Error::duplicate_field("weight_map")),
                "weight_map" => {
                    found = true;
                    map.next_value_seed(WeightMap(&mut *self))?;
                }
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        match found {
            true => Ok(()),
            false => Err(A::Error::missing_field("weight_map")),
        }
    }
}

/// The object of tensors and shards.
struct WeightMap<'r, 'a, 'p>(&'r mut Reading<'a, 'p>);

impl<'de> DeserializeSeed<'de> for WeightMap<'_, 'de, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for WeightMap<'_, 'de, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object of tensor names and files")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        self.0.entries(map)
    }
}

/// Checks that the index and the shards, `names` in their order, name the same tensors in the same places, each once.
/// Gives the names of the tensors.
fn check(path: &Path, index: &Index<'_>, names: &[&str], tensors: &[TensorInfo]) -> Result<NameTable> {
    let name_of = |i: usize| tensors[i].name.as_str();
    let table = NameTable::of(tensors.len(), |i| tensors[i].name.as_str()).map_err(|(first, second)| {
        let (first, second) = (&tensors[first], &tensors[second]);
        let what = format!("in two shards, {} and {}", names[first.file], names[second.file]);
        Error::malformed(path, what).with_tensor(&second.name)
    })?;
    let mut listed = vec![false; tensors.len()];
    for (tensor, shard) in &index.entries {
        let file = index.shards[*shard as usize].as_str();
        let what = match table.get(tensor, name_of) {
            Some(found) if names[tensors[found].file] == file => {
                listed[found] = true;
                continue;
            }
            Some(found) => {
                format!("the index places it in {file}, but it is in {}", names[tensors[found].file])
            }
            None => format!("the index places it in {file}, which does not hold it"),
        };
        return Err(Error::malformed(path, what).with_tensor(tensor.as_ref()));
    }
    match listed.iter().position(|listed| !listed) {
        None => Ok(table),
        Some(stray) => {
            let stray = &tensors[stray];
            let what = format!("in shard {} but not in the index", names[stray.file]);
            Err(Error::malformed(path, what).with_tensor(&stray.name))
        }
    }
}
