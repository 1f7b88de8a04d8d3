//! The temporary files and folders of this process, so that a signal can end it without leaving them.
//!
//! The list is locked while a name is made, given to an output, or removed. [`abandon`] takes that lock for good:
//! whatever other threads do, no output appears and no temporary name is made after it.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

static NAMES: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// The names, locked: nobody else makes, publishes or removes one meanwhile.
pub(crate) fn names() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    NAMES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes every unfinished output of this process. For a program that is about to end because of a signal: threads
/// that go on writing stop where they would make or name a file, for ever, so the process must end afterwards.
/// Outputs that are complete stay; the folder of an unfinished GPTQ run, which can be resumed, stays too.
pub fn abandon() {
    let names = names();
    for path in names.iter() {
        let _ = remove(path);
    }
    std::mem::forget(names);
}

/// Removes a file or folder. Nothing there is no error.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    let mut attempts = 0;
    loop {
        let removed = match fs::symlink_metadata(path) {
            Ok(found) if found.is_dir() => fs::remove_dir_all(path),
            Ok(_) => fs::remove_file(path),
            Err(e) => Err(e),
        };
        match removed {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            // A thread that is still at work added a file meanwhile.
            Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty && attempts < 50 => attempts += 1,
            done => return done,
        }
        thread::sleep(Duration::from_millis(2));
    }
}
