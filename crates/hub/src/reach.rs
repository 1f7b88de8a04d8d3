//! Whether the Hub can be reached, and what the cache holds: for reports on a machine.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::client::Bounds;
use crate::status::Asked;
use crate::{Hub, Result};

/// The largest answer to a question that only shows that somebody is there; it is not read.
const LARGEST_ANSWER: u64 = 1 << 20;

/// What the cache holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheUse {
    /// Repositories of models.
    pub models: usize,
    /// Bytes of all files, each counted once however many revisions have it.
    pub bytes: u64,
    /// Bytes of downloads that were not finished.
    pub unfinished: u64,
}

impl Hub {
    /// Asks the Hub for the name of the account if there is a token, else for one model, and returns the time the answer
    /// took.
    ///
    /// # Errors
    /// The Hub cannot be reached, or does not accept the token.
    pub fn reach(&self) -> Result<Duration> {
        let settings = self.settings();
        let path = if settings.token.is_some() { "api/whoami-v2" } else { "api/models?limit=1" };
        let url = self.client.url(path)?;
        let asked = Asked { repository: "the Hub", revision: "main", file: None };
        let started = Instant::now();
        let bounds = Bounds::new(LARGEST_ANSWER, &settings.patience);
        match self.client.ask("GET", &url, None, bounds, &asked) {
            // A mirror need not have these addresses: any answer shows that it is there.
            Err(error) if error.is_unreachable() || settings.token.is_some() => Err(error),
            Ok(_) | Err(_) => Ok(started.elapsed()),
        }
    }

    /// What the cache holds. A folder that cannot be read counts as empty.
    pub fn cache_use(&self) -> CacheUse {
        let mut found = CacheUse::default();
        let Ok(folders) = fs::read_dir(&self.settings().cache) else { return found };
        for folder in folders.flatten() {
            if folder.file_name().to_string_lossy().starts_with("models--") {
                found.models += 1;
            }
            add(&folder.path().join("blobs"), &mut found);
        }
        found
    }
}

/// Adds the files of a folder of blobs.
fn add(blobs: &Path, found: &mut CacheUse) {
    let Ok(files) = fs::read_dir(blobs) else { return };
    for file in files.flatten() {
        // Links are other files' bytes.
        let Some(bytes) = file.metadata().ok().filter(fs::Metadata::is_file).map(|metadata| metadata.len())
        else {
            continue;
        };
        match file.file_name().to_string_lossy().ends_with(".incomplete") {
            true => found.unfinished += bytes,
            false => found.bytes += bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Settings;

    #[test]
    fn each_file_of_the_cache_counts_once() {
        let cache = tempfile::tempdir().unwrap();
        let folder = cache.path().join("models--org--name");
        fs::create_dir_all(folder.join("blobs")).unwrap();
        fs::create_dir_all(folder.join("snapshots/1")).unwrap();
        fs::write(folder.join("blobs/abc"), [0; 100]).unwrap();
        fs::write(folder.join("blobs/def.incomplete"), [0; 10]).unwrap();
        fs::write(folder.join("snapshots/1/config.json"), [0; 1000]).unwrap();
        let read = |key: &str| (key == "HF_HUB_CACHE").then(|| cache.path().into());
        let hub = Hub::new(Settings::read(read).unwrap()).unwrap();
        assert_eq!(hub.cache_use(), CacheUse { models: 1, bytes: 100, unfinished: 10 });
        let empty = |key: &str| (key == "HF_HUB_CACHE").then(|| cache.path().join("none").into());
        assert_eq!(Hub::new(Settings::read(empty).unwrap()).unwrap().cache_use(), CacheUse::default());
    }
}
