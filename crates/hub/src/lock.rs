//! A file lock between processes, shared with Python's `huggingface_hub`.
//!
//! `huggingface_hub` locks `.locks/models--org--name/ETAG.lock` with `flock(2)`, and so does this. The file stays
//! in place when the lock is released, because other processes may be waiting on it.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::error::ErrorKind;
use crate::regular::{self, Links};
use crate::{Error, Result};

/// The interval of attempts for a lock that another process holds.
const EVERY: Duration = Duration::from_millis(100);

/// A lock, released when dropped.
#[derive(Debug)]
pub(crate) enum Lock {
    /// Held.
    Held(#[allow(dead_code, reason = "the open file is the lock")] File),
    /// The file system has no locks: others may do the same at the same time.
    Unsupported,
}

impl Lock {
    /// Takes the lock at `path`; calls `waiting` once if another process has it, and waits until it is free.
    pub fn take(path: &Path, cancelled: &AtomicBool, waiting: impl FnOnce()) -> Result<Self> {
        let mut waiting = Some(waiting);
        loop {
            if let Some(lock) = Self::try_take(path)? {
                return Ok(lock);
            }
            if cancelled.load(Ordering::Relaxed) {
                return Err(Error::new(path.display().to_string(), ErrorKind::Cancelled));
            }
            if let Some(waiting) = waiting.take() {
                waiting();
            }
            thread::sleep(EVERY);
        }
    }

    /// Takes the lock if it is free.
    pub fn try_take(path: &Path) -> Result<Option<Self>> {
        let disk = |e: &io::Error| Error::disk(path, e);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(|e| disk(&e))?;
        }
        loop {
            let options = &mut File::options();
            let options = options.create(true).truncate(false).write(true);
            let file = regular::open(path, options, Links::Refuse)?;
            let file = file.ok_or_else(|| disk(&io::ErrorKind::NotFound.into()))?;
            match file.try_lock() {
                Ok(()) if is_at(&file, path) => return Ok(Some(Self::Held(file))),
                Ok(()) => {} // somebody removed the file meanwhile: that lock is another's no more
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(e)) if has_none(&e) => return Ok(Some(Self::Unsupported)),
                Err(TryLockError::Error(e)) => return Err(disk(&e)),
            }
        }
    }
}

/// The errors of file systems without locks: ENOSYS, EOPNOTSUPP, ENOLCK.
fn has_none(e: &io::Error) -> bool {
    #[cfg(unix)]
    if e.raw_os_error() == Some(rustix::io::Errno::NOLCK.raw_os_error()) {
        return true;
    }
    e.kind() == io::ErrorKind::Unsupported
}

/// Whether the open file is still the one at `path`.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (file.metadata(), fs::metadata(path)) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}

#[cfg(not(unix))]
fn is_at(_: &File, _: &Path) -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_held_by_one_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/x.lock");
        let first = Lock::try_take(&path).unwrap().unwrap();
        assert!(matches!(first, Lock::Held(_)));
        assert!(Lock::try_take(&path).unwrap().is_none());
        let cancelled = AtomicBool::new(true);
        let mut called = false;
        let given_up = Lock::take(&path, &cancelled, || called = true).unwrap_err();
        assert!(matches!(given_up.kind, ErrorKind::Cancelled) && !called);
        thread::scope(|scope| {
            let second = scope.spawn(|| Lock::take(&path, &AtomicBool::new(false), || drop(first)));
            second.join().unwrap().unwrap();
        });
        assert!(path.exists());
    }
}
