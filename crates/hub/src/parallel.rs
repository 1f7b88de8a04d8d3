//! Runs the same function on many items, a few at a time.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::error::ErrorKind;
use crate::{Error, Result};

/// Calls `work` for every item on a few threads; results are in order. After a failure no further item is started,
/// and `cancelled` returns true for the running ones.
pub(crate) fn each<T: Send, R: Send>(
    items: Vec<T>,
    threads: usize,
    cancelled: &AtomicBool,
    work: impl Fn(T, &AtomicBool) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    let count = items.len();
    let queue = Mutex::new(items.into_iter().enumerate());
    let results = Mutex::new((Vec::with_capacity(count), None::<Error>));
    let worker = || {
        while !cancelled.load(Ordering::Relaxed) {
            let next = queue.lock().ok().and_then(|mut q| q.next());
            let Some((at, item)) = next else { break };
            let result = work(item, cancelled);
            let Ok(mut results) = results.lock() else { break };
            match result {
                Ok(value) => results.0.push((at, value)),
                Err(e) => {
                    cancelled.store(true, Ordering::Relaxed);
                    // Report the failure that cancelled the others.
                    if results.1.is_none() && !matches!(e.kind, ErrorKind::Cancelled) {
                        results.1 = Some(e);
                    }
                }
            }
        }
    };
    thread::scope(|scope| {
        // This thread works too, so that a system that refuses others only costs time.
        for _ in 1..threads.clamp(1, count.max(1)) {
            if thread::Builder::new().spawn_scoped(scope, worker).is_err() {
                break;
            }
        }
        worker();
    });
    let (mut done, failed) = results.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(e) = failed {
        return Err(e);
    }
    done.sort_by_key(|(at, _)| *at);
    Ok(done.into_iter().map(|(_, value)| value).collect())
}
