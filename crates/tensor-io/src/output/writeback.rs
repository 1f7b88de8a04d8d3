//! Starts writing a file to the disk while more of it is made, so that the sync at its end has little to do.
//!
//! Systems keep written pages in memory for seconds before they write them out, so most of a file of some gigabytes
//! would reach the disk only after it is complete. Therefore a thread of its own syncs the file at intervals.

use std::fs::File;
use std::io;
use std::thread::{self, JoinHandle};

/// Bytes after which a sync begins, unless the one before is still running.
const STEP: u64 = 256 << 20;

/// The syncs of one file.
#[derive(Debug, Default)]
pub(super) struct Writeback {
    /// Bytes written since the last sync began.
    fresh: u64,
    running: Option<JoinHandle<io::Result<()>>>,
}

impl Writeback {
    /// Notes that more was written to `file`. An error is that of an earlier sync: the system reports it only
    /// once, so it must not be lost.
    pub fn wrote(&mut self, bytes: usize, file: &File) -> io::Result<()> {
        self.fresh += bytes as u64;
        if self.fresh < STEP || self.running.as_ref().is_some_and(|r| !r.is_finished()) {
            return Ok(());
        }
        self.wait()?;
        self.fresh = 0;
        let file = file.try_clone()?;
        // Without a thread the sync at the end does it all.
        self.running = thread::Builder::new().name("sync".into()).spawn(move || file.sync_data()).ok();
        Ok(())
    }

    /// Waits for the running sync, if any.
    pub fn wait(&mut self) -> io::Result<()> {
        match self.running.take() {
            Some(running) => running.join().unwrap_or_else(|_| Err(io::Error::other("the sync panicked"))),
            None => Ok(()),
        }
    }
}
