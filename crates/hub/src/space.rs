//! Checks that a download fits on its disk before it begins.

use std::path::Path;

use quern_tensor_io::Remedy;

use crate::error::ErrorKind;
use crate::{Error, Result};

/// Space that is always left free: folders, links and other programs need some too.
const MARGIN: u64 = 64 << 20;

/// Refuses `bytes` more in `folder`, which exists, if the disk does not have that much free space.
pub(crate) fn check(folder: &Path, bytes: u64) -> Result<()> {
    match free(folder) {
        Some(free) if bytes > 0 && bytes.saturating_add(MARGIN) > free => Err(full(folder, bytes, free)),
        _ => Ok(()),
    }
}

fn full(folder: &Path, bytes: u64, free: u64) -> Error {
    let what = format!("{} are to be downloaded, but the disk has {} free", human(bytes), human(free));
    Error::new(folder.display().to_string(), ErrorKind::Disk(what)).with_remedy(Remedy::ChooseFolder)
}

/// Bytes that this user may still write.
#[cfg(unix)]
fn free(folder: &Path) -> Option<u64> {
    let found = rustix::fs::statvfs(folder).ok()?;
    // Some network file systems do not know it and report 0 of 0.
    (found.f_blocks > 0).then(|| found.f_bavail.saturating_mul(found.f_frsize))
}

#[cfg(not(unix))]
fn free(_: &Path) -> Option<u64> {
    None
}

/// Bytes with a binary unit.
pub(crate) fn human(bytes: u64) -> String {
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
        check(dir.path(), 0).unwrap();
        check(dir.path(), 1).unwrap();
        let error = check(dir.path(), 1 << 60).unwrap_err();
        assert!(error.to_string().contains("1048576.0 TiB are to be downloaded"), "{error}");
        assert_eq!(error.remedy(), Some(Remedy::ChooseFolder));
    }

    #[test]
    fn sizes_are_short() {
        assert_eq!([human(5), human(2048), human(5 << 30)], ["5 bytes", "2.0 KiB", "5.0 GiB"]);
    }
}
