//! Removing what killed processes have left in a folder, before a new output is made there.
//!
//! Only names that quern makes are looked at, only files and folders of this user whose lock nobody holds are touched,
//! and only while this process holds that lock: the outputs of other runs that are still going on stay. Where locks cannot be
//! relied on (network file systems) everything stays.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use super::lock::is_abandoned;
use super::{Ending, is_at, remove, rename_new};
use crate::output::parts;

static NOTES: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// What was removed or put back in this process so far and has not been asked for yet, in sentences.
pub fn notes() -> Vec<String> {
    std::mem::take(&mut NOTES.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Removes what dead processes have left in `folder`.
pub(crate) fn sweep(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some((ending, length)) = Ending::parse(&name) else { continue };
        // A pipe would wait for its other end when it is opened.
        let Ok(kind) = entry.file_type() else { continue };
        if !(kind.is_file() && ending == Ending::Part || kind.is_dir()) {
            continue;
        }
        let path = entry.path();
        let Ok(file) = File::open(&path) else { continue };
        if !is_abandoned(&file) || !is_at(&file, &path) {
            continue;
        }
        let swept = match ending {
            Ending::Part => remove(&path).is_ok().then(|| removed(&path)),
            Ending::Parts => parts::undo(folder, &path).or_else(|| (!path.exists()).then(|| removed(&path))),
            Ending::Old => target(&name, length).and_then(|name| put_back(&path, &folder.join(name))),
        };
        NOTES.lock().unwrap_or_else(PoisonError::into_inner).extend(swept);
    }
}

fn removed(path: &Path) -> String {
    format!("{}: removed, a run that was killed had left it there", path.display())
}

/// The name of the target within a temporary name.
fn target(name: &OsStr, length: usize) -> Option<OsString> {
    let bytes = name.as_encoded_bytes().get(1..=length)?;
    #[cfg(unix)]
    {
        use std::os::unix::ffi::OsStrExt;
        Some(OsStr::from_bytes(bytes).to_owned())
    }
    #[cfg(not(unix))]
    {
        std::str::from_utf8(bytes).ok().map(OsString::from)
    }
}

/// An older folder that was being replaced: it has its name again if nothing else has it.
fn put_back(path: &Path, target: &Path) -> Option<String> {
    if fs::symlink_metadata(target).is_ok() {
        return remove(path).is_ok().then(|| removed(path));
    }
    let text = "the older output has its name again; a run that was killed was about to replace it";
    rename_new(path, target).is_ok().then(|| format!("{}: {text}", target.display()))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use crate::temporary::Folder;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn only_what_nobody_holds_is_swept() {
        let scratch = tempfile::tempdir().unwrap();
        let at = |name: &str| scratch.path().join(name);
        let alive = Folder::create(scratch.path(), OsStr::new("alive"), Ending::Part).unwrap();
        let held = alive.path().file_name().unwrap().to_str().unwrap().to_owned();
        fs::create_dir(at(".dead.quern-aaaaaa.part")).unwrap();
        fs::write(at(".dead.quern-aaaaaa.part/model.safetensors"), "half").unwrap();
        fs::write(at(".file.quern-bbbbbb.part"), "half").unwrap();
        for other in [".other.ABCDEF.part", "a.quern-cccccc.part", ".x.quern-ddddd.part", ".y.part"] {
            fs::write(at(other), "somebody else's").unwrap();
        }
        // Links and pipes of such a name are not ours.
        std::os::unix::fs::symlink("nowhere", at(".link.quern-eeeeee.part")).unwrap();
        sweep(scratch.path());
        let mut kept = vec![
            ".link.quern-eeeeee.part",
            ".other.ABCDEF.part",
            ".x.quern-ddddd.part",
            ".y.part",
            "a.quern-cccccc.part",
            &held,
        ];
        kept.sort();
        assert_eq!(names(scratch.path()), kept);
        drop(alive);
        assert_eq!(names(scratch.path()).len(), kept.len() - 1);
    }

    #[test]
    fn an_older_folder_has_its_name_again_unless_it_was_replaced() {
        let scratch = tempfile::tempdir().unwrap();
        let at = |name: &str| scratch.path().join(name);
        for (folder, content) in [(".out.quern-aaaaaa.part.old", "older"), (".out.quern-aaaaaa.part", "new")]
        {
            fs::create_dir(at(folder)).unwrap();
            fs::write(at(folder).join("config.json"), content).unwrap();
        }
        sweep(scratch.path());
        assert_eq!(names(scratch.path()), ["out"]);
        assert_eq!(fs::read(at("out/config.json")).unwrap(), b"older");
        fs::create_dir(at(".out.quern-bbbbbb.part.old")).unwrap();
        sweep(scratch.path());
        assert_eq!(names(scratch.path()), ["out"]);
        assert_eq!(fs::read(at("out/config.json")).unwrap(), b"older");
    }
}
