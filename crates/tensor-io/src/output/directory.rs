//! Folders that appear complete or not at all.
//!
//! ```text
//! create    .NAME.XXXXXX.part, a folder beside the target
//! fill      files in it, each synced by its own writer
//! commit    sync the folder; with nothing at the target: rename
//!           with an older model there and `force`: exchange the two in one step, remove the older one
//! drop      remove the folder and its contents
//! ```
//!
//! A killed process leaves `.NAME.XXXXXX.part` behind, which no reader opens as a model and which may be
//! deleted.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::{OutputFile, already_there, explain, folder_of, sync_folder};
use crate::{Error, Result, temporary};

/// A folder under construction: files are written to [`OutputDirectory::building`], which takes the target's
/// name in [`OutputDirectory::commit`]; dropped without it, nothing remains.
#[derive(Debug)]
pub struct OutputDirectory {
    path: PathBuf,
    force: bool,
    building: TempDir,
}

impl OutputDirectory {
    /// Starts the folder `path`.
    ///
    /// # Errors
    /// Something is there already and `force` is not given. With `force`, only an empty folder or one that
    /// looks like a model's may be replaced: it holds `config.json` or a `.safetensors` file, and no folders.
    pub fn create(path: &Path, force: bool) -> Result<Self> {
        let Some(name) = path.file_name() else {
            return Err(Error::refused(path, "not a folder name; give the output a name"));
        };
        check_target(path, force)?;
        let parent = folder_of(path);
        if !parent.is_dir() {
            let what = format!("the folder {} does not exist; create it first", parent.display());
            return Err(Error::refused(path, what));
        }
        let building = temporary::directory(parent, name).map_err(|e| {
            let what = format!("cannot create a folder in {}: {e}", parent.display());
            Error::new(path, io::Error::new(e.kind(), what))
        })?;
        Ok(Self { path: path.to_path_buf(), force, building })
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
        // Again: hours may have passed.
        let replace = check_target(&self.path, self.force)?;
        if replace {
            temporary::exchange(self.building.path(), &self.path).map_err(failed)?;
        } else {
            temporary::rename_new(self.building.path(), &self.path).map_err(|e| match e.kind() {
                io::ErrorKind::AlreadyExists | io::ErrorKind::DirectoryNotEmpty => already_there(&self.path),
                _ => failed(e),
            })?;
        }
        sync_folder(folder_of(&self.path)).map_err(failed)?;
        if !replace {
            let _ = self.building.keep(); // the name is gone: nothing to remove
            return Ok(());
        }
        let older = self.building.path().to_path_buf();
        self.building.close().map_err(|e| {
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
