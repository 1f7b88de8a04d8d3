//! Files that appear complete or not at all.
//!
//! ```text
//! create    a temporary file in the folder of the target: same file system (crate::temporary)
//! write     through one large buffer
//! commit    flush, fsync, check that no input was cut or changed, rename, fsync of the folder
//! drop      remove the temporary file
//! ```
//!
//! [`OutputDirectory`] does the same for a folder. [`require_space`] asks before the work whether the disk has room.
//! [`Inputs`] are the files a command reads, which no output replaces. [`abandon`] is for signals: it removes what is
//! unfinished. What a killed process leaves is removed when the next output is made in the same folder; [`notes`] says
//! so.

mod directory;
mod inputs;
pub(crate) mod parts;
mod scratch;
mod space;
mod writeback;

use std::fs::{self, File};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::temporary::{self, Temporary};
use crate::{Error, Remedy, Result};
use writeback::Writeback;

pub use crate::temporary::{abandon, is_at, notes};
pub use directory::OutputDirectory;
pub use inputs::{Existing, Inputs};
pub use scratch::{ScratchFolder, discard};
pub use space::{Shortage, free_space, human_bytes, require_space, shortage};

/// Large enough that the system call costs nothing beside the copy, small enough to stay in cache.
const BUFFER_BYTES: usize = 256 * 1024;

/// A file under construction: written to a temporary file beside the target, which is flushed, synced
/// and renamed by [`OutputFile::commit`]; dropped without it, nothing remains.
#[derive(Debug)]
pub struct OutputFile {
    path: PathBuf,
    force: bool,
    file: BufWriter<Temporary>,
    /// A write failed: what the file holds is unknown, it must never be committed.
    broken: bool,
    writeback: Writeback,
}

impl OutputFile {
    /// Starts writing `path`. Refuses an existing file unless `existing` allows to replace it, an input of the command
    /// and anything that is not a regular file (a folder, a device) in any case.
    pub fn create<'a>(path: &Path, existing: impl Into<Existing<'a>>) -> Result<Self> {
        let existing = existing.into();
        let force = existing.force;
        check_target(path, existing)?;
        let (folder, name) = (folder_of(path), path.file_name().unwrap_or_default());
        temporary::sweep(folder);
        let file = Temporary::create(folder, name).map_err(|e| {
            let what = format!("cannot create a file in {}: {e}", folder.display());
            Error::new(path, io::Error::new(e.kind(), what))
        })?;
        Ok(Self {
            path: path.to_path_buf(),
            force,
            file: BufWriter::with_capacity(BUFFER_BYTES, file),
            broken: false,
            writeback: Writeback::default(),
        })
    }

    /// The name the file will have.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes all of `data`; the error names the file and, for a full disk, says what to do.
    pub fn append(&mut self, data: &[u8]) -> Result<()> {
        self.write_all(data).map_err(|e| explain(&self.path, e))
    }

    /// Writes `data` over the file's first bytes.
    pub(crate) fn overwrite_start(&mut self, data: &[u8]) -> Result<()> {
        let mut write = || {
            self.file.flush()?;
            let mut file = self.file.get_ref().as_file();
            file.seek(SeekFrom::Start(0))?;
            file.write_all(data)?;
            file.seek(SeekFrom::End(0)).map(drop)
        };
        let written = write();
        self.broken |= written.is_err();
        written.map_err(|e| explain(&self.path, e))
    }

    /// Flushes, syncs, renames over the target, syncs the directory.
    pub fn commit(self) -> Result<()> {
        let (path, force) = (self.path.clone(), self.force);
        let file = self.synced()?;
        crate::map::check_open_files()?;
        let (folder, name) = (folder_of(&path), path.file_name().unwrap_or_default());
        file.persist(folder, name, &path, force).map_err(|e| unnameable(&path, e))?;
        sync_folder(folder).map_err(|e| explain(&path, e))
    }

    /// All of it on the disk.
    fn synced(mut self) -> Result<Temporary> {
        if self.broken {
            return Err(Error::refused(&self.path, "an earlier write failed, so the file is not complete"));
        }
        let failed = |e| explain(&self.path, e);
        let file = self.file.into_inner().map_err(|e| failed(e.into_error()))?;
        self.writeback.wait().map_err(failed)?;
        file.as_file().sync_all().map_err(failed)?;
        Ok(file)
    }

    /// An output whose bytes go to `file`, whatever that is: lets a test meet a full disk.
    #[cfg(all(test, target_os = "linux"))]
    pub(crate) fn onto(path: &Path, device: File) -> Self {
        let mut output = Self::create(path, false).unwrap();
        output.file.get_mut().replace(device);
        output
    }
}

impl Write for OutputFile {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let written = self.file.write(buf).and_then(|n| {
            self.writeback.wrote(n, self.file.get_ref().as_file())?;
            Ok(n)
        });
        written.inspect_err(|_| self.broken = true)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush().inspect_err(|_| self.broken = true)
    }
}

/// Refuses a name for a file that cannot be written, may not be replaced, or is an input.
fn check_target(path: &Path, existing: Existing<'_>) -> Result<()> {
    if path.file_name().is_none() {
        return Err(Error::refused(path, "not a file name; give the output a name"));
    }
    let folder = folder_of(path);
    existing.check_file(path)?;
    // A dangling link is found by the second call; otherwise a link counts as what it points to.
    match fs::metadata(path).or_else(|_| fs::symlink_metadata(path)) {
        Ok(found) if found.is_dir() => {
            return Err(Error::refused(path, "this is a folder; give the output a file name"));
        }
        Ok(found) if !found.is_file() && !found.is_symlink() => {
            let what = "a device or pipe, which would be replaced by the output; choose another name";
            return Err(Error::refused(path, what));
        }
        Ok(_) if !existing.force => return Err(already_there(path)),
        _ => {}
    }
    if !folder.is_dir() {
        let what = format!("the folder {} does not exist; create it first", folder.display());
        return Err(Error::refused(path, what));
    }
    Ok(())
}

/// The folder of a file: `.` for a bare name.
pub(crate) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    }
}

/// The error for a complete file that cannot have its name.
fn unnameable(path: &Path, e: io::Error) -> Error {
    match e.kind() {
        io::ErrorKind::AlreadyExists => already_there(path),
        _ => explain(path, e),
    }
}

/// The error for an output that exists.
pub fn already_there(path: &Path) -> Error {
    Error::refused(path, "already exists").with_remedy(Remedy::ReplaceOutput)
}

fn explain(path: &Path, e: io::Error) -> Error {
    match no_room(e.kind()) {
        Some(what) => Error::new(path, io::Error::new(e.kind(), format!("{what} (nothing was left behind)"))),
        None => Error::new(path, e),
    }
}

/// What an error says of a disk that takes no more, and what to do; `None` for other errors.
pub fn no_room(kind: io::ErrorKind) -> Option<&'static str> {
    match kind {
        io::ErrorKind::StorageFull => Some("the disk is full; free some space or write to another disk"),
        io::ErrorKind::QuotaExceeded => {
            Some("the disk quota is used up; free some space or write to another disk")
        }
        io::ErrorKind::FileTooLarge => {
            Some("the file system or a limit of the shell does not allow a file this large")
        }
        _ => None,
    }
}

#[cfg(unix)]
fn sync_folder(folder: &Path) -> io::Result<()> {
    match File::open(folder)?.sync_all() {
        // Some network file systems cannot sync a folder; the rename is still valid.
        Err(e) if matches!(e.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => Ok(()),
        done => done,
    }
}

#[cfg(not(unix))]
fn sync_folder(_: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use crate::{ElementType, TensorPlan, stream::TensorStream};

    /// `/dev/full` answers every write as a full disk does.
    fn onto_full_disk(path: &Path) -> OutputFile {
        OutputFile::onto(path, File::options().write(true).open("/dev/full").unwrap())
    }

    fn assert_disk_full(error: Error, path: &Path) {
        let text = error.to_string();
        assert!(text.starts_with(&path.display().to_string()), "{text}");
        assert!(text.contains("the disk is full; free some space"), "{text}");
    }

    #[test]
    fn a_full_disk_is_noticed_at_the_end_of_a_small_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        let mut output = onto_full_disk(&path);
        output.append(b"fits the buffer").unwrap();
        assert_disk_full(output.commit().unwrap_err(), &path);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_full_disk_is_noticed_in_the_middle_of_a_large_one_and_never_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        let mut output = onto_full_disk(&path);
        assert_disk_full(output.append(&vec![1; BUFFER_BYTES + 1]).unwrap_err(), &path);
        assert!(output.commit().unwrap_err().to_string().contains("an earlier write failed"));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_full_disk_reaches_the_caller_of_a_writer() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        let plan = TensorPlan { name: "t".into(), element_type: ElementType::U8, shape: vec![1 << 20] };
        let mut stream = TensorStream::start(
            onto_full_disk(&path),
            b"header",
            std::slice::from_ref(&plan),
            &[1 << 20],
            32,
        )
        .unwrap();
        assert_disk_full(stream.write(&vec![0; 1 << 20]).unwrap_err(), &path);
        drop(stream);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
