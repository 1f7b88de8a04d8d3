//! What an output is written to before it has its name.
//!
//! ```text
//! a file       on Linux it has no name at all (O_TMPFILE) and is linked into its folder when it is complete: whatever
//!              kills the process, the kernel takes an unfinished file away. Where the file system cannot do that:
//! .NAME.quern-XXXXXX.part        a file beside the target NAME
//! .NAME.quern-XXXXXX.part        a folder beside the target (folder)
//! .NAME.quern-XXXXXX.parts       a folder of files that get their names together (crate::output::parts)
//! .NAME.quern-XXXXXX.part.old    an older folder while it is replaced, where two names cannot be exchanged (rename)
//! ```
//!
//! A process that ends removes its own, also when a signal ends it (live). What a killed process leaves is removed by
//! the next one that writes in the same folder (sweep): each of these files and folders is locked for as long as the
//! process that made it lives (lock).

mod folder;
mod live;
mod lock;
mod rename;
mod sweep;

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use tempfile::Builder;

pub(crate) use folder::Folder;
pub use live::abandon;
pub(crate) use live::{names, remove};
pub(crate) use lock::briefly_locked;
pub use lock::is_at;
pub(crate) use rename::{exchange, rename_new};
pub use sweep::notes;
pub(crate) use sweep::sweep;

/// Between the target's name and six letters or digits.
const MARK: &str = ".quern-";
/// Letters and digits that make a name unique.
const UNIQUE: usize = 6;

/// What a temporary name ends in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// A file or folder that is to have one name.
    Part,
    /// A folder of files that are to have their names together.
    Parts,
    /// An older folder on its way out.
    Old,
}

impl Ending {
    const ALL: [Self; 3] = [Self::Old, Self::Parts, Self::Part];

    const fn text(self) -> &'static str {
        match self {
            Self::Part => ".part",
            Self::Parts => ".parts",
            Self::Old => ".part.old",
        }
    }

    /// Takes a temporary name apart: what it is, and the length of the target's name, which begins at byte 1.
    fn parse(name: &OsStr) -> Option<(Self, usize)> {
        let name = name.as_encoded_bytes().strip_prefix(b".")?;
        Self::ALL.into_iter().find_map(|ending| {
            let rest = name.strip_suffix(ending.text().as_bytes())?;
            let (rest, unique) = rest.split_at_checked(rest.len().checked_sub(UNIQUE)?)?;
            let target = rest.strip_suffix(MARK.as_bytes())?;
            let ours = unique.iter().all(u8::is_ascii_alphanumeric) && !target.is_empty();
            ours.then_some((ending, target.len()))
        })
    }
}

/// Makes something under a temporary name in `folder`, for a target called `name`.
fn make<R>(
    folder: &Path,
    name: &OsStr,
    ending: Ending,
    make: impl FnMut(&Path) -> io::Result<R>,
) -> io::Result<(R, PathBuf)> {
    let mut prefix = OsString::from(".");
    prefix.push(name);
    prefix.push(MARK);
    let mut builder = Builder::new();
    builder.prefix(&prefix).suffix(ending.text()).rand_bytes(UNIQUE);
    let (made, path) = builder.make_in(folder, make)?.into_parts();
    // From here on it is removed by `live` and by whoever owns it.
    let path = path.keep().map_err(|e| e.error)?;
    Ok((made, std::path::absolute(path)?))
}

/// A file under construction in the folder of its target.
#[derive(Debug)]
pub(crate) enum Temporary {
    /// In no folder yet.
    #[cfg(target_os = "linux")]
    Unnamed(File),
    /// Under a name of its own.
    Named(Named),
}

/// A file with a temporary name, which is removed when this is dropped.
#[derive(Debug)]
pub(crate) struct Named {
    file: File,
    path: PathBuf,
    /// It has its own name.
    published: bool,
}

impl Named {
    fn create(folder: &Path, name: &OsStr) -> io::Result<Self> {
        for _ in 0..100 {
            let mut live = names();
            let open = |path: &Path| File::options().read(true).write(true).create_new(true).open(path);
            let (file, path) = make(folder, name, Ending::Part, open)?;
            live.insert(path.clone());
            drop(live);
            let made = Self { file, path, published: false };
            lock::hold(&made.file);
            // Before it was locked, another process may have taken it for what a dead one left.
            if is_at(&made.file, &made.path) {
                return Ok(made);
            }
        }
        Err(io::Error::other("other processes remove every file that is made there"))
    }

    fn publish(mut self, path: &Path, force: bool) -> io::Result<()> {
        let mut live = names();
        match force {
            true => fs::rename(&self.path, path)?,
            // Not a check and then a rename: another process may have created the file meanwhile.
            false => rename_new(&self.path, path)?,
        }
        live.remove(&self.path);
        self.published = true;
        drop(live);
        Ok(())
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        if !self.published {
            let mut live = names();
            let _ = remove(&self.path);
            live.remove(&self.path);
        }
    }
}

impl Temporary {
    /// A new file in `folder` for a target called `name`.
    pub fn create(folder: &Path, name: &OsStr) -> io::Result<Self> {
        #[cfg(target_os = "linux")]
        if let Some(file) = unnamed(folder) {
            // A name it has for a moment, when it replaces another file, is locked from the beginning.
            lock::hold(&file);
            return Ok(Self::Unnamed(file));
        }
        Named::create(folder, name).map(Self::Named)
    }

    /// The open file.
    pub fn as_file(&self) -> &File {
        match self {
            #[cfg(target_os = "linux")]
            Self::Unnamed(file) => file,
            Self::Named(named) => &named.file,
        }
    }

    /// Gives it the name `path` (called `name` in `folder`), in place of an existing file only with `force`.
    pub fn persist(self, folder: &Path, name: &OsStr, path: &Path, force: bool) -> io::Result<()> {
        match self {
            #[cfg(target_os = "linux")]
            Self::Unnamed(file) => {
                let names = names();
                let done = match force {
                    // A link never replaces a file, a rename does.
                    true => {
                        make(folder, name, Ending::Part, |path| link(&file, path)).and_then(|((), linked)| {
                            fs::rename(&linked, path).inspect_err(|_| drop(fs::remove_file(&linked)))
                        })
                    }
                    false => link(&file, path),
                };
                drop(names);
                done
            }
            Self::Named(named) => named.publish(path, force),
        }
    }

    /// Replaces the open file: lets a test meet a full disk.
    #[cfg(all(test, target_os = "linux"))]
    pub fn replace(&mut self, device: File) {
        match self {
            Self::Unnamed(file) => *file = device,
            Self::Named(named) => named.file = device,
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
        let named = Temporary::Named(Named::create(folder, OsStr::new("out")).unwrap());
        let mut kinds = vec![(named, 1)];
        #[cfg(target_os = "linux")]
        kinds.extend(unnamed(folder).map(|file| (Temporary::Unnamed(file), 0)));
        kinds
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

    #[test]
    fn only_names_of_quern_are_its_own() {
        for (name, expected) in [
            (".out.quern-a1B2c3.part", Some((Ending::Part, 3))),
            (".a.gguf.quern-aaaaaa.parts", Some((Ending::Parts, 6))),
            (".o.quern-AAAAAA.part.old", Some((Ending::Old, 1))),
            (".out.a1B2c3.part", None),
            (".my.series.part", None),
            ("out.quern-a1B2c3.part", None),
            (".out.quern-a1B2c.part", None),
            (".out.quern-a1-2c3.part", None),
            (".quern-a1B2c3.part", None),
            (".part", None),
            (".", None),
        ] {
            assert_eq!(Ending::parse(OsStr::new(name)), expected, "{name}");
        }
    }
}
