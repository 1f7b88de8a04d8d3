//! A folder under construction: locked while this process lives, removed when it is dropped or a signal ends the
//! process.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::{Ending, is_at, lock, make, names, remove};

/// A folder `.NAME.quern-XXXXXX.part` (or `.parts`) beside the target.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    /// The open folder is the lock; none where folders cannot be opened.
    _lock: Option<File>,
    /// It has its own name, or was removed.
    gone: bool,
}

impl Folder {
    /// A new, empty folder in `parent` for a target called `name`.
    pub fn create(parent: &Path, name: &OsStr, ending: Ending) -> io::Result<Self> {
        for _ in 0..100 {
            let mut live = names();
            // The mode of a plain `mkdir`: what is made for a model must be readable for everybody who may read models.
            let ((), path) = make(parent, name, ending, |path| fs::create_dir(path))?;
            live.insert(path.clone());
            drop(live);
            let lock = File::open(&path).inspect(lock::hold);
            // Before it was locked, another process may have taken it for what a dead one left.
            let stays = match &lock {
                Ok(folder) => is_at(folder, &path),
                Err(e) => e.kind() != io::ErrorKind::NotFound,
            };
            let made = Self { path, _lock: lock.ok(), gone: !stays };
            if stays {
                return Ok(made);
            }
            names().remove(&made.path);
        }
        Err(io::Error::other("other processes remove every folder that is made there"))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// It has been renamed while `names` were locked: nothing is left to remove.
    pub fn renamed(mut self, names: &mut std::collections::BTreeSet<PathBuf>) {
        names.remove(&self.path);
        self.gone = true;
    }

    /// Removes it, with what it holds.
    pub fn remove(mut self) -> io::Result<()> {
        self.clear()
    }

    fn clear(&mut self) -> io::Result<()> {
        if std::mem::replace(&mut self.gone, true) {
            return Ok(());
        }
        // Not while the names are locked: it may take a while, and a signal must not wait for it.
        let removed = remove(&self.path);
        names().remove(&self.path);
        removed
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = self.clear();
    }
}
