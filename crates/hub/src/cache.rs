//! The cache on disk, in the layout that Python's `huggingface_hub` and hf-hub share.
//!
//! ```text
//! CACHE/.locks/models--org--name/ETAG.lock
//! CACHE/models--org--name/refs/REVISION                       the commit of the revision, as text
//! CACHE/models--org--name/blobs/ETAG                          a file's content
//! CACHE/models--org--name/blobs/ETAG.incomplete               a file whose download is incomplete
//! CACHE/models--org--name/snapshots/COMMIT/dir/FILE           -> ../../../blobs/ETAG
//! ```
//!
//! hf-hub gives the folder's name and writes the reference. Its own lookups use a reference's text unchecked; here
//! a commit and every blob's name are checked to be hex digits before they become a path.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use hf_hub::{Cache, CacheRepo};

use crate::digest::{Digest, is_commit};
use crate::listing::{Identity, repo};
use crate::{Error, Result};

/// How deep a snapshot's folders are followed.
const DEEPEST: usize = 16;

/// A folder of blobs and the folder of their locks.
#[derive(Debug)]
pub(crate) struct Blobs {
    pub folder: PathBuf,
    pub locks: PathBuf,
}

impl Blobs {
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.folder.join(digest.to_string())
    }

    /// The part downloaded so far.
    pub fn incomplete(&self, digest: &Digest) -> PathBuf {
        self.folder.join(format!("{digest}.incomplete"))
    }

    pub fn lock(&self, digest: &Digest) -> PathBuf {
        self.locks.join(format!("{digest}.lock"))
    }

    /// Whether the complete blob is present. Its content was checked before it got its name.
    pub fn has(&self, identity: &Identity) -> bool {
        fs::metadata(self.path(&identity.digest)).is_ok_and(|m| m.is_file() && m.len() == identity.size)
    }

    /// Bytes still to download.
    pub fn left(&self, identity: &Identity) -> u64 {
        if self.has(identity) {
            return 0;
        }
        let here = fs::metadata(self.incomplete(&identity.digest)).map_or(0, |m| m.len());
        identity.size.saturating_sub(here)
    }
}

/// One repository in the cache.
#[derive(Debug)]
pub(crate) struct Repository {
    root: PathBuf,
    revision: String,
    handle: CacheRepo,
    pub blobs: Blobs,
}

impl Repository {
    /// The place of a repository; nothing is created.
    pub fn new(cache: &Path, repository: &str, revision: &str) -> Self {
        let repo = repo(repository, revision);
        let folder = repo.folder_name();
        let root = cache.join(&folder);
        let blobs = Blobs { folder: root.join("blobs"), locks: cache.join(".locks").join(folder) };
        let handle = Cache::new(cache.to_path_buf()).repo(repo);
        Self { root, revision: revision.to_owned(), handle, blobs }
    }

    /// The commit of the revision when it was last pulled.
    pub fn commit(&self) -> Option<String> {
        let text = fs::read_to_string(self.root.join("refs").join(&self.revision)).ok();
        let commit = text.map(|t| t.trim().to_owned()).filter(|t| is_commit(t));
        commit.or_else(|| is_commit(&self.revision).then(|| self.revision.clone()))
    }

    /// Records the revision's current commit. A commit as revision needs no record.
    pub fn set_commit(&self, commit: &str) -> Result<()> {
        if self.revision == commit || self.commit().as_deref() == Some(commit) {
            return Ok(());
        }
        self.handle
            .create_ref(commit)
            .map_err(|e| Error::disk(&self.root.join("refs").join(&self.revision), &e))
    }

    pub fn snapshot(&self, commit: &str) -> PathBuf {
        self.root.join("snapshots").join(commit)
    }

    /// The files of a snapshot that are really there, by their paths in the repository.
    pub fn files(&self, commit: &str) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        list_files(&self.snapshot(commit), "", DEEPEST, &mut names);
        names
    }

    /// Whether a snapshot holds this file already, as a link to its blob or as a file of its own.
    pub fn linked(&self, commit: &str, file: &str, identity: &Identity) -> bool {
        let path = self.snapshot(commit).join(file);
        let whole = fs::metadata(&path).is_ok_and(|m| m.is_file() && m.len() == identity.size);
        whole && fs::read_link(&path).map_or(true, |target| target == target_of(file, &identity.digest))
    }

    /// Puts a file into a snapshot: a link to its blob. An older one of the name is replaced in one step.
    pub fn link(&self, commit: &str, file: &str, identity: &Identity) -> Result<()> {
        if self.linked(commit, file, identity) {
            return Ok(());
        }
        let path = self.snapshot(commit).join(file);
        let place = || {
            let folder = path.parent().unwrap_or(&self.root);
            fs::create_dir_all(folder)?;
            let made = tempfile::Builder::new().prefix(".").suffix(".link").make_in(folder, |temporary| {
                symlink(&target_of(file, &identity.digest), temporary, &self.blobs.path(&identity.digest))
            })?;
            made.persist(&path).map(drop).map_err(|e| e.error)
        };
        place().map_err(|e| Error::disk(&path, &e))
    }
}

/// From a file in a snapshot to its blob.
fn target_of(file: &str, digest: &Digest) -> PathBuf {
    let up = 2 + file.matches('/').count();
    PathBuf::from("../".repeat(up) + "blobs").join(digest.to_string())
}

/// A symbolic link, or what the file system has instead.
fn symlink(target: &Path, link: &Path, blob: &Path) -> io::Result<()> {
    #[cfg(unix)]
    let made = std::os::unix::fs::symlink(target, link);
    #[cfg(windows)]
    let made = std::os::windows::fs::symlink_file(target, link);
    match made {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Err(e),
        Err(_) => fs::hard_link(blob, link).or_else(|_| fs::copy(blob, link).map(drop)),
        Ok(()) => Ok(()),
    }
}

fn list_files(folder: &Path, prefix: &str, depth: usize, names: &mut BTreeSet<String>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        let name = format!("{prefix}{name}");
        // Folders are followed as they are, files through their links.
        match (entry.file_type(), fs::metadata(entry.path())) {
            (Ok(kind), _) if kind.is_dir() && depth > 0 => {
                list_files(&entry.path(), &format!("{name}/"), depth - 1, names);
            }
            (_, Ok(metadata)) if metadata.is_file() => drop(names.insert(name)),
            _ => {}
        }
    }
}
