//! Renames that never replace, and the exchange of two folders.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use super::{Ending, lock};

/// Renames the file or folder `from` to `to`, where nothing is.
pub(crate) fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {}
            done => return Ok(done?),
        }
    }
    if fs::symlink_metadata(from)?.is_dir() {
        // A rename of a folder replaces an empty folder at most.
        return fs::rename(from, to);
    }
    fs::hard_link(from, to)?;
    fs::remove_file(from)
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

/// Three renames through `A.old`; a failure puts back what was moved. If the process is killed on the way, `A.old` is
/// the only whole folder that ever had the name `b`: sweeping gives it back if nothing else has the name.
fn exchange_by_renames(a: &Path, b: &Path) -> io::Result<()> {
    let mut aside = a.as_os_str().to_owned();
    aside.push(Ending::Old.text().strip_prefix(Ending::Part.text()).unwrap_or(Ending::Old.text()));
    let older = File::open(b)?;
    lock::hold(&older);
    fs::rename(b, &aside)?;
    if let Err(e) = fs::rename(a, b) {
        let _ = fs::rename(&aside, b);
        return Err(e);
    }
    fs::rename(&aside, a)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;

    fn contents(folder: &Path) -> Vec<OsString> {
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name()).collect()
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
}
