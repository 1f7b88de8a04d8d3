//! Read-only memory maps: the one place in this crate that needs `unsafe`.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use crate::{Error, Result};

/// The message about pipes, devices and sockets.
pub(crate) const NOT_REGULAR: &str = "not a regular file; give a model file or its folder";

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
            return Err(Error::refused(path, NOT_REGULAR));
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

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All its bytes.
    pub fn bytes(&self) -> &[u8] {
        self.map.as_deref().unwrap_or(&[])
    }

    /// Asks the system to read pages that will be needed soon: byte offsets `from` to `to`. They come into its
    /// file cache, not yet into this process's memory. Does nothing where the system cannot.
    pub fn prefetch(&self, from: usize, to: usize) {
        #[cfg(unix)]
        if let Some(map) = &self.map {
            let to = to.min(map.len());
            if from < to {
                let _ = map.advise_range(memmap2::Advice::WillNeed, from, to - from);
            }
        }
        #[cfg(not(unix))]
        let _ = (from, to);
    }

    /// Releases consumed pages. `from` and `to` are byte offsets; pages that hold a byte before `from` are
    /// released too, the page of byte `to` stays.
    ///
    /// Nothing is lost, pages are read again when they are touched: a page shared with data still to
    /// come only costs another look at the system's file cache. Does nothing where the system cannot.
    pub fn release(&self, from: usize, to: usize) {
        #[cfg(unix)]
        if let Some(map) = &self.map {
            const PAGE: usize = 4096; // a finer grain than the system's own makes the call fail, no more
            let (from, to) = (from / PAGE * PAGE, to.min(map.len()) / PAGE * PAGE);
            if from < to {
                // SAFETY: the map is private, read-only and backed by the file, so a dropped page is
                // filled with the file's bytes again at the next access: no byte seen through `&[u8]`
                // changes unless another process changed the file, the risk taken in `open`.
                let _ = unsafe {
                    map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, from, to - from)
                };
            }
        }
        #[cfg(not(unix))]
        let _ = (from, to);
    }
}
