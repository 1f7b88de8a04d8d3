//! The threads of a job.

use std::path::Path;

use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::{Error, Result};

/// A pool of so many threads, 0 for one for each processor; `path` is the file the error is about.
///
/// # Errors
/// The system does not give so many.
pub fn pool(threads: usize, path: &Path) -> Result<ThreadPool> {
    let threads = match threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        n => n,
    };
    let builder = ThreadPoolBuilder::new().num_threads(threads).thread_name(|i| format!("quern-{i}"));
    builder.build().map_err(|e| Error::refused(path, format!("cannot start {threads} threads: {e}")))
}
