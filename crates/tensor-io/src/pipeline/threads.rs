//! The threads of a job: so many as were asked for, fewer where the system refuses some, and in the end the caller's.

use std::cell::OnceCell;
use std::ops::Deref;
use std::path::Path;

use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::{Error, Result};

/// Threads to compute with; a [`ThreadPool`], whoever owns it.
#[derive(Debug)]
pub struct Threads(Held);

#[derive(Debug)]
enum Held {
    /// Threads that were started, and end with this value.
    Started(ThreadPool),
    /// The thread that asks, as a pool of one, which it remains as long as it lives.
    Current(&'static ThreadPool),
}

impl Deref for Threads {
    type Target = ThreadPool;

    fn deref(&self) -> &ThreadPool {
        match &self.0 {
            Held::Started(pool) => pool,
            Held::Current(pool) => pool,
        }
    }
}

thread_local! {
    /// This thread as a pool of one. A thread belongs to one pool for good, so there is one for all jobs.
    static CURRENT: OnceCell<&'static ThreadPool> = const { OnceCell::new() };
}

/// A pool of so many threads, 0 for one for each processor; `path` is the file the error is about. Where the system
/// refuses that many, it has fewer; where it refuses all, jobs are done by the calling thread.
///
/// # Errors
/// All are refused, and the calling thread itself belongs to another pool.
pub fn pool(threads: usize, path: &Path) -> Result<Threads> {
    let mut threads = match threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        n => n,
    };
    loop {
        match builder(threads).build() {
            Ok(pool) => return Ok(Threads(Held::Started(pool))),
            // Those that were started end meanwhile, so there is room for fewer.
            Err(_) if threads > 1 => threads /= 2,
            Err(e) => return current().map_or_else(|| Err(refused(path, &e)), |pool| Ok(Threads(pool))),
        }
    }
}

fn builder(threads: usize) -> ThreadPoolBuilder {
    ThreadPoolBuilder::new().num_threads(threads).thread_name(|i| format!("quern-{i}"))
}

fn current() -> Option<Held> {
    CURRENT.with(|current| match current.get() {
        Some(pool) => Some(Held::Current(pool)),
        None => {
            let pool = builder(1).use_current_thread().build().ok()?;
            Some(Held::Current(current.get_or_init(|| Box::leak(Box::new(pool)))))
        }
    })
}

fn refused(path: &Path, e: &rayon::ThreadPoolBuildError) -> Error {
    Error::refused(
        path,
        format!("cannot start a thread: {e}; raise the limit of processes (ulimit -u) or of memory"),
    )
}

#[cfg(test)]
mod tests {
    use rayon::iter::{IntoParallelIterator, ParallelIterator};

    use super::*;

    #[test]
    fn the_calling_thread_serves_several_jobs() {
        // On a thread of its own: it belongs to its pool for good.
        std::thread::spawn(|| {
            for _ in 0..2 {
                let pool = Threads(current().unwrap());
                assert_eq!(pool.current_num_threads(), 1);
                let own = std::thread::current().id();
                let same = |_| std::thread::current().id() == own;
                assert!(pool.install(|| (0..100).into_par_iter().all(same)));
            }
            // Other pools work beside it.
            let other = pool(2, Path::new("x")).unwrap();
            assert_eq!(other.install(|| (0..100u64).into_par_iter().sum::<u64>()), 4950);
        })
        .join()
        .unwrap();
    }
}
