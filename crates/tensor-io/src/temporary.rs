//! The file an output is written to before it has its name.
//!
//! On Linux it has no name at all (`O_TMPFILE`) and is linked into its folder when it is complete: whatever
//! kills the process, the kernel takes an unfinished file away. Where the file system cannot do that, it is
//! `.NAME.XXXXXX.part` beside the target, which a killed process leaves behind. A folder always is.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use tempfile::{Builder, NamedTempFile, TempDir, TempPath};

/// A file under construction in the folder of its target.
#[derive(Debug)]
pub(crate) enum Temporary {
    /// In no folder yet.
    #[cfg(target_os = "linux")]
    Unnamed(File),
    /// Under a name of its own.
    Named(NamedTempFile),
}

impl Temporary {
    /// A new file in `folder` for a target called `name`.
    pub fn create(folder: &Path, name: &OsStr) -> io::Result<Self> {
        #[cfg(target_os = "linux")]
        if let Some(file) = unnamed(folder) {
            return Ok(Self::Unnamed(file));
        }
        let prefix = prefix(name);
        let mut builder = builder(&prefix);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            // The mode of a plain `open`, before the umask. tempfile's default is 0600, which
            // would make every model unreadable for everybody else.
            builder.permissions(fs::Permissions::from_mode(0o666));
        }
        builder.tempfile_in(folder).map(Self::Named)
    }

    /// The open file.
    pub fn as_file(&self) -> &File {
        match self {
            #[cfg(target_os = "linux")]
            Self::Unnamed(file) => file,
            Self::Named(file) => file.as_file(),
        }
    }

    /// Gives it the name `path` (called `name` in `folder`), in place of an existing file only with `force`.
    pub fn persist(self, folder: &Path, name: &OsStr, path: &Path, force: bool) -> io::Result<()> {
        match self {
            #[cfg(target_os = "linux")]
            Self::Unnamed(file) if force => {
                // A link never replaces a file, a rename does.
                let linked = builder(&prefix(name)).make_in(folder, |path| link(&file, path))?;
                linked.persist(path).map(drop).map_err(|e| e.error)
            }
            #[cfg(target_os = "linux")]
            Self::Unnamed(file) => link(&file, path),
            Self::Named(file) if force => file.persist(path).map(drop).map_err(|e| e.error),
            // Not a check and then a rename: another process may have created the file meanwhile.
            Self::Named(file) => file.persist_noclobber(path).map(drop).map_err(|e| e.error),
        }
    }

    /// Closes it; it is then in `folder` under a name of its own, `.NAME.XXXXXX.part`.
    pub fn park(self, folder: &Path, name: &OsStr) -> io::Result<TempPath> {
        match self {
            #[cfg(target_os = "linux")]
            Self::Unnamed(file) => {
                let linked = builder(&prefix(name)).make_in(folder, |path| link(&file, path))?;
                Ok(linked.into_temp_path())
            }
            Self::Named(file) => Ok(file.into_temp_path()),
        }
    }

    /// Replaces the open file: lets a test meet a full disk.
    #[cfg(all(test, target_os = "linux"))]
    pub fn replace(&mut self, device: File) {
        match self {
            Self::Unnamed(file) => *file = device,
            Self::Named(file) => *file.as_file_mut() = device,
        }
    }
}

impl Write for Temporary {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.as_file().write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.as_file().flush()
    }
}

/// A new folder in `parent` for a target called `name`: `.NAME.XXXXXX.part`.
pub(crate) fn directory(parent: &Path, name: &OsStr) -> io::Result<TempDir> {
    let prefix = prefix(name);
    let mut builder = builder(&prefix);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // As for files: the mode of a plain `mkdir`, not tempfile's 0700.
        builder.permissions(fs::Permissions::from_mode(0o777));
    }
    builder.tempdir_in(parent)
}

/// Renames the folder `from` to `to`, where nothing is.
pub(crate) fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {}
            done => return Ok(done?),
        }
    }
    // A rename of a folder replaces an empty folder at most.
    fs::rename(from, to)
}

/// Exchanges the names of two folders, in one step where the file system can.
pub(crate) fn exchange(a: &Path, b: &Path) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        match renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE) {
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {}
            done => return Ok(done?),
        }
    }
    exchange_by_renames(a, b)
}

/// Three renames through `A.old`; a failure puts back what was moved.
fn exchange_by_renames(a: &Path, b: &Path) -> io::Result<()> {
    let mut aside = a.as_os_str().to_owned();
    aside.push(".old");
    fs::rename(b, &aside)?;
    if let Err(e) = fs::rename(a, b) {
        let _ = fs::rename(&aside, b);
        return Err(e);
    }
    fs::rename(&aside, a)
}

fn prefix(name: &OsStr) -> OsString {
    let mut prefix = OsString::from(".");
    prefix.push(name);
    prefix.push(".");
    prefix
}

fn builder(prefix: &OsStr) -> Builder<'_, 'static> {
    let mut builder = Builder::new();
    builder.prefix(prefix).suffix(".part");
    builder
}

/// A file without a name, if the file system has such files and `/proc` is there to name it later.
#[cfg(target_os = "linux")]
fn unnamed(folder: &Path) -> Option<File> {
    use rustix::fs::{Mode, OFlags};
    if !Path::new("/proc/self/fd").is_dir() {
        return None;
    }
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    rustix::fs::open(folder, flags, Mode::from_raw_mode(0o666)).ok().map(File::from)
}

/// Names a file that has no name; an existing file is an error.
#[cfg(target_os = "linux")]
fn link(file: &File, path: &Path) -> io::Result<()> {
    use rustix::fs::{AtFlags, CWD};
    use std::os::fd::AsRawFd;
    let from = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(rustix::fs::linkat(CWD, from, CWD, path, AtFlags::SYMLINK_FOLLOW)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents(folder: &Path) -> Vec<OsString> {
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name()).collect()
    }

    /// Both kinds, with what the folder shows while they are written.
    fn kinds(folder: &Path) -> Vec<(Temporary, usize)> {
        let named = Temporary::Named(builder(OsStr::new(".out.")).tempfile_in(folder).unwrap());
        let mut kinds = vec![(named, 1)];
        #[cfg(target_os = "linux")]
        kinds.extend(unnamed(folder).map(|file| (Temporary::Unnamed(file), 0)));
        kinds
    }

    #[test]
    fn folders_are_exchanged_and_never_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (folder.path().join("a"), folder.path().join("b"));
        for exchange in [exchange, exchange_by_renames] {
            for (path, file) in [(&a, "in a"), (&b, "in b")] {
                fs::create_dir(path).unwrap();
                fs::write(path.join(file), "").unwrap();
            }
            assert!(rename_new(&a, &b).is_err());
            exchange(&a, &b).unwrap();
            assert_eq!((contents(&a), contents(&b)), (vec!["in b".into()], vec!["in a".into()]));
            assert_eq!(contents(folder.path()).len(), 2);
            fs::remove_dir_all(&b).unwrap();
            assert!(exchange(&a, &b).is_err());
            assert_eq!(contents(folder.path()), ["a"]);
            rename_new(&a, &b).unwrap();
            assert_eq!(contents(folder.path()), ["b"]);
            fs::remove_dir_all(&b).unwrap();
        }
    }

    #[test]
    fn a_name_is_given_at_the_end_and_taken_from_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let (name, path) = (OsStr::new("out"), folder.path().join("out"));
        let count = kinds(folder.path()).len();
        for kind in 0..count {
            let make = || kinds(folder.path()).remove(kind);
            let (mut file, visible) = make();
            file.write_all(b"first").unwrap();
            assert_eq!(contents(folder.path()).len(), visible);
            file.persist(folder.path(), name, &path, false).unwrap();
            assert_eq!(contents(folder.path()), ["out"]);

            let (mut second, _) = make();
            second.write_all(b"second").unwrap();
            let refused = second.persist(folder.path(), name, &path, false).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists);
            assert_eq!(fs::read(&path).unwrap(), b"first");

            let (mut third, _) = make();
            third.write_all(b"third").unwrap();
            third.persist(folder.path(), name, &path, true).unwrap();
            assert_eq!(fs::read(&path).unwrap(), b"third");
            assert_eq!(contents(folder.path()), ["out"]);
            fs::remove_file(&path).unwrap();
        }
    }
}
