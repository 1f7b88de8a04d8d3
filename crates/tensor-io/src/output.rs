//! Files that appear whole or not at all.

use std::io::{self, Write};
use std::path::Path;

use crate::Result;

/// A file under construction: written to a temporary file beside the target, which is flushed, synced
/// and renamed by [`OutputFile::commit`]; dropped without it, nothing remains.
#[derive(Debug)]
pub struct OutputFile {}

impl OutputFile {
    /// Starts writing `path`. Refuses an existing file unless `force`.
    pub fn create(path: &Path, force: bool) -> Result<Self> {
        todo!("{} {force}", path.display())
    }

    /// Flushes, syncs, renames over the target, syncs the directory.
    pub fn commit(self) -> Result<()> {
        todo!()
    }
}

impl Write for OutputFile {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        todo!("{}", buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        todo!()
    }
}
