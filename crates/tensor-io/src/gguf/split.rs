//! Models in several GGUF files, named `PREFIX-00001-of-00003.gguf` as gguf-split does.
//!
//! Each part says in its metadata which it is: `split.no` (from 0), `split.count`, and
//! `split.tensors.count`, the number of tensors in all parts together. All other metadata is in the
//! first part.

use std::path::{Path, PathBuf};

use super::reader::{self, Header};
use crate::budget::{Budget, MOST_TENSORS};
use crate::checkpoint::Parts;
use crate::map::MappedFile;
use crate::names::NameTable;
use crate::{Error, Metadata, Result};

/// The parts of a split file's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SplitName<'a> {
    /// What all parts share, with the folder where one was given.
    pub prefix: &'a str,
    /// From 1.
    pub number: u32,
    /// Number of parts.
    pub count: u32,
}

impl<'a> SplitName<'a> {
    /// Takes a file name apart; `None` if it is not a split's name.
    pub fn parse(file_name: &'a str) -> Option<Self> {
        let stem = file_name.strip_suffix(".gguf")?;
        let (rest, count) = stem.rsplit_once("-of-")?;
        let (prefix, number) = rest.rsplit_once('-')?;
        let five_digits = |s: &str| match s.len() == 5 && s.bytes().all(|b| b.is_ascii_digit()) {
            true => s.parse().ok(),
            false => None,
        };
        let (number, count) = (five_digits(number)?, five_digits(count)?);
        (1..=count).contains(&number).then_some(Self { prefix, number, count })
    }

    /// The name of part `number` of the same set.
    pub fn sibling(&self, number: u32) -> String {
        format!("{}-{number:05}-of-{:05}.gguf", self.prefix, self.count)
    }
}

/// Opens the model that `path` is or belongs to: any part leads to all of them.
pub(crate) fn open(path: &Path) -> Result<Parts> {
    let file = MappedFile::open(path)?;
    let mut budget = Budget::new();
    let header = reader::read(path, file.bytes(), 0, &mut budget)?;
    let count = split_key(path, &header.metadata, "split.count")?.unwrap_or(0);
    let name = path.file_name().and_then(|n| n.to_str()).and_then(SplitName::parse);
    if count <= 1 {
        if let Some(name) = name.filter(|n| n.count > 1) {
            let what =
                format!("named part {} of {}, but its metadata lacks split.count", name.number, name.count);
            return Err(Error::malformed(path, what));
        }
        return Ok(Parts {
            files: vec![file],
            metadata: header.metadata,
            tensors: header.tensors,
            names: header.names,
            strided: Vec::new(),
        });
    }
    let Some(name) = name.filter(|n| u64::from(n.count) == count) else {
        let what = format!(
            "one of {count} parts (split.count), but its name does not say so; rename the parts to \
             NAME-00001-of-{count:05}.gguf and so on, or join them with gguf-split --merge"
        );
        return Err(Error::malformed(path, what));
    };
    let paths = sibling_paths(path, &name)?;
    join(&paths, (name.number as usize - 1, file, header), &mut budget)
}

/// The paths of all parts; the error names every missing one.
fn sibling_paths(path: &Path, name: &SplitName) -> Result<Vec<PathBuf>> {
    let paths: Vec<_> = (1..=name.count).map(|i| path.with_file_name(name.sibling(i))).collect();
    let missing: Vec<_> =
        (1..=name.count).filter(|&i| !paths[i as usize - 1].exists()).map(|i| name.sibling(i)).collect();
    if missing.is_empty() {
        return Ok(paths);
    }
    let shown = missing.iter().take(8).cloned().collect::<Vec<_>>().join(", ");
    let more = if missing.len() > 8 { ", ..." } else { "" };
    let what = format!(
        "{} of {} parts missing from the folder: {shown}{more}; all parts must be in the same folder",
        missing.len(),
        name.count
    );
    Err(Error::malformed(path, what))
}

/// Reads all parts (`known` was read already, with its index) and checks that they belong together.
fn join(paths: &[PathBuf], known: (usize, MappedFile, Header), budget: &mut Budget) -> Result<Parts> {
    let mut known = Some(known);
    let (mut files, mut tensors) = (Vec::with_capacity(paths.len()), Vec::new());
    let mut metadata = Metadata::new();
    for (index, path) in paths.iter().enumerate() {
        let (file, mut header) = match known.take_if(|(i, ..)| *i == index) {
            Some((_, file, header)) => (file, header),
            None => {
                let file = MappedFile::open(path)?;
                let header = reader::read(path, file.bytes(), index, budget)?;
                (file, header)
            }
        };
        header.tensors.iter_mut().for_each(|t| t.file = index);
        expect(path, &header.metadata, "split.count", paths.len())?;
        expect(path, &header.metadata, "split.no", index)?;
        tensors.append(&mut header.tensors);
        if tensors.len() as u64 > MOST_TENSORS {
            let what =
                format!("with it the model has more than {MOST_TENSORS} tensors, which quern does not read");
            return Err(Error::malformed(path, what));
        }
        files.push(file);
        if index == 0 {
            metadata = header.metadata;
        }
    }
    expect(&paths[0], &metadata, "split.tensors.count", tensors.len())?;
    let names = NameTable::of(tensors.len(), |i| tensors[i].name.as_str()).map_err(|(first, second)| {
        let (first, second) = (&tensors[first], &tensors[second]);
        let what = format!("also in {}: parts must not share tensors", paths[first.file].display());
        Error::malformed(&paths[second.file], what).with_tensor(&second.name)
    })?;
    Ok(Parts { files, metadata, tensors, names, strided: Vec::new() })
}

/// A split key's value: absent, or an integer that is not negative.
fn split_key(path: &Path, metadata: &Metadata, key: &str) -> Result<Option<u64>> {
    match metadata.get(key) {
        None => Ok(None),
        Some(value) => match value.as_u64() {
            Some(v) => Ok(Some(v)),
            None => Err(Error::malformed(path, format!("{key} must be an integer that is not negative"))),
        },
    }
}

fn expect(path: &Path, metadata: &Metadata, key: &str, expected: usize) -> Result<()> {
    match split_key(path, metadata, key)? {
        Some(found) if found == expected as u64 => Ok(()),
        Some(found) => {
            Err(Error::malformed(path, format!("{key} is {found}, expected {expected}: not of this set")))
        }
        None => Err(Error::malformed(path, format!("{key} is missing, expected {expected}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn split_names_come_apart_and_together() {
        let name = SplitName::parse("a-b-00002-of-00003.gguf").unwrap();
        assert_eq!(name, SplitName { prefix: "a-b", number: 2, count: 3 });
        assert_eq!(name.sibling(1), "a-b-00001-of-00003.gguf");
    }

    #[test]
    fn other_names_are_not_split_names() {
        for name in [
            "a.gguf",
            "a-00000-of-00000.gguf",
            "a-00000-of-00003.gguf",
            "a-00005-of-00003.gguf",
            "a-1-of-3.gguf",
            "a-00001-of-00003.bin",
            "a-000001-of-000003.gguf",
            "a-+0001-of-00003.gguf",
            "00001-of-00003.gguf",
        ] {
            assert_eq!(SplitName::parse(name), None, "{name}");
        }
    }
}
