//! Files that get their names together: the parts of a split model.
//!
//! Names are given one rename after the other, so the order decides what a reader can find on the way. Part 1 is what
//! readers are given, and any other part leads to all of them; a set without part 1 cannot be opened.
//!
//! ```text
//! .NAME.quern-XXXXXX.parts/          locked, holds the complete parts under their own names, each synced
//!   .publishing                      then: which files these are, and which older ones have their names, synced
//!   .older/                          1. older parts of these names move here, part 1 first
//! NAME-0000i-of-N                    2. the new parts move to their names, part 1 last; nothing is replaced
//!                                    3. the folder of the target is synced, .NAME.quern-XXXXXX.parts is removed
//!
//! killed before 1     nothing has changed                           swept: the folder is removed
//! killed during 1     older parts without part 1                    swept: the older parts have their names again
//! killed during 2     new parts without part 1                      swept: they are removed, the older ones come back
//! killed during 3     the new set is complete                       swept: the folder is removed
//! ```
//!
//! New and older parts are therefore never in place together with a part 1. A failure on the way is undone as sweeping
//! does it. What is undone is known by `.publishing`: parts that somebody else made meanwhile stay.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{Existing, OutputFile, already_there, check_target, explain, folder_of, sync_folder};
use crate::temporary::{self, Ending, Folder, briefly_locked, rename_new};
use crate::{Error, Result};

/// A file, by its number in the file system and its bytes: the same whatever it is called.
type FileId = (u64, u64);
/// A name, the file that is to have it, and the older one that has it.
type Entry = (String, FileId, Option<FileId>);

const LIST: &str = ".publishing";
const OLDER: &str = ".older";
/// The largest list: a name and two numbers for each part.
const LARGEST_LIST: u64 = 16 << 20;

/// Files under construction that get their names together. Dropped before [`Parts::publish`], nothing remains.
#[derive(Debug)]
pub(crate) struct Parts {
    folder: Folder,
    /// The names they will have, the first first.
    targets: Vec<PathBuf>,
    force: bool,
}

impl Parts {
    /// Starts files of these names, all in one folder and the first one first.
    ///
    /// # Errors
    /// One of them exists (without force), is an input, or cannot be written.
    pub fn create(targets: Vec<PathBuf>, existing: Existing<'_>) -> Result<Self> {
        let Some(first) = targets.first() else {
            return Err(Error::refused("", "no parts are to be written"));
        };
        let (parent, name) = (folder_of(first), first.file_name().unwrap_or_default());
        temporary::sweep(parent);
        targets.iter().try_for_each(|target| check_target(target, existing))?;
        let folder = Folder::create(parent, name, Ending::Parts).map_err(|e| {
            let what = format!("cannot create a folder in {}: {e}", parent.display());
            Error::new(first, io::Error::new(e.kind(), what))
        })?;
        Ok(Self { folder, targets, force: existing.force })
    }

    /// Where to write the file that will be `target`.
    pub fn place(&self, target: &Path) -> PathBuf {
        self.folder.path().join(target.file_name().unwrap_or_default())
    }

    /// The same error, naming the file under the name it was to have.
    pub fn named(&self, mut error: Error) -> Error {
        if let Some(name) = error.file.file_name().filter(|_| error.file.starts_with(self.folder.path()))
            && let Some(first) = self.targets.first()
        {
            error.file = first.with_file_name(name);
        }
        error
    }

    /// Gives all files their names.
    ///
    /// # Errors
    /// A name is taken meanwhile, or the system refuses: older files of these names are then in place again.
    pub fn publish(self) -> Result<()> {
        let Some(first) = self.targets.first() else { return Ok(()) };
        let (building, parent) = (self.folder.path(), folder_of(first));
        let failed = |e: io::Error| explain(first, e);
        let mut list = OutputFile::create(&building.join(LIST), false)?;
        list.append(&self.list().map_err(failed)?)?;
        list.commit()?;
        fs::create_dir(building.join(OLDER)).map_err(failed)?;
        sync_folder(building).map_err(failed)?;
        let moved = briefly_locked(parent, || {
            // No signal ends the process between two renames.
            let names = temporary::names();
            let moved = self.rename_all();
            if moved.is_err() {
                undo(parent, building);
            }
            drop(names);
            moved
        });
        moved?;
        sync_folder(parent).map_err(failed)?;
        // Older parts; a failure costs space, and the next run removes them.
        let _ = self.folder.remove();
        Ok(())
    }

    fn rename_all(&self) -> Result<()> {
        for target in self.targets.iter().filter(|_| self.force) {
            let name = target.file_name().unwrap_or_default();
            match fs::rename(target, self.folder.path().join(OLDER).join(name)) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(explain(target, e)),
                Ok(()) | Err(_) => {}
            }
        }
        for target in self.targets.iter().rev() {
            rename_new(&self.place(target), target).map_err(|e| match e.kind() {
                io::ErrorKind::AlreadyExists => already_there(target),
                _ => explain(target, e),
            })?;
        }
        Ok(())
    }

    /// What is to be renamed, for whoever has to undo it.
    fn list(&self) -> io::Result<Vec<u8>> {
        let entry = |target: &PathBuf| {
            let new = id(&self.place(target)).ok_or(io::ErrorKind::NotFound)?;
            let name = target.file_name().unwrap_or_default().to_string_lossy().into_owned();
            Ok((name, new, id(target)))
        };
        let entries = self.targets.iter().map(entry).collect::<io::Result<Vec<Entry>>>()?;
        Ok(serde_json::to_vec(&entries)?)
    }
}

/// Which file this is; `None` for what is no file.
fn id(path: &Path) -> Option<FileId> {
    let found = fs::symlink_metadata(path).ok().filter(fs::Metadata::is_file)?;
    #[cfg(unix)]
    let number = std::os::unix::fs::MetadataExt::ino(&found);
    #[cfg(not(unix))]
    let number = 0;
    Some((number, found.len()))
}

/// Undoes what was begun with the parts in `building`, and removes it. Returns what was done, in a sentence, if any
/// file beside it was changed.
pub(crate) fn undo(parent: &Path, building: &Path) -> Option<String> {
    let list = crate::small::read(&building.join(LIST), LARGEST_LIST).ok();
    let list = list.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let entries: Vec<Entry> = list.unwrap_or_default();
    let plain = |name: &str| Path::new(name).file_name() == Some(OsStr::new(name));
    let parts: Vec<_> = entries.iter().filter(|(name, ..)| plain(name)).collect();
    let (mut removed, mut restored) = (0, 0);
    // Part 1 is the last to leave: without it here, the set is complete. Without numbers, nothing is known for sure.
    if cfg!(unix) && parts.first().is_some_and(|(name, ..)| building.join(name).exists()) {
        for (name, new, _) in &parts {
            let target = parent.join(name);
            if id(&target).as_ref() == Some(new) {
                removed += usize::from(fs::remove_file(&target).is_ok());
            }
        }
        // Names that others have now belong to a newer set, which older parts must not be mixed with.
        let free_or_older = |(name, _, older): &&Entry| {
            let target = parent.join(name);
            fs::symlink_metadata(&target).is_err() || older.is_some() && id(&target) == *older
        };
        if parts.iter().all(free_or_older) {
            for (name, ..) in parts.iter().rev() {
                restored +=
                    usize::from(rename_new(&building.join(OLDER).join(name), &parent.join(name)).is_ok());
            }
        }
    }
    let _ = sync_folder(parent);
    let _ = temporary::remove(building);
    let first = parent.join(&parts.first()?.0);
    let back = if restored > 0 { ", and the older ones have their names again" } else { "" };
    (removed + restored > 0).then(|| {
        let what = format!(
            "{removed} new parts were removed, as the run that wrote them was killed before all had names"
        );
        format!("{}: {what}{back}", first.display())
    })
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<_> = entries.map(|name| name.into_string().unwrap()).collect();
        names.sort();
        names
    }

    const NAMES: [&str; 4] = ["m-1", "m-2", "m-3", "m-4"];

    /// Parts with this content, ready to be published.
    fn parts(folder: &Path, content: &str, force: bool) -> Parts {
        let targets = NAMES.map(|name| folder.join(name)).to_vec();
        let parts = Parts::create(targets, force.into()).unwrap();
        for target in &parts.targets {
            fs::write(parts.place(target), content).unwrap();
        }
        parts
    }

    /// What a process that is killed after so many renames leaves: its folder is not locked, and not removed.
    fn killed_after(folder: &Path, content: &str, renames: usize) {
        let parts = parts(folder, content, true);
        let building = folder.join(".m-1.quern-killed.parts");
        let list = parts.list().unwrap();
        fs::create_dir(&building).unwrap();
        for target in &parts.targets {
            fs::rename(parts.place(target), building.join(target.file_name().unwrap())).unwrap();
        }
        fs::write(building.join(LIST), list).unwrap();
        fs::create_dir(building.join(OLDER)).unwrap();
        let aside = NAMES.iter().map(|name| (folder.join(name), building.join(OLDER).join(name)));
        let given = NAMES.iter().rev().map(|name| (building.join(name), folder.join(name)));
        for (from, to) in
            aside.chain(given).filter(|(from, _)| from.exists() || from.starts_with(&building)).take(renames)
        {
            fs::rename(from, to).unwrap();
        }
    }

    #[test]
    fn killed_at_any_rename_the_older_set_or_the_new_one_is_there_after_the_next_run() {
        for (older, steps) in [(true, 8), (false, 4)] {
            for renames in 0..=steps {
                let scratch = tempfile::tempdir().unwrap();
                let folder = scratch.path();
                if older {
                    parts(folder, "older", false).publish().unwrap();
                    assert_eq!(names(folder), NAMES);
                }
                killed_after(folder, "new", renames);
                // Never parts of both sets with the first one.
                let contents = |name: &str| fs::read_to_string(folder.join(name)).ok();
                if let Some(first) = contents("m-1") {
                    let same = NAMES.iter().all(|name| contents(name).as_ref() == Some(&first));
                    assert!(same, "after {renames} renames");
                }
                temporary::sweep(folder);
                let expected = if renames == steps { Some("new") } else { older.then_some("older") };
                for name in NAMES {
                    assert_eq!(contents(name).as_deref(), expected, "after {renames} renames");
                }
                assert_eq!(
                    names(folder).len(),
                    if expected.is_some() { 4 } else { 0 },
                    "after {renames} renames"
                );
                // And the next run can go on.
                parts(folder, "next", true).publish().unwrap();
                assert_eq!(
                    (names(folder), contents("m-3").as_deref()),
                    (NAMES.map(String::from).to_vec(), Some("next"))
                );
            }
        }
    }

    #[test]
    fn a_name_that_is_taken_meanwhile_stops_all_of_them() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path();
        let waiting = parts(folder, "new", false);
        fs::write(folder.join("m-2"), "somebody else's").unwrap();
        let text = waiting.publish().unwrap_err().to_string();
        assert!(text.contains("m-2: already exists"), "{text}");
        assert_eq!(names(folder), ["m-2"]);
        assert_eq!(fs::read(folder.join("m-2")).unwrap(), b"somebody else's");
    }
}
