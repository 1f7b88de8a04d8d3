//! Whether mapped files are still what they were when they were opened.
//!
//! A file is known by its device and number (inode): one that another took the place of under its name, as quern's own
//! outputs do with `--force`, is unchanged as long as it is mapped.

use std::collections::BTreeMap;
use std::fs::Metadata;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

#[cfg(unix)]
use super::{fault, ranges::Entered};
use crate::{Error, ErrorKind, Result};

/// All files that are mapped, in the order in which they were opened, and what was found about one that is no longer.
static FILES: Mutex<Files> = Mutex::new(Files { opened: 0, open: BTreeMap::new(), changed: None });

#[derive(Debug)]
struct Files {
    opened: u64,
    open: BTreeMap<u64, Arc<Watch>>,
    changed: Option<(PathBuf, String)>,
}

fn files() -> MutexGuard<'static, Files> {
    FILES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A file as it was when it was opened.
#[derive(Debug)]
struct Watch {
    path: PathBuf,
    length: u64,
    /// `None` where the system does not say.
    modified: Option<SystemTime>,
    #[cfg_attr(not(unix), expect(dead_code))]
    identity: (u64, u64),
    /// `None` for an empty file, which is not mapped, and for one that is mapped no longer.
    #[cfg(unix)]
    entered: Mutex<Option<Entered>>,
}

impl Watch {
    fn is_lost(&self) -> bool {
        #[cfg(unix)]
        return self.entered().as_ref().is_some_and(Entered::is_lost);
        #[cfg(not(unix))]
        false
    }

    #[cfg(unix)]
    fn entered(&self) -> MutexGuard<'_, Option<Entered>> {
        self.entered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The file, if it still has its name.
    fn now(&self) -> Option<Metadata> {
        #[cfg(unix)]
        return std::fs::metadata(&self.path).ok().filter(|now| identity(now) == self.identity);
        #[cfg(not(unix))]
        None
    }

    /// What happened to the file.
    fn change(&self) -> Option<String> {
        let now = self.now();
        if let Some(now) = now.as_ref().filter(|now| now.len() < self.length) {
            return Some(format!(
                "it was cut while it was being read: it had {} bytes and has {} now; make or download it again",
                self.length,
                now.len()
            ));
        }
        if self.is_lost() {
            let what = "a part of it could not be read: it was cut while it was being read, or its disk has a fault; \
                        make or download it again";
            return Some(what.to_owned());
        }
        let other = |now: &Metadata| now.len() != self.length || now.modified().ok() != self.modified;
        now.filter(other).map(|_| {
            "it was changed by another program while it was being read; repeat the command when nothing writes to it"
                .to_owned()
        })
    }

    fn check(&self) -> Result<()> {
        self.change().map_or(Ok(()), |what| Err(Error::new(&self.path, ErrorKind::Changed(what))))
    }
}

#[cfg(unix)]
fn identity(metadata: &Metadata) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt;
    (metadata.dev(), metadata.ino())
}

#[cfg(not(unix))]
fn identity(_: &Metadata) -> (u64, u64) {
    (0, 0)
}

/// A mapped file that is watched as long as this exists.
#[derive(Debug)]
pub(super) struct Watched {
    number: u64,
    watch: Arc<Watch>,
}

impl Watched {
    /// Watches `path`, which is mapped at `bytes` and had this metadata before that.
    pub fn new(path: &Path, metadata: &Metadata, bytes: Range<*const u8>) -> Self {
        #[cfg(unix)]
        let entered = (bytes.start < bytes.end).then(|| {
            fault::install();
            Entered::new(&fault::pages(bytes))
        });
        #[cfg(not(unix))]
        let _ = bytes;
        let watch = Arc::new(Watch {
            path: path.to_path_buf(),
            length: metadata.len(),
            modified: metadata.modified().ok(),
            identity: identity(metadata),
            #[cfg(unix)]
            entered: Mutex::new(entered),
        });
        let mut files = files();
        files.opened += 1;
        let number = files.opened;
        files.open.insert(number, watch.clone());
        Self { number, watch }
    }

    pub fn path(&self) -> &Path {
        &self.watch.path
    }

    pub fn check_read(&self) -> Result<()> {
        if self.watch.is_lost() { self.check() } else { Ok(()) }
    }

    pub fn check(&self) -> Result<()> {
        self.watch.check()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let change = self.watch.change();
        // Not with the watch, which a check may still have.
        #[cfg(unix)]
        drop(self.watch.entered().take());
        let mut files = files();
        files.open.remove(&self.number);
        if let Some(what) = change {
            files.changed.get_or_insert_with(|| (self.watch.path.clone(), what));
        }
    }
}

/// Checks all files that are mapped now: what is written may come from any of them.
///
/// # Errors
/// One was cut, or changed.
pub(crate) fn check_open_files() -> Result<()> {
    // The system may take its time: not with the lock held.
    let open: Vec<_> = files().open.values().cloned().collect();
    open.iter().try_for_each(|watch| watch.check())
}

/// Whether every model file that this process has mapped is as it was when it was opened, also those of checkpoints
/// that are dropped by now: for programs, which ask before they print results and at their end. Of the dropped ones, the
/// first that was not is reported, once.
///
/// # Errors
/// [`ErrorKind::Changed`]: a file was cut, and zeros were read in its place, or it was changed. Results made from it must
/// not be used.
pub fn check_mapped_files() -> Result<()> {
    let changed = files().changed.take();
    match changed {
        Some((path, what)) => Err(Error::new(path, ErrorKind::Changed(what))),
        None => check_open_files(),
    }
}
