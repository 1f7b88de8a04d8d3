//! The threads of a job.

use std::path::Path;

use quern_tensor_io::{Error, Result};
use rayon::{ThreadPool, ThreadPoolBuilder};

/// So many threads, 0 for one a processor; `path` is for the error.
pub(crate) fn pool(threads: usize, path: &Path) -> Result<ThreadPool> {
    let threads = match threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        n => n,
    };
    let builder = ThreadPoolBuilder::new().num_threads(threads).thread_name(|i| format!("convert-{i}"));
    builder.build().map_err(|e| Error::refused(path, format!("cannot start {threads} threads: {e}")))
}
