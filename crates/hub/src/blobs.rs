//! The contents of files in the cache, named by their hashes, and the record of those that were checked.
//!
//! A file is hashed while it is downloaded, before it gets its name. What becomes of it later is found by its length,
//! and by a note beside the blobs: its length, times and inode as they were when its content was last right. While they
//! are the same, it is not read again, so that a model of 40 GB is hashed once and not at every run:
//!
//! ```text
//! pull       every file that is there already and has no note, or another one, is hashed; wrong ones come anew
//! run, ...   a file whose note says something else is hashed; one without a note (Python wrote it) is taken as it is
//! ```

use std::fs::{self, File, Metadata};
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use crate::digest::Digest;
use crate::error::ErrorKind;
use crate::listing::Identity;
use crate::regular::{self, Links};
use crate::{Error, Result};

/// The longest note.
const LONGEST_NOTE: u64 = 1 << 10;

/// A folder of blobs, with the folders of their locks and notes.
#[derive(Debug)]
pub(crate) struct Blobs {
    pub folder: PathBuf,
    pub locks: PathBuf,
    pub notes: PathBuf,
}

/// What is in a blob's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Nothing, or a file of another length.
    Absent,
    /// The content that its name promises.
    Right,
    /// Other bytes.
    Damaged,
}

/// Which files are hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Check {
    /// All that have no note with the present times.
    All,
    /// Those that changed after their note was written.
    Changed,
}

impl Blobs {
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.folder.join(digest.to_string())
    }

    /// The part downloaded so far.
    pub fn incomplete(&self, digest: &Digest) -> PathBuf {
        self.folder.join(format!("{digest}.incomplete"))
    }

    pub fn lock(&self, digest: &Digest) -> PathBuf {
        self.locks.join(format!("{digest}.lock"))
    }

    /// Whether a blob of the right length is present.
    ///
    /// # Errors
    /// In its place is something that is no regular file.
    pub fn has(&self, identity: &Identity) -> Result<bool> {
        let found = regular::look(&self.path(&identity.digest), Links::Refuse)?;
        Ok(found.is_some_and(|m| m.len() == identity.size))
    }

    /// Bytes still to download.
    pub fn left(&self, identity: &Identity) -> Result<u64> {
        if self.has(identity)? {
            return Ok(0);
        }
        let here = regular::look(&self.incomplete(&identity.digest), Links::Refuse)?.map_or(0, |m| m.len());
        Ok(identity.size.saturating_sub(here))
    }

    /// Checks the content of a blob, which is read only where its note is not enough; `reading` is called before. `size`
    /// is its length, where it is known.
    pub fn state(
        &self,
        digest: &Digest,
        size: Option<u64>,
        check: Check,
        stop: &AtomicBool,
        reading: impl FnOnce(),
    ) -> Result<State> {
        let path = self.path(digest);
        let Some(metadata) = regular::look(&path, Links::Refuse)? else { return Ok(State::Absent) };
        if size.is_some_and(|size| size != metadata.len()) {
            return Ok(State::Absent);
        }
        match (self.note(digest)?, check) {
            (Some(note), _) if note == note_of(&metadata) => return Ok(State::Right),
            (None, Check::Changed) => return Ok(State::Right),
            (Some(_), _) | (None, Check::All) => {}
        }
        let Some(mut file) = regular::open(&path, File::options().read(true), Links::Refuse)? else {
            return Ok(State::Absent);
        };
        reading();
        let disk = |e| Error::disk(&path, &e);
        // The times from before: a change while it is read makes another note.
        let metadata = file.metadata().map_err(disk)?;
        match digest.of_file(&mut file, metadata.len(), stop).map_err(disk)? {
            None => Err(Error::new(path.display().to_string(), ErrorKind::Cancelled)),
            Some(found) if found == *digest => {
                self.write_note(digest, &metadata);
                Ok(State::Right)
            }
            Some(_) => Ok(State::Damaged),
        }
    }

    /// Notes that a blob, which was checked while it came, is right.
    pub fn checked(&self, digest: &Digest) {
        if let Ok(metadata) = fs::symlink_metadata(self.path(digest)) {
            self.write_note(digest, &metadata);
        }
    }

    fn note_path(&self, digest: &Digest) -> PathBuf {
        self.notes.join(digest.to_string())
    }

    fn note(&self, digest: &Digest) -> Result<Option<String>> {
        let bytes = regular::read(&self.note_path(digest), LONGEST_NOTE, Links::Refuse)?;
        // One that was cut or is not text is another than any.
        Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// A note that cannot be written costs only that the blob is read again.
    fn write_note(&self, digest: &Digest, metadata: &Metadata) {
        let path = self.note_path(digest);
        let write = || -> Result<()> {
            use std::io::Write;
            fs::create_dir_all(&self.notes).map_err(|e| Error::disk(&self.notes, &e))?;
            let options = &mut File::options();
            let options = options.create(true).truncate(true).write(true);
            let Some(mut file) = regular::open(&path, options, Links::Refuse)? else { return Ok(()) };
            file.write_all(note_of(metadata).as_bytes()).map_err(|e| Error::disk(&path, &e))
        };
        let _ = write();
    }
}

/// The note of a file that is right: what changes when its content does.
fn note_of(metadata: &Metadata) -> String {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let m = metadata;
        format!(
            "{} {}.{:09} {}.{:09} {}\n",
            m.len(),
            m.mtime(),
            m.mtime_nsec(),
            m.ctime(),
            m.ctime_nsec(),
            m.ino()
        )
    }
    #[cfg(not(unix))]
    {
        format!("{} {:?}\n", metadata.len(), metadata.modified().ok())
    }
}
