//! Models in several files with an index: `model.safetensors.index.json` or `pytorch_model.bin.index.json`, which
//! have the same form.

use std::collections::{BTreeSet, HashMap};
use std::path::{Component, Path};

use crate::checkpoint::Parts;
use crate::map::MappedFile;
use crate::safetensors::json::Pairs;
use crate::safetensors::reader;
use crate::{Container, Error, Metadata, Result, TensorInfo, pytorch};

/// An index file. Its `metadata.total_size` is ignored: it is often wrong, and not needed.
#[derive(Debug, serde::Deserialize)]
struct Index {
    weight_map: Pairs<String>,
}

/// Opens the model that the index at `path` describes.
pub(crate) fn open(path: &Path) -> Result<(Container, Parts)> {
    let index = read(path)?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let names: Vec<_> =
        index.weight_map.0.iter().map(|(_, file)| file).collect::<BTreeSet<_>>().into_iter().collect();
    let missing: Vec<_> = names.iter().filter(|n| !folder.join(n).exists()).map(|n| n.as_str()).collect();
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

    let is_pytorch = |name: &&String| [".bin", ".pt", ".pth"].iter().any(|end| name.ends_with(end));
    let container = match names.iter().filter(|n| is_pytorch(n)).count() {
        0 => Container::Safetensors,
        n if n == names.len() => Container::PyTorch,
        _ => return Err(Error::malformed(path, "lists both safetensors and PyTorch shards")),
    };
    let (mut files, mut tensors) = (Vec::with_capacity(names.len()), Vec::new());
    let (mut metadata, mut strided) = (Metadata::new(), Vec::new());
    for (number, name) in names.iter().enumerate() {
        let file = MappedFile::open(&folder.join(name))?;
        if container == Container::PyTorch {
            pytorch::read(file.path(), file.bytes(), number, &mut tensors, &mut strided)?;
        } else {
            let (shard_metadata, mut shard_tensors) = reader::read(file.path(), file.bytes(), number)?;
            if number == 0 {
                metadata = shard_metadata;
            }
            tensors.append(&mut shard_tensors);
        }
        files.push(file);
    }
    check(path, &index, &names, &tensors)?;
    Ok((container, Parts { files, metadata, tensors, strided }))
}

/// Names of the shards that the index at `path` lists.
pub(crate) fn shards(path: &Path) -> Result<BTreeSet<String>> {
    Ok(read(path)?.weight_map.0.into_iter().map(|(_, file)| file).collect())
}

/// Reads an index and checks that every shard is in or below its folder.
fn read(path: &Path) -> Result<Index> {
    let file = MappedFile::open(path)?;
    let index: Index = serde_json::from_slice(file.bytes())
        .map_err(|e| Error::malformed(path, format!("not an index of shards: {e}")))?;
    for (tensor, file) in &index.weight_map.0 {
        let inside = Path::new(file).components().all(|c| matches!(c, Component::Normal(_)));
        if file.is_empty() || !inside || file.contains(['\\', '\0']) {
            let what = format!(
                "weight_map points to {file:?}; a shard must be a plain file name in the index's folder"
            );
            return Err(Error::malformed(path, what).with_tensor(tensor));
        }
    }
    Ok(index)
}

/// Checks that the index and the shards name the same tensors in the same places, each once.
fn check(path: &Path, index: &Index, names: &[&String], tensors: &[TensorInfo]) -> Result<()> {
    let mut place = HashMap::with_capacity(tensors.len());
    for tensor in tensors {
        if let Some(first) = place.insert(tensor.name.as_str(), tensor.file) {
            let what = format!("in two shards, {} and {}", names[first], names[tensor.file]);
            return Err(Error::malformed(path, what).with_tensor(&tensor.name));
        }
    }
    for (tensor, file) in &index.weight_map.0 {
        let what = match place.remove(tensor.as_str()) {
            Some(found) if names[found] == file => continue,
            Some(found) => format!("the index places it in {file}, but it is in {}", names[found]),
            None => format!("the index places it in {file}, which does not hold it"),
        };
        return Err(Error::malformed(path, what).with_tensor(tensor));
    }
    match tensors.iter().find(|t| place.contains_key(t.name.as_str())) {
        None => Ok(()),
        Some(stray) => {
            let what = format!("in shard {} but not in the index", names[stray.file]);
            Err(Error::malformed(path, what).with_tensor(&stray.name))
        }
    }
}
