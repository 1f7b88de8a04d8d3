//! Asking the system for what is needed next, on a thread of its own: the request for a whole layer takes the
//! system some milliseconds even where the disk is idle.

use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};

use quern_tensor_io::Checkpoint;

use super::unit::Span;

/// The helper. Its thread ends when this is dropped and the last request is made.
#[derive(Debug)]
pub(super) struct Ahead {
    requests: Sender<Vec<Span>>,
}

impl Ahead {
    /// Starts the thread; without one (the system refuses) requests are dropped.
    pub fn start(checkpoint: Arc<Checkpoint>) -> Self {
        let (requests, receiver) = channel::<Vec<Span>>();
        let work = move || {
            for spans in receiver {
                spans.iter().for_each(|span| checkpoint.prefetch(span.addresses(&checkpoint)));
            }
        };
        let _ = std::thread::Builder::new().name("quern-ahead".into()).spawn(work);
        Self { requests }
    }

    /// Has these read.
    pub fn ask(&self, spans: Vec<Span>) {
        let _ = self.requests.send(spans);
    }
}
