//! Which files a path means.
//!
//! A file is told by its first bytes, then by its extension. A folder must hold exactly one model:
//! `model.safetensors.index.json` (its shards with it), `model.safetensors`, a GGUF file or a set of splits;
//! others (`gptq_model-4bit-128g.safetensors`, with an index of its own where it is in shards) count only where
//! the first two are absent, since checkpoints often carry extra ones (`consolidated.safetensors`, adapters)
//! beside the real model.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::gguf::split::SplitName;
use crate::map::NOT_REGULAR;
use crate::{Error, Result, safetensors};

/// The file to begin with, by container.
#[derive(Debug)]
pub(crate) enum Found {
    Gguf(PathBuf),
    Safetensors(PathBuf),
    Index(PathBuf),
}

const INDEX: &str = "model.safetensors.index.json";
/// What indices of other names end with.
const INDEX_END: &str = ".safetensors.index.json";
const SINGLE: &str = "model.safetensors";

/// What `path`, a file or a folder, means.
pub(crate) fn find(path: &Path) -> Result<Found> {
    let metadata = fs::metadata(path).map_err(|e| Error::new(path, e))?;
    match metadata {
        m if m.is_dir() => in_folder(path),
        m if m.is_file() => of_file(path),
        _ => Err(Error::refused(path, NOT_REGULAR)),
    }
}

fn of_file(path: &Path) -> Result<Found> {
    let mut start = Vec::new();
    let file = File::open(path).map_err(|e| Error::new(path, e))?;
    file.take(9).read_to_end(&mut start).map_err(|e| Error::new(path, e))?;
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
    let path = path.to_path_buf();
    match (start.as_slice(), extension.as_str()) {
        ([b'G', b'G', b'U', b'F', ..], _) | (_, "gguf") => Ok(Found::Gguf(path)),
        (_, "safetensors") => Ok(Found::Safetensors(path)),
        (_, "json") => Ok(Found::Index(path)),
        // Eight bytes of header length, the upper ones zero, then JSON: a file of the Hub's cache, whose
        // blobs carry no extension.
        ([_, _, _, _, 0, 0, 0, 0, b'{'], _) => Ok(Found::Safetensors(path)),
        (_, "bin" | "pt" | "pth" | "ckpt") => Err(Error::unsupported(
            path,
            "a PyTorch checkpoint, which quern does not read yet; save it as safetensors first",
        )),
        _ => Err(Error::unsupported(
            path,
            "neither GGUF nor safetensors, and not an index of safetensors shards",
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
        let part_of_index = has_index && safetensors::index::shards(&folder.join(INDEX))?.contains(SINGLE);
        if !part_of_index {
            found.push((SINGLE.to_string(), Found::Safetensors(folder.join(SINGLE))));
        }
    }
    if found.is_empty() {
        let mut files: BTreeSet<_> = names.iter().filter(|n| n.ends_with(".safetensors")).collect();
        for index in names.iter().filter(|n| n.ends_with(INDEX_END)) {
            let shards = safetensors::index::shards(&folder.join(index))?;
            files.retain(|n| !shards.contains(*n));
            found.push((index.clone(), Found::Index(folder.join(index))));
        }
        found.extend(files.into_iter().map(|n| (n.clone(), Found::Safetensors(folder.join(n)))));
    }
    found.extend(gguf_models(&names).into_iter().map(|n| (n.to_string(), Found::Gguf(folder.join(n)))));
    one_of(folder, &names, found)
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

fn one_of(folder: &Path, names: &BTreeSet<String>, mut found: Vec<(String, Found)>) -> Result<Found> {
    if found.len() > 1 {
        let all_shards = found.iter().all(|(n, f)| matches!(f, Found::Safetensors(_)) && n.contains("-of-"));
        let list = found.iter().map(|(n, _)| n.as_str()).collect::<Vec<_>>().join(", ");
        let what = match all_shards {
            true => format!("shards without their index ({list}); put {INDEX} beside them"),
            false => {
                format!("more than one model in this folder ({list}); give the path of the one you mean")
            }
        };
        return Err(Error::refused(folder, what));
    }
    match found.pop() {
        Some((_, found)) => Ok(found),
        None if names.iter().any(|n| n.ends_with(".bin") || n.ends_with(".pt") || n.ends_with(".pth")) => {
            let what =
                "only a PyTorch checkpoint, which quern does not read yet; save it as safetensors first";
            Err(Error::unsupported(folder, what))
        }
        None => Err(Error::refused(folder, "no model in this folder (looked for *.safetensors and *.gguf)")),
    }
}
