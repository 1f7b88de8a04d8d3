//! Whether an output fits on its disk, asked before the work begins.

use std::path::Path;

use super::folder_of;
use crate::{Error, Remedy, Result};

/// Space that is always left free: folders, links and other programs need some too.
const MARGIN: u64 = 64 << 20;

/// A disk that is too small.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shortage {
    /// Bytes that are needed.
    pub needed: u64,
    /// Bytes that are free.
    pub free: u64,
}

/// Bytes that this user may still write to the disk of `folder`; `None` where the system does not say.
pub fn free_space(folder: &Path) -> Option<u64> {
    #[cfg(unix)]
    {
        let found = rustix::fs::statvfs(folder).ok()?;
        // Some network file systems do not know it and report 0 of 0.
        (found.f_blocks > 0).then(|| found.f_bavail.saturating_mul(found.f_frsize))
    }
    #[cfg(not(unix))]
    {
        let _ = folder;
        None
    }
}

/// Whether the disk of `folder`, which exists, has too little space for `bytes` more.
pub fn shortage(folder: &Path, bytes: u64) -> Option<Shortage> {
    let free = free_space(folder)?;
    (bytes > 0 && bytes.saturating_add(MARGIN) > free).then_some(Shortage { needed: bytes, free })
}

/// Refuses an output of `bytes` beside the file or folder `path`, which is to become its name, if the disk has not that
/// much free space. What is at `path` until then stays there until the output is complete, so it makes no room.
/// `what` names what the space is for.
///
/// # Errors
/// The disk is too small.
pub fn require_space(path: &Path, bytes: u64, what: &str) -> Result<()> {
    let folder = folder_of(path);
    let Some(Shortage { needed, free }) = shortage(folder, bytes) else { return Ok(()) };
    let (needed, free) = (human_bytes(needed), human_bytes(free));
    let mut text = format!(
        "{what} needs {needed}, but the disk of {} has {free} free",
        if folder == Path::new(".") { "this folder".to_owned() } else { folder.display().to_string() }
    );
    if path.exists() {
        text += "; what is there is replaced only when the new one is complete, so both must fit";
    }
    Err(Error::refused(path, text).with_remedy(Remedy::FreeSpace))
}

/// Bytes with a binary unit.
pub fn human_bytes(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let (mut value, mut unit) = (bytes as f64 / 1024.0, 0);
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        (value, unit) = (value / 1024.0, unit + 1);
    }
    if bytes < 1024 { format!("{bytes} bytes") } else { format!("{value:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_fit_is_refused_beforehand() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out.gguf");
        require_space(&out, 0, "the output").unwrap();
        require_space(&out, 1, "the output").unwrap();
        let error = require_space(&out, 1 << 60, "the output").unwrap_err();
        let text = error.to_string();
        assert!(text.contains("out.gguf: the output needs 1048576.0 TiB, but the disk of "), "{text}");
        assert!(text.contains(" free") && !text.contains("replaced"), "{text}");
        assert_eq!(error.remedy(), Some(Remedy::FreeSpace));
        std::fs::write(&out, "older").unwrap();
        let text = require_space(&out, 1 << 60, "the output").unwrap_err().to_string();
        assert!(text.contains("both must fit"), "{text}");
        assert_eq!(shortage(dir.path(), 0), None);
        assert_eq!(shortage(Path::new("/no/such/folder"), 1 << 60), None);
    }

    #[test]
    fn sizes_are_short() {
        assert_eq!(
            [human_bytes(5), human_bytes(2048), human_bytes(5 << 30)],
            ["5 bytes", "2.0 KiB", "5.0 GiB"]
        );
    }
}
