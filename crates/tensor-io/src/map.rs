//! Read-only memory maps: the one place in this crate that needs `unsafe`.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use crate::{Error, Result};

/// A regular file, mapped whole.
#[derive(Debug)]
pub(crate) struct MappedFile {
    path: PathBuf,
    /// `None` for an empty file, which cannot be mapped.
    map: Option<Mmap>,
}

impl MappedFile {
    /// Maps `path`. Pipes, devices and folders are refused before they are opened, since opening a
    /// pipe would wait for a writer.
    pub fn open(path: &Path) -> Result<Self> {
        let io = |e: io::Error| Error::new(path, e);
        let metadata = fs::metadata(path).map_err(io)?;
        if !metadata.is_file() {
            return Err(Error::refused(
                path,
                "not a regular file; give a model file or the folder it lies in",
            ));
        }
        let map = if metadata.len() == 0 {
            None
        } else {
            let file = File::open(path).map_err(io)?;
            // SAFETY: the map is private and read-only, and only ever seen as `&[u8]`. Rust cannot rule
            // out that another process changes the file meanwhile: changed bytes are decoded as any
            // untrusted bytes are, and a file cut short raises SIGBUS. Every reader that maps model
            // files lives with that; our own writers never change a file in place (see `OutputFile`).
            Some(unsafe { Mmap::map(&file) }.map_err(io)?)
        };
        Ok(Self { path: path.to_path_buf(), map })
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All its bytes.
    pub fn bytes(&self) -> &[u8] {
        self.map.as_deref().unwrap_or(&[])
    }
}
