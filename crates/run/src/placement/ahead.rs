//! Requests what is needed next from the system, on a thread of its own: the request for a whole layer takes some
//! milliseconds even where the disk is idle.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use quern_tensor_io::Checkpoint;

use super::unit::Span;

/// The helper. Dropping it waits for its thread, which finishes its current span: nothing else then keeps the
/// files mapped.
#[derive(Debug)]
pub(super) struct Ahead {
    /// `None` only while it is dropped.
    requests: Option<Sender<Vec<Span>>>,
    stop: Arc<AtomicBool>,
    /// `None` if the system refused one; requests are then dropped.
    thread: Option<JoinHandle<()>>,
}

impl Ahead {
    /// Starts the thread.
    pub fn start(checkpoint: Arc<Checkpoint>) -> Self {
        let (requests, receiver) = channel::<Vec<Span>>();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let work = move || {
            for span in receiver.into_iter().flatten() {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                checkpoint.prefetch(span.addresses(&checkpoint));
            }
        };
        let thread = std::thread::Builder::new().name("quern-ahead".into()).spawn(work).ok();
        Self { requests: Some(requests), stop, thread }
    }

    /// Requests that these be read.
    pub fn ask(&self, spans: Vec<Span>) {
        if let Some(requests) = &self.requests {
            let _ = requests.send(spans);
        }
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.requests = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
