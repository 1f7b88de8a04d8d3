//! What a folder is that holds no model, by the names in it, the first bytes of what should be weights, and a few
//! small files.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::{Identified, Identity, brief, bytes, checkpoint, object};

/// What weights end with.
const WEIGHTS: [&str; 6] = [".safetensors", ".gguf", ".bin", ".pt", ".pth", ".ckpt"];

/// What the files of distributed checkpoints hold in their names.
const DISTRIBUTED: [&str; 6] = [
    ".distcp",
    "zero_pp_rank",
    "_optim_states",
    "zero_to_fp32.py",
    "mp_rank_",
    "latest_checkpointed_iteration",
];

/// Folders looked into for a model one level down.
const MOST_FOLDERS: usize = 64;

/// What the folder `path`, in which no model was found, is. `None` if it cannot be read.
pub(super) fn identify(path: &Path) -> Option<Identified> {
    let (files, folders) = names(path)?;
    let this = |identity| Some(Identified::new(path, identity));
    let has = |name: &str| files.contains(name);
    if let Some(found) = weights(path, &files) {
        return Some(found);
    }
    if has("model_index.json") {
        return this(Identity::Diffusers);
    }
    if has("adapter_config.json") {
        let adapter = checkpoint::adapter_of_folder(path);
        return this(adapter);
    }
    if folders.contains("snapshots") && folders.contains("blobs") {
        return this(Identity::HubCache { name: cached_name(path) });
    }
    let distributed = |name: &String| DISTRIBUTED.iter().any(|mark| name.contains(mark));
    let sharded = |name: &String| name.starts_with("global_step") || name.starts_with("pytorch_model_fsdp");
    if files.iter().any(distributed) || folders.iter().any(sharded) {
        return this(Identity::Distributed);
    }
    let below: Vec<String> =
        folders.iter().take(MOST_FOLDERS).filter(|f| holds_weights(&path.join(f))).cloned().collect();
    if !below.is_empty() {
        return this(Identity::Below { folders: below });
    }
    for name in &files {
        let file = path.join(name);
        match bytes::of_name(&file) {
            Some(Identity::Settings { .. }) | None => {}
            Some(identity) => return Some(Identified::new(file, identity)),
        }
    }
    match files.is_empty() && folders.is_empty() {
        true => this(Identity::EmptyFolder),
        false => {
            let folders = folders.into_iter().map(|folder| format!("{folder}/"));
            this(Identity::NoWeights {
                found: files.into_iter().chain(folders).map(|name| brief(&name)).collect(),
            })
        }
    }
}

/// What a folder with several candidates is, if they are the parts of one thing.
pub(super) fn of_several(path: &Path, names: &[String]) -> Option<Identified> {
    let part = |name: &String| name.starts_with("consolidated.") && name.ends_with(".pth");
    if names.iter().all(part) {
        return Some(Identified::new(path, Identity::OriginalLayout));
    }
    if names.iter().all(|name| DISTRIBUTED.iter().any(|mark| name.contains(mark))) {
        return Some(Identified::new(path, Identity::Distributed));
    }
    // Weights that are none, such as pointers, are no choice either.
    let found: Option<Vec<Identified>> = names.iter().map(|name| foreign(&path.join(name))).collect();
    found?.into_iter().next()
}

/// The first file of weights that is none.
fn weights(path: &Path, files: &BTreeSet<String>) -> Option<Identified> {
    let is_weights = |name: &&String| WEIGHTS.iter().any(|end| name.ends_with(end));
    files.iter().filter(is_weights).find_map(|name| foreign(&path.join(name)))
}

fn foreign(file: &Path) -> Option<Identified> {
    bytes::of_start(file).map(|identity| Identified::new(file, identity))
}

/// The names of the files and folders in a folder, without hidden ones.
fn names(path: &Path) -> Option<(BTreeSet<String>, BTreeSet<String>)> {
    let (mut files, mut folders) = (BTreeSet::new(), BTreeSet::new());
    for entry in fs::read_dir(path).ok()?.flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        if name.starts_with('.') {
            continue;
        }
        let is_folder = fs::metadata(entry.path()).is_ok_and(|m| m.is_dir());
        let list = if is_folder { &mut folders } else { &mut files };
        list.insert(name);
    }
    Some((files, folders))
}

/// Whether a folder holds files of weights, by their names.
fn holds_weights(path: &Path) -> bool {
    let is_weights = |name: &String| {
        [".safetensors", ".gguf"].iter().any(|end| name.ends_with(end)) || name == "pytorch_model.bin"
    };
    names(path).is_some_and(|(files, _)| files.iter().any(is_weights))
}

/// The model's name that a folder of the Hub's cache has: `models--org--name`.
fn cached_name(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?.strip_prefix("models--")?;
    let (owner, name) = name.split_once("--")?;
    Some(brief(&format!("{owner}/{name}")))
}

/// The texts of an adapter's configuration that name its base: PEFT's key, then mlx-lm's.
pub(super) fn base_of(path: &Path) -> (Option<String>, Option<String>) {
    let Some(config) = object(&path.join("adapter_config.json")) else { return (None, None) };
    let text = |key: &str| config.get(key)?.as_str().filter(|text| !text.is_empty()).map(brief);
    (
        text("peft_type").or_else(|| text("fine_tune_type")),
        text("base_model_name_or_path").or_else(|| text("model")),
    )
}
