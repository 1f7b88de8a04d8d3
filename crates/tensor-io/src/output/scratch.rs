//! Folders that are needed while a job runs only.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::folder_of;
use crate::temporary::{self, Ending, Folder};
use crate::{Error, Result};

/// A hidden folder beside an output, for what the output is made from. It is removed when this is dropped, when a
/// signal ends the process ([`super::abandon`]), or by the next run that writes there.
#[derive(Debug)]
pub struct ScratchFolder(Folder);

impl ScratchFolder {
    /// An empty folder beside `output`.
    ///
    /// # Errors
    /// The system refuses.
    pub fn beside(output: &Path) -> Result<Self> {
        let (parent, name) = (folder_of(output), output.file_name().unwrap_or_default());
        temporary::sweep(parent);
        Folder::create(parent, name, Ending::Part).map(Self).map_err(|e| {
            let what = format!("cannot create a folder in {}: {e}", parent.display());
            Error::new(output, io::Error::new(e.kind(), what))
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

/// Removes a folder that is not needed any more, as a whole for everybody: it loses its name at once. If the process is
/// killed while the files are removed, the next run that writes there removes the rest.
///
/// # Errors
/// The system refuses.
pub fn discard(folder: &Path) -> Result<()> {
    let failed = |e| Error::new(folder, e);
    let parent = folder_of(folder);
    let name = PathBuf::from(folder.file_name().unwrap_or_default());
    let away = Folder::create(parent, name.as_os_str(), Ending::Part).map_err(failed)?;
    fs::rename(folder, away.path().join("it")).map_err(failed)?;
    away.remove().map_err(failed)
}
