//! Models in the Hub's cache: their repository and commit, from the path.
//!
//! ```text
//! …/models--org--name/snapshots/COMMIT/file
//! ```

use std::path::Path;

use quern_tensor_io::{Metadata, Value};

/// Where a model in the cache comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubOrigin {
    /// `org/name`.
    pub repository: String,
    /// The commit.
    pub commit: String,
}

impl HubOrigin {
    /// The origin of a file or folder of the cache; nothing for any other path.
    pub fn of(path: &Path) -> Option<Self> {
        let named = Self::in_names(path);
        // A folder may be reached through a link. (A file of the cache is one: where it leads has no name.)
        named.or_else(|| Self::in_names(&path.parent()?.canonicalize().ok()?.join(path.file_name()?)))
    }

    fn in_names(path: &Path) -> Option<Self> {
        let names: Vec<&str> = path.components().filter_map(|c| c.as_os_str().to_str()).collect();
        names.windows(3).rev().find_map(|three| {
            let (owner, name) = three[0].strip_prefix("models--")?.split_once("--")?;
            let commit = three[2];
            let repository = format!("{owner}/{name}");
            let hex = commit.len() == 40 && commit.bytes().all(|b| b.is_ascii_hexdigit());
            let found = three[1] == "snapshots" && is_repository(&repository) && hex;
            found.then(|| Self { repository, commit: commit.to_owned() })
        })
    }
}

/// The page of a repository on the Hub.
pub(crate) fn url(repository: &str) -> String {
    format!("https://huggingface.co/{repository}")
}

/// Whether `text` is the name of a repository, `org/name`, by the Hub's rules: it becomes part of addresses.
pub(super) fn is_repository(text: &str) -> bool {
    let sound = |part: &str| {
        let known = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        let ends = ['-', '.'];
        let whole = !part.is_empty() && !part.starts_with(ends) && !part.ends_with(ends);
        whole && part.bytes().all(known) && !part.contains("--") && !part.contains("..")
    };
    text.len() <= 96 && text.split_once('/').is_some_and(|(owner, name)| sound(owner) && sound(name))
}

/// The models that a card names as its base, as llama.cpp's converter writes them. What is no name on the Hub is left
/// out.
pub(super) fn set_base_models(names: &[String], metadata: &mut Metadata) {
    let models: Vec<_> = names
        .iter()
        .filter(|name| is_repository(name))
        .filter_map(|repository| Some((repository, repository.split_once('/')?)))
        .collect();
    if models.is_empty() {
        return;
    }
    metadata.set("general.base_model.count", Value::U32(models.len() as u32));
    for (id, (repository, (owner, name))) in models.into_iter().enumerate() {
        let mut set = |key: &str, text: &str| metadata.set(format!("general.base_model.{id}.{key}"), text);
        set("name", &name.replace('-', " "));
        set("organization", owner);
        set("repo_url", &url(repository));
    }
}
