//! Outputs that would be written over what is being read.

use std::fs;
use std::path::Path;

use crate::{Checkpoint, Error, Result};

/// Refuses an output that is one of the files of `source`, under whatever name.
///
/// # Errors
/// It is.
pub fn refuse_input(source: &Checkpoint, output: &Path) -> Result<()> {
    match source.files().iter().any(|input| same_file(input, output)) {
        true => {
            Err(Error::refused(output, "this is the file being read; choose another name for the output"))
        }
        false => Ok(()),
    }
}

/// Whether both names lead to one existing file, through links too.
fn same_file(a: &Path, b: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let id = |path: &Path| fs::metadata(path).map(|m| (m.dev(), m.ino())).ok();
        id(a).is_some_and(|a| Some(a) == id(b))
    }
    #[cfg(not(unix))]
    {
        fs::canonicalize(a).is_ok_and(|a| fs::canonicalize(b).is_ok_and(|b| a == b))
    }
}
