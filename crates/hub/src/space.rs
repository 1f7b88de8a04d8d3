//! Checks that a download fits on its disk before it begins.

use std::path::Path;

use quern_tensor_io::Remedy;
use quern_tensor_io::output::{human_bytes, shortage};

use crate::error::ErrorKind;
use crate::{Error, Result};

/// Refuses `bytes` more in `folder`, which exists, if the disk does not have that much free space.
pub(crate) fn check(folder: &Path, bytes: u64) -> Result<()> {
    let Some(found) = shortage(folder, bytes) else { return Ok(()) };
    let (needed, free) = (human_bytes(found.needed), human_bytes(found.free));
    let what = format!("{needed} are to be downloaded, but the disk has {free} free");
    Err(Error::new(folder.display().to_string(), ErrorKind::Disk(what)).with_remedy(Remedy::ChooseFolder))
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
}
