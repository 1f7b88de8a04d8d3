//! A folder of plain files (`-o DIR`), which appears complete or not at all.
//!
//! Downloaded files are kept in `.NAME.pull` beside the target, by hash as in the cache, and stay there if the pull
//! fails: the next one resumes with them. When all are there, they move to a folder that takes the target's name
//! in one step ([`OutputDirectory`]). Files that the cache has are copied from it.

use std::fs;
use std::path::{Path, PathBuf};

use quern_tensor_io::output::OutputDirectory;

use crate::blobs::Blobs;
use crate::cache::Repository;
use crate::digest::Digest;
use crate::error::ErrorKind;
use crate::lock::Lock;
use crate::{Error, Result, space};

/// The target of a pull.
#[derive(Debug)]
pub(crate) struct Output {
    path: PathBuf,
    force: bool,
    pub blobs: Blobs,
    work: Work,
}

/// The folder of what has come, and the lock on it.
#[derive(Debug)]
struct Work {
    folder: PathBuf,
    #[allow(dead_code, reason = "held until the folder is complete")]
    lock: Lock,
}

impl Drop for Work {
    fn drop(&mut self) {
        // Downloaded files are kept; without any, the folder is removed.
        let blobs = fs::read_dir(self.folder.join("blobs"));
        if blobs.map_or(true, |mut entries| entries.next().is_none()) {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

impl Output {
    /// Starts a folder; refuses an existing one unless `force`, and one that another process is filling.
    pub fn new(path: &Path, force: bool) -> Result<Self> {
        // A refused output must not cost the download; dropped, nothing of it remains.
        drop(OutputDirectory::create(path, force)?);
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let folder = path.with_file_name(format!(".{name}.pull"));
        let Some(lock) = Lock::try_take(&folder.join("lock"))? else {
            let what = "another process is pulling into this folder; wait for it, or choose another name";
            return Err(Error::new(path.display().to_string(), ErrorKind::Usage(what.to_owned())));
        };
        let blobs = Blobs {
            folder: folder.join("blobs"),
            locks: folder.join("locks"),
            notes: folder.join("checked"),
        };
        Ok(Self { path: path.to_path_buf(), force, blobs, work: Work { folder, lock } })
    }

    /// The place of the content with this hash: here, or in the cache.
    pub fn or_cached(&self, cache: &Repository, digest: &Digest) -> PathBuf {
        let own = self.blobs.path(digest);
        if own.exists() { own } else { cache.blobs.path(digest) }
    }

    /// Moves or copies the content of every file to its place and gives the folder its name.
    pub fn finish(self, files: Vec<(String, PathBuf)>) -> Result<PathBuf> {
        let directory = OutputDirectory::create(&self.path, self.force)?;
        let building = directory.building();
        let copied = files.iter().filter(|(_, content)| !content.starts_with(&self.work.folder));
        let bytes = copied.filter_map(|(_, content)| fs::metadata(content).ok()).map(|m| m.len()).sum();
        space::check(building, bytes)?;
        for (at, (file, content)) in files.iter().enumerate() {
            let target = building.join(file);
            let folder = target.parent().unwrap_or(building);
            fs::create_dir_all(folder).map_err(|e| Error::disk(folder, &e))?;
            let needed_again = files[at + 1..].iter().any(|(_, other)| other == content);
            let place = || -> std::io::Result<()> {
                if content.starts_with(&self.work.folder) && !needed_again {
                    return fs::rename(content, &target);
                }
                fs::copy(content, &target)?;
                fs::File::open(&target)?.sync_all()
            };
            place().map_err(|e| Error::disk(&target, &e))?;
        }
        directory.commit()?;
        // Nothing needed is left in it; a failure only costs a little space.
        let _ = fs::remove_dir_all(&self.work.folder);
        Ok(self.path.clone())
    }
}
