//! Read-only memory maps: the one place in this crate that needs `unsafe`.
//!
//! A mapped file belongs to whoever may write it, so it can be cut or changed while it is read:
//!
//! ```text
//! open      map, note length, time and identity of the file (watch), enter the address range (ranges)
//! read      a page behind the new end of a cut file raises SIGBUS: the handler (fault) marks the range as lost, puts
//!           pages of zeros there and returns; the computation continues with zeros
//! check     wherever results would be believed: an error if the range is lost, or the file is no longer as it was
//! drop      the same check, kept for check_mapped_files; leave the ranges, unmap
//! ```
//!
//! Checks are made where a header has been read, before an output gets its name, behind a pass of a model, where a
//! function returns what it computed from tensors, and at the end of every command. A lost page is therefore an error
//! of whatever used it, and never a signal that ends the process.
//!
//! The size is compared too, because not every cut is a fault: the rest of the page that holds the new end reads as
//! zeros without one; a page may be cut that is not read again; and a system call that reads from the map (`write`
//! of a large buffer) fails with EFAULT instead of raising a signal. An error of such a call is replaced by what
//! the check says, at the end of the command.
//!
//! What reads maps, and why the handler is right for it:
//!
//! - **Threads** of rayon, of compute's pool and of the forward pass: SIGBUS of an access is delivered to the thread
//!   that made it. The handler runs on that thread's alternate stack, where the standard library has given it one, and
//!   takes no locks; several threads may be in it at once, for one range or for several, and replace each other's pages
//!   of zeros by pages of zeros. The mark is made before the pages are replaced: a thread that has seen zeros without a
//!   fault of its own, and whoever waits for it, sees the mark.
//! - **Reading ahead and releasing** (`madvise`) touch no memory of the process. Pages released are read again from what is
//!   mapped by then: the file, zeros, or a fault. Nothing is locked into memory (`mlock`) by quern; a process that locks
//!   everything gets the zeros as the system's shared page of zeros.
//! - **Copies to GPUs** are made from page-locked buffers that threads of the pool fill from the map. The driver is
//!   given no address of a map.
//! - **A process started by this one** has the default action again, as for every handler.
//!
//! Where there is no SIGBUS (not Unix), a mapped file cannot be cut; the checks of time and size remain off there, since
//! the identity of a file is not known.

#[cfg(unix)]
mod fault;
#[cfg(unix)]
mod ranges;
#[cfg(all(test, target_os = "linux"))]
mod tests;
mod watch;

use std::fs::{self, File};
use std::io;
use std::path::Path;

use memmap2::{Mmap, MmapOptions};

use crate::{Error, Result};
use watch::Watched;
pub use watch::check_mapped_files;
pub(crate) use watch::check_open_files;

/// The message about pipes, devices and sockets.
pub(crate) const NOT_REGULAR: &str = "not a regular file; give a model file or its folder";

/// A regular file, mapped whole.
#[derive(Debug)]
pub(crate) struct MappedFile {
    /// Dropped before the map: its addresses may be another map's as soon as it is gone.
    watched: Watched,
    /// `None` for an empty file, which cannot be mapped.
    map: Option<Mmap>,
}

impl MappedFile {
    /// Maps `path`. Pipes, devices and folders are refused before they are opened, since opening a
    /// pipe would wait for a writer.
    pub fn open(path: &Path) -> Result<Self> {
        let io = |e: io::Error| Error::new(path, e);
        if !fs::metadata(path).map_err(io)?.is_file() {
            return Err(Error::refused(path, NOT_REGULAR));
        }
        let file = File::open(path).map_err(io)?;
        let metadata = file.metadata().map_err(io)?;
        if !metadata.is_file() {
            return Err(Error::refused(path, NOT_REGULAR));
        }
        let length = usize::try_from(metadata.len())
            .map_err(|_| Error::unsupported(path, "larger than the addresses of this system"))?;
        let map = match length {
            0 => None,
            // SAFETY: the map is private and read-only, only ever seen as `&[u8]`, and has an address for each byte
            // of `length` as long as it exists, whatever happens to the file: bytes that the file has lost are
            // replaced by zeros (`fault`). What cannot be ruled out is that bytes change while a `&[u8]` to them
            // exists, because another process writes the file or cuts it. In Rust's model that is undefined, for
            // every program that maps a file it does not own, and no system offers a map without it. What is done:
            // readers decode the bytes as any untrusted ones, no `unsafe` code relies on a value that was read from
            // a map before (indices into tables are masked, lengths and offsets are copied when headers are
            // read), quern's own writers never change a file in place (see `OutputFile`), and results are refused
            // when the file has changed (`watch`).
            length => Some(unsafe { MmapOptions::new().len(length).map(&file) }.map_err(io)?),
        };
        let range = map.as_deref().unwrap_or_default().as_ptr_range();
        Ok(Self { watched: Watched::new(path, &metadata, range), map })
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        self.watched.path()
    }

    /// All its bytes.
    pub fn bytes(&self) -> &[u8] {
        self.map.as_deref().unwrap_or(&[])
    }

    /// Whether all bytes read so far were the file's; takes nanoseconds.
    ///
    /// # Errors
    /// Zeros were read in place of some.
    pub fn check_read(&self) -> Result<()> {
        self.watched.check_read()
    }

    /// Whether the file is as it was when it was opened; asks the system, which takes a microsecond.
    ///
    /// # Errors
    /// It was cut, or changed.
    pub fn check(&self) -> Result<()> {
        self.watched.check()
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
                // changes unless another process changed the file, the risk taken in `open`. A page of
                // zeros in place of a lost one is a page of zeros again.
                let _ = unsafe {
                    map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, from, to - from)
                };
            }
        }
        #[cfg(not(unix))]
        let _ = (from, to);
    }
}
