//! Folders that appear complete or not at all.
//!
//! ```text
//! create    .NAME.quern-XXXXXX.part, a folder beside the target, locked while this process lives
//! fill      files in it, each synced by its own writer
//! commit    sync the folder; with nothing at the target: rename
//!           with an older model there and `force`: exchange the two in one step, remove the older one
//! drop      remove the folder and its contents
//! ```
//!
//! A killed process leaves `.NAME.quern-XXXXXX.part` behind, which no reader opens as a model. The next output that is
//! made in the same folder removes it, as nobody holds its lock any more.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{Existing, OutputFile, already_there, explain, folder_of, sync_folder};
use crate::temporary::{self, Ending, Folder};
use crate::{Error, Result};

/// A folder under construction: files are written to [`OutputDirectory::building`], which takes the target's
/// name in [`OutputDirectory::commit`]; dropped without it, nothing remains.
#[derive(Debug)]
pub struct OutputDirectory {
    path: PathBuf,
    force: bool,
    building: Folder,
}

impl OutputDirectory {
    /// Starts the folder `path`.
    ///
    /// # Errors
    /// Something is there already and `existing` does not allow to replace it. With force, only an empty folder or one
    /// that looks like a model's may be replaced: it holds `config.json` or a `.safetensors` file, and no folders.
    /// An input is stored there, or the folder would be inside the model that is read.
    pub fn create<'a>(path: &Path, existing: impl Into<Existing<'a>>) -> Result<Self> {
        let existing = existing.into();
        let force = existing.force;
        Self::check(path, existing)?;
        let (parent, name) = (folder_of(path), path.file_name().unwrap_or_default());
        temporary::sweep(parent);
        let building = Folder::create(parent, name, Ending::Part).map_err(|e| {
            let what = format!("cannot create a folder in {}: {e}", parent.display());
            Error::new(path, io::Error::new(e.kind(), what))
        })?;
        Ok(Self { path: path.to_path_buf(), force, building })
    }

    /// Refuses what [`OutputDirectory::create`] would refuse, before long work.
    ///
    /// # Errors
    /// As there.
    pub fn check<'a>(path: &Path, existing: impl Into<Existing<'a>>) -> Result<()> {
        let existing = existing.into();
        if path.file_name().is_none() {
            return Err(Error::refused(path, "not a folder name; give the output a name"));
        }
        existing.check_folder(path)?;
        check_target(path, existing.force)?;
        let parent = folder_of(path);
        if !parent.is_dir() {
            let what = format!("the folder {} does not exist; create it first", parent.display());
            return Err(Error::refused(path, what));
        }
        Ok(())
    }

    /// The name the folder will have.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder to write files to until then.
    pub fn building(&self) -> &Path {
        self.building.path()
    }

    /// Writes a small file, synced.
    pub fn write(&self, name: &str, data: &[u8]) -> Result<()> {
        self.write_file(name, data, false)
    }

    /// The same; a file of this name that was written before is replaced.
    pub fn replace(&self, name: &str, data: &[u8]) -> Result<()> {
        self.write_file(name, data, true)
    }

    fn write_file(&self, name: &str, data: &[u8], force: bool) -> Result<()> {
        let write = || {
            let mut file = OutputFile::create(&self.building().join(name), force)?;
            file.append(data)?;
            file.commit()
        };
        write().map_err(|e| self.named(e))
    }

    /// The same error, naming the file under the name it was to have.
    pub fn named(&self, mut error: Error) -> Error {
        if let Ok(inside) = error.file.strip_prefix(self.building()) {
            error.file =
                if inside.as_os_str().is_empty() { self.path.clone() } else { self.path.join(inside) };
        }
        error
    }

    /// Syncs the folder and gives it its name; an older model there is removed once the new one is in place.
    pub fn commit(self) -> Result<()> {
        let failed = |e| explain(&self.path, e);
        sync_folder(self.building.path()).map_err(failed)?;
        crate::map::check_open_files()?;
        // No signal ends the process between a rename and the note of it.
        let mut names = temporary::names();
        let mut attempts = 0;
        let replace = loop {
            // Again: hours may have passed.
            let replace = check_target(&self.path, self.force)?;
            let renamed = match replace {
                true => temporary::exchange(self.building.path(), &self.path),
                false => temporary::rename_new(self.building.path(), &self.path),
            };
            let Err(e) = renamed else { break replace };
            let taken = matches!(e.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::DirectoryNotEmpty);
            attempts += 1;
            // Another run of the same output was a moment faster.
            if self.force && attempts < 100 && (taken || e.kind() == io::ErrorKind::NotFound) {
                continue;
            }
            return Err(if taken { already_there(&self.path) } else { failed(e) });
        };
        if !replace {
            self.building.renamed(&mut names);
            drop(names);
            return sync_folder(folder_of(&self.path)).map_err(|e| explain(&self.path, e));
        }
        drop(names);
        sync_folder(folder_of(&self.path)).map_err(failed)?;
        let older = self.building.path().to_path_buf();
        self.building.remove().map_err(|e| {
            let what = format!(
                "the new model is complete, but the one it replaced could not be removed from {}: {e}",
                older.display()
            );
            Error::new(&self.path, io::Error::new(e.kind(), what))
        })
    }
}

/// Whether there is a folder at `path` that will be replaced; an error if there is something that may not be.
fn check_target(path: &Path, force: bool) -> Result<bool> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(Error::new(path, e)),
    };
    if found.is_symlink() {
        let what = "this is a link; remove it, or give the folder it leads to as the output";
        return Err(Error::refused(path, what));
    }
    if !found.is_dir() {
        let what = "this is a file, but the output is a folder; choose another name";
        return Err(Error::refused(path, what));
    }
    if !force {
        return Err(already_there(path));
    }
    let (mut empty, mut model) = (true, false);
    for entry in fs::read_dir(path).map_err(|e| Error::new(path, e))? {
        let entry = entry.map_err(|e| Error::new(path, e))?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if entry.file_type().map_err(|e| Error::new(path, e))?.is_dir() {
            let what = format!(
                "the folder there holds another one ({name}), so it is more than a model and never \
                 replaced; remove it yourself or choose another name"
            );
            return Err(Error::refused(path, what));
        }
        empty = false;
        model |= name == "config.json" || name.ends_with(".safetensors");
    }
    if !empty && !model {
        let what = "the folder there holds no model (no config.json, no *.safetensors), so it is never \
                    replaced; remove it yourself or choose another name";
        return Err(Error::refused(path, what));
    }
    Ok(true)
}
