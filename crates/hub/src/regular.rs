//! Opens the files of a cache, which must be regular ones: opening a pipe would wait for its other end, a device never
//! ends, and a link may lead out of the cache.

use std::fs::{self, File, FileType, Metadata, OpenOptions};
use std::io::{self, Read};
use std::path::Path;

use crate::error::ErrorKind;
use crate::{Error, Result};

/// Whether a link in a file's place is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Links {
    Follow,
    Refuse,
}

/// The metadata of a regular file; `None` if nothing is there.
///
/// # Errors
/// What is there is something else, or cannot be looked at.
pub(crate) fn look(path: &Path, links: Links) -> Result<Option<Metadata>> {
    let found = match links {
        Links::Follow => fs::metadata(path),
        Links::Refuse => fs::symlink_metadata(path),
    };
    match found {
        Ok(metadata) => checked(path, metadata).map(Some),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::disk(path, &e)),
    }
}

/// Opens a regular file without waiting; `None` if nothing is there and `options` create nothing.
pub(crate) fn open(path: &Path, options: &mut OpenOptions, links: Links) -> Result<Option<File>> {
    look(path, links)?;
    #[cfg(unix)]
    {
        use rustix::fs::OFlags;
        use std::os::unix::fs::OpenOptionsExt;
        let kept = if links == Links::Refuse { OFlags::NOFOLLOW } else { OFlags::empty() };
        options.custom_flags((OFlags::NONBLOCK | OFlags::NOCTTY | kept).bits() as i32);
    }
    let file = match options.open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::disk(path, &e)),
    };
    // What was looked at may have been replaced since.
    let metadata = file.metadata().map_err(|e| Error::disk(path, &e))?;
    checked(path, metadata)?;
    Ok(Some(file))
}

/// Reads a small regular file; `None` if nothing is there.
pub(crate) fn read(path: &Path, most: u64, links: Links) -> Result<Option<Vec<u8>>> {
    let Some(file) = open(path, File::options().read(true), links)? else { return Ok(None) };
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes).map_err(|e| Error::disk(path, &e))?;
    match bytes.len() as u64 > most {
        true => {
            let what = format!(
                "larger than the {} that such a file may have",
                quern_tensor_io::output::human_bytes(most)
            );
            Err(Error::untrusted(path.display().to_string(), what))
        }
        false => Ok(Some(bytes)),
    }
}

fn checked(path: &Path, metadata: Metadata) -> Result<Metadata> {
    match metadata.is_file() {
        true => Ok(metadata),
        false => {
            let what =
                format!("{}, and not a regular file; remove it and try again", kind(metadata.file_type()));
            Err(Error::new(path.display().to_string(), ErrorKind::Disk(what)))
        }
    }
}

/// What a file is that is not regular.
fn kind(of: FileType) -> &'static str {
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        if of.is_fifo() {
            return "a pipe";
        }
        if of.is_socket() {
            return "a socket";
        }
        if of.is_char_device() || of.is_block_device() {
            return "a device";
        }
    }
    match () {
        () if of.is_dir() => "a folder",
        () if of.is_symlink() => "a symbolic link",
        () => "something special",
    }
}
