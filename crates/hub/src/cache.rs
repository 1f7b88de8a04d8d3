//! The cache on disk, in the layout that Python's `huggingface_hub` and hf-hub share.
//!
//! ```text
//! CACHE/.locks/models--org--name/ETAG.lock
//! CACHE/models--org--name/refs/REVISION                       the commit of the revision, as text
//! CACHE/models--org--name/blobs/ETAG                          a file's content
//! CACHE/models--org--name/blobs/ETAG.incomplete               a file whose download is incomplete
//! CACHE/models--org--name/snapshots/COMMIT/dir/FILE           -> ../../../blobs/ETAG
//! CACHE/models--org--name/.quern/checked/ETAG                 quern's note that the content was right ([`crate::blobs`])
//! CACHE/models--org--name/.quern/new                          a link or reference that is about to get its name
//! ```
//!
//! A commit and every blob's name are checked to be hex digits before they become a path. What is found in the cache is
//! not trusted either: its files must be regular ones, and a link in a snapshot must not lead out of the repository.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use hf_hub::Repo;

use crate::blobs::{Blobs, Check, State};
use crate::digest::{Digest, is_commit};
use crate::error::ErrorKind;
use crate::listing::{Identity, Names};
use crate::lock::Lock;
use crate::regular::{self, Links};
use crate::{Error, Result};

/// How deep a snapshot's folders are followed.
const DEEPEST: usize = 16;
/// The largest reference: it holds 40 digits.
const LARGEST_REFERENCE: u64 = 4 << 10;

/// One repository in the cache.
#[derive(Debug)]
pub(crate) struct Repository {
    root: PathBuf,
    revision: String,
    pub blobs: Blobs,
}

impl Repository {
    /// The place of a repository; nothing is created.
    pub fn new(cache: &Path, repository: &str, revision: &str) -> Self {
        let folder = Repo::model(repository.to_owned()).folder_name();
        let root = cache.join(&folder);
        let blobs = Blobs {
            folder: root.join("blobs"),
            locks: cache.join(".locks").join(folder),
            notes: root.join(".quern/checked"),
        };
        Self { root, revision: revision.to_owned(), blobs }
    }

    /// The commit of the revision when it was last pulled.
    ///
    /// # Errors
    /// The reference is no regular file.
    pub fn commit(&self) -> Result<Option<String>> {
        let bytes = regular::read(&self.reference(), LARGEST_REFERENCE, Links::Refuse)?;
        let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
        let commit = text.map(|t| t.trim().to_owned()).filter(|t| is_commit(t));
        Ok(commit.or_else(|| is_commit(&self.revision).then(|| self.revision.clone())))
    }

    fn reference(&self) -> PathBuf {
        self.root.join("refs").join(&self.revision)
    }

    pub fn snapshot(&self, commit: &str) -> PathBuf {
        self.root.join("snapshots").join(commit)
    }

    /// The files of a snapshot that are really there, by their paths in the repository.
    pub fn files(&self, commit: &str) -> Names {
        let mut names = Names::new();
        list_files(&self.snapshot(commit), "", DEEPEST, &mut names);
        names
    }

    /// Whether a snapshot holds this file already, as a link to its blob; as a copy, where there are no links.
    pub fn linked(&self, commit: &str, file: &str, identity: &Identity) -> bool {
        let path = self.snapshot(commit).join(file);
        let whole = fs::metadata(&path).is_ok_and(|m| m.is_file() && m.len() == identity.size);
        whole && fs::read_link(&path).map_or(cfg!(windows), |to| to == target_of(file, &identity.digest))
    }

    /// Checks a file of a snapshot: its link stays in the repository, and the content is that of its name.
    ///
    /// # Errors
    /// It is damaged, leads elsewhere, or is no regular file.
    pub fn check(&self, commit: &str, file: &str, check: Check, stop: &AtomicBool) -> Result<()> {
        let path = self.snapshot(commit).join(file);
        let bad = |what: &str| {
            let what = format!("{what}; pull the model again to replace it");
            Error::new(path.display().to_string(), ErrorKind::Untrusted(what))
        };
        let Ok(target) = fs::read_link(&path) else {
            // A copy has no name that says what it holds.
            return regular::look(&path, Links::Refuse).map(drop);
        };
        let real = fs::canonicalize(&path).map_err(|e| Error::disk(&path, &e))?;
        let inside = [&self.root, &self.blobs.folder].into_iter().filter_map(|f| fs::canonicalize(f).ok());
        if !inside.into_iter().any(|folder| real.starts_with(folder)) {
            return Err(bad("it is a link that leads out of the cache"));
        }
        regular::look(&real, Links::Refuse)?;
        let name = target.file_name().and_then(|name| name.to_str());
        let Some(digest) = name.and_then(Digest::parse) else { return Ok(()) };
        match self.blobs.state(&digest, None, check, stop, || ())? {
            State::Damaged => Err(bad("it is damaged in the cache: its content is not what its name says")),
            State::Right | State::Absent => Ok(()),
        }
    }

    /// Puts files into the snapshot of a commit, as links to their blobs, and then lets the revision be this commit.
    ///
    /// Each gets its name in one step. What is about to get one has a fixed name, kept by a lock, so that nothing
    /// is left of a process that was killed.
    pub fn publish(&self, commit: &str, files: &[(&str, Identity)]) -> Result<()> {
        let _lock = Lock::take(&self.blobs.locks.join(".snapshots.lock"), &AtomicBool::new(false), || ())?;
        let new = self.root.join(".quern/new");
        let place = |path: &Path, make: &dyn Fn(&Path) -> io::Result<()>| {
            let folders = [path.parent().unwrap_or(&self.root), new.parent().unwrap_or(&self.root)];
            let placed = folders.into_iter().try_for_each(fs::create_dir_all).and_then(|()| {
                match fs::remove_file(&new) {
                    Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                    Ok(()) | Err(_) => {}
                }
                make(&new)?;
                fs::rename(&new, path)
            });
            placed.map_err(|e| Error::disk(path, &e))
        };
        for (file, identity) in files.iter().filter(|(file, identity)| !self.linked(commit, file, identity)) {
            let target = target_of(file, &identity.digest);
            let blob = self.blobs.path(&identity.digest);
            place(&self.snapshot(commit).join(file), &|new| symlink(&target, new, &blob))?;
        }
        // A commit as revision needs no record.
        if self.revision == commit || self.commit()?.as_deref() == Some(commit) {
            return Ok(());
        }
        place(&self.reference(), &|new| {
            use std::io::Write;
            let mut file = fs::File::create_new(new)?;
            file.write_all(commit.as_bytes())?;
            file.sync_all()
        })
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
        // No links here, or not allowed.
        Err(_) => fs::hard_link(blob, link).or_else(|_| fs::copy(blob, link).map(drop)),
        Ok(()) => Ok(()),
    }
}

fn list_files(folder: &Path, prefix: &str, depth: usize, names: &mut Names) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        let name = format!("{prefix}{name}");
        // Folders are followed as they are, files through their links; what is no regular file is refused when used.
        match (entry.file_type(), fs::metadata(entry.path())) {
            (Ok(kind), _) if kind.is_dir() && depth > 0 => {
                list_files(&entry.path(), &format!("{name}/"), depth - 1, names);
            }
            (Ok(_), Ok(metadata)) if !metadata.is_dir() => drop(names.insert(name.into())),
            _ => {}
        }
    }
}
