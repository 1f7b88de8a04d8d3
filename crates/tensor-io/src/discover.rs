//! Finds the files of the model at a path.
//!
//! A file is recognised by its first bytes, then by its extension. A folder must hold exactly one model:
//! `model.safetensors.index.json` (its shards with it), `model.safetensors`, a GGUF file or a set of splits;
//! others (`gptq_model-4bit-128g.safetensors`, with an index of its own where it is in shards) count only where
//! the first two are absent, since checkpoints often carry extra ones (`consolidated.safetensors`, adapters)
//! beside the real model.
//!
//! Files that are no model of their own do not count beside one: GGUF files that say so (adapters, projectors,
//! importance matrices, vocabularies), and adapters and Mistral's second copy among safetensors ([`COMPANIONS`]).
//!
//! PyTorch files count only where there is none of these, as in transformers: `pytorch_model.bin.index.json`,
//! `pytorch_model.bin`, then any other that torch.save wrote, except the saved states of training
//! ([`TRAINING`]).

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::error::ErrorKind;
use crate::gguf::split::SplitName;
use crate::map::NOT_REGULAR;
use crate::{Error, Result, gguf, index, pytorch, small};

/// The file to begin with, by container.
#[derive(Debug)]
pub(crate) enum Found {
    Gguf(PathBuf),
    Safetensors(PathBuf),
    PyTorch(PathBuf),
    /// Of shards, safetensors or PyTorch.
    Index(PathBuf),
}

const INDEX: &str = "model.safetensors.index.json";
/// What indices of other names end with.
const INDEX_END: &str = ".safetensors.index.json";
const SINGLE: &str = "model.safetensors";
const PYTORCH_INDEX: &str = "pytorch_model.bin.index.json";
const PYTORCH_INDEX_END: &str = ".bin.index.json";
const PYTORCH_SINGLE: &str = "pytorch_model.bin";
const PYTORCH_EXTENSIONS: [&str; 4] = ["bin", "pt", "pth", "ckpt"];

/// What files of a training that is no model begin with; torch.save wrote them too.
const TRAINING: [&str; 7] =
    ["training_args", "optimizer", "scheduler", "scaler", "rng_state", "random_states", "trainer_state"];

/// What files begin with that are no model beside another.
const COMPANIONS: [&str; 4] = ["adapter_", "adapters", "consolidated", "optimizer"];

/// What `path`, a file or a folder, means.
pub(crate) fn find(path: &Path) -> Result<Found> {
    let metadata = fs::metadata(path).map_err(|e| Error::new(path, e))?;
    match metadata {
        m if m.is_dir() => in_folder(path),
        m if m.is_file() => of_file(path),
        _ => Err(Error::refused(path, NOT_REGULAR)),
    }
}

/// How many bytes of a file's beginning show what it is.
const START: u64 = 32;

fn of_file(path: &Path) -> Result<Found> {
    let start = small::start(path, START)?;
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
    let path = path.to_path_buf();
    match (start.as_slice(), extension.as_str()) {
        ([b'G', b'G', b'U', b'F', ..], _) | (_, "gguf") => Ok(Found::Gguf(path)),
        (_, "safetensors") => Ok(Found::Safetensors(path)),
        (_, "json") => Ok(Found::Index(path)),
        // Eight bytes of header length, the upper ones zero, then JSON: a file of the Hub's cache, whose
        // blobs carry no extension.
        ([_, _, _, _, 0, 0, 0, 0, b'{', ..], _) => Ok(Found::Safetensors(path)),
        (start, _) if pytorch::begins(start) => Ok(Found::PyTorch(path)),
        (_, extension) if PYTORCH_EXTENSIONS.contains(&extension) => Ok(Found::PyTorch(path)),
        _ => Err(Error::unsupported(
            path,
            "neither GGUF nor safetensors nor PyTorch, and not an index of shards",
        )),
    }
}

fn in_folder(folder: &Path) -> Result<Found> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(folder).map_err(|e| Error::new(folder, e))? {
        let entry = entry.map_err(|e| Error::new(folder, e))?;
        // Names that are not UTF-8, and hidden ones such as our own unfinished outputs, are no model's.
        if let Ok(name) = entry.file_name().into_string()
            && !name.starts_with('.')
        {
            names.insert(name);
        }
    }
    let mut found = Vec::new();
    let has_index = names.contains(INDEX);
    if has_index {
        found.push((INDEX.to_string(), Found::Index(folder.join(INDEX))));
    }
    if names.contains(SINGLE) {
        let part_of_index = has_index && index::shards(&folder.join(INDEX))?.contains(SINGLE);
        if !part_of_index {
            found.push((SINGLE.to_string(), Found::Safetensors(folder.join(SINGLE))));
        }
    }
    if found.is_empty() {
        let mut files: BTreeSet<_> = names.iter().filter(|n| n.ends_with(".safetensors")).collect();
        for name in names.iter().filter(|n| n.ends_with(INDEX_END)) {
            let shards = index::shards(&folder.join(name))?;
            files.retain(|n| !shards.contains(*n));
            found.push((name.clone(), Found::Index(folder.join(name))));
        }
        found.extend(files.into_iter().map(|n| (n.clone(), Found::Safetensors(folder.join(n)))));
    }
    found.extend(gguf_models(&names).into_iter().map(|n| (n.to_string(), Found::Gguf(folder.join(n)))));
    let pickles = names.iter().any(|n| PYTORCH_EXTENSIONS.iter().any(|e| n.ends_with(e)));
    if pickles && found.iter().all(|(name, file)| is_companion(name, file)) {
        found.extend(pytorch_models(folder, &names)?);
    }
    one_of(folder, found)
}

/// The PyTorch models of a folder that has no others.
fn pytorch_models(folder: &Path, names: &BTreeSet<String>) -> Result<Vec<(String, Found)>> {
    if names.contains(PYTORCH_INDEX) {
        return Ok(vec![(PYTORCH_INDEX.into(), Found::Index(folder.join(PYTORCH_INDEX)))]);
    }
    if names.contains(PYTORCH_SINGLE) {
        return Ok(vec![(PYTORCH_SINGLE.into(), Found::PyTorch(folder.join(PYTORCH_SINGLE)))]);
    }
    let is_model = |n: &&String| {
        let (stem, extension) = n.rsplit_once('.').unwrap_or_default();
        let path = folder.join(n);
        PYTORCH_EXTENSIONS.contains(&extension)
            && !TRAINING.iter().any(|t| stem.starts_with(t))
            // Many other things are called .bin.
            && path.is_file()
            && small::start(&path, START).is_ok_and(|start| pytorch::begins(&start))
    };
    let mut files: BTreeSet<_> = names.iter().filter(is_model).collect();
    let mut found = Vec::new();
    for name in names.iter().filter(|n| n.ends_with(PYTORCH_INDEX_END)) {
        let shards = index::shards(&folder.join(name))?;
        files.retain(|n| !shards.contains(*n));
        found.push((name.clone(), Found::Index(folder.join(name))));
    }
    found.extend(files.into_iter().map(|n| (n.clone(), Found::PyTorch(folder.join(n)))));
    Ok(found)
}

/// The GGUF files of a folder, with splits reduced to the first part that is there.
fn gguf_models(names: &BTreeSet<String>) -> Vec<&str> {
    let mut sets = BTreeSet::new();
    let is_model = |name: &&String| match SplitName::parse(name) {
        Some(split) => sets.insert((split.prefix.to_owned(), split.count)),
        None => true,
    };
    names.iter().filter(|n| n.ends_with(".gguf")).filter(is_model).map(String::as_str).collect()
}

/// Whether this is part of another model: a projector, an adapter and the like.
fn is_companion(name: &str, found: &Found) -> bool {
    match found {
        Found::Gguf(path) => gguf::is_companion(path),
        Found::Safetensors(_) | Found::PyTorch(_) | Found::Index(_) => {
            COMPANIONS.iter().any(|start| name.starts_with(start))
        }
    }
}

fn one_of(folder: &Path, mut found: Vec<(String, Found)>) -> Result<Found> {
    if found.len() > 1 {
        let (companions, models): (Vec<_>, Vec<_>) =
            found.into_iter().partition(|(name, file)| is_companion(name, file));
        found = if models.is_empty() { companions } else { models };
    }
    if found.len() > 1 {
        let pytorch = found.iter().all(|(_, f)| matches!(f, Found::PyTorch(_)));
        let single = |f: &Found| matches!(f, Found::Safetensors(_) | Found::PyTorch(_));
        let all_shards = found.iter().all(|(n, f)| single(f) && n.contains("-of-"));
        let names: Vec<String> = found.into_iter().map(|(name, _)| name).collect();
        if all_shards {
            let (list, index) = (names.join(", "), if pytorch { PYTORCH_INDEX } else { INDEX });
            let what = format!("shards without their index ({list}); put {index} beside them");
            return Err(Error::refused(folder, what));
        }
        return Err(Error::new(folder, ErrorKind::SeveralModels(names)));
    }
    match found.pop() {
        Some((_, found)) => Ok(found),
        None => Err(Error::new(folder, ErrorKind::NoModel)),
    }
}
