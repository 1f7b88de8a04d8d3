//! Digests of the files of an unfinished run.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};

use quern_tensor_io::{Error, Result};
use sha2::{Digest, Sha256};

use crate::calibration::hex;

/// SHA-256 of a file, computed by a thread of its own.
#[derive(Debug)]
pub(super) struct FileDigest {
    file: PathBuf,
    /// None where the system gives no thread: it is computed by [`FileDigest::wait`].
    thread: Option<JoinHandle<std::io::Result<String>>>,
}

impl FileDigest {
    /// Begins to compute it.
    pub fn of(file: PathBuf) -> Self {
        let path = file.clone();
        let thread = thread::Builder::new().spawn(move || file_digest(&path)).ok();
        Self { file, thread }
    }

    /// The digest, in hexadecimal digits.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn wait(self) -> Result<String> {
        let Self { file, thread } = self;
        let digest = thread.and_then(|thread| thread.join().ok()).unwrap_or_else(|| file_digest(&file));
        digest.map_err(|e| Error::new(&file, e))
    }
}

/// SHA-256 of a file, in hexadecimal digits.
pub(super) fn file_digest(path: &Path) -> std::io::Result<String> {
    let mut hash = Sha256::new();
    std::io::copy(&mut File::open(path)?, &mut hash)?;
    Ok(hex(hash))
}
