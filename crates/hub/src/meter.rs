//! Watches connections: an answer that comes too slowly, or is longer than it can be, ends with an error.
//!
//! A timeout of each read alone lets a server hold a download for ever with one byte a second, and a bound on the body
//! alone lets it send endless lines between the chunks of one. So every connection is wrapped below TLS, where each
//! byte passes, whether of a handshake, a head, a chunk's length or a body:
//!
//! ```text
//! rate       after the first byte, the time spent waiting for more is added up; each time it reaches the window,
//!            fewer than `slowest` bytes a second of it are too few. Time the program spends elsewhere does not count
//! allowance  bytes that may arrive for one request, and when the last must have
//! ```
//!
//! ureq has no way to hand the limits of one request to its connection. A request and its body are read on one
//! thread, so the allowance is kept there.

use std::cell::Cell;
use std::fmt;
use std::io;
use std::time::{Duration, Instant};

use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, NextTimeout, Transport};

use crate::settings::Patience;

/// What a request may take beyond its body: TLS, the head, lengths of chunks.
const OVERHEAD: u64 = 1 << 20;
/// Bytes on the wire for one of the body, where it comes in short chunks and through a proxy that is counted too.
const WIRE: u64 = 4;

thread_local! {
    static ALLOWANCE: Cell<Allowance> = const { Cell::new(Allowance { bytes: u64::MAX, until: None }) };
}

/// What may still arrive for the request of this thread.
#[derive(Clone, Copy, Debug)]
struct Allowance {
    bytes: u64,
    until: Option<Instant>,
}

/// Sets what the next request of this thread may receive: a body of so many bytes, the last of them by `until`.
pub(crate) fn allow(body: u64, until: Option<Instant>) {
    let bytes = body.saturating_mul(WIRE).saturating_add(OVERHEAD);
    ALLOWANCE.set(Allowance { bytes, until });
}

/// Why a connection was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GivenUp {
    /// Fewer bytes than the slowest rate.
    Slow {
        /// Bytes received in the last window.
        bytes: u64,
        /// Seconds waited for them.
        seconds: u64,
    },
    /// More bytes than the request allows.
    Endless,
    /// The time for the whole answer is over.
    Late,
}

impl fmt::Display for GivenUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Slow { bytes, seconds } => {
                write!(f, "the server is too slow: {bytes} bytes in {seconds} seconds")
            }
            Self::Endless => f.write_str("the server sends far more than the answer can hold"),
            Self::Late => f.write_str("the answer did not end in the time there is for it"),
        }
    }
}

impl std::error::Error for GivenUp {}

impl GivenUp {
    /// The reason in an error of ureq or of a reader.
    pub fn of(e: &io::Error) -> Option<Self> {
        e.get_ref()?.downcast_ref().copied()
    }
}

impl From<GivenUp> for ureq::Error {
    fn from(reason: GivenUp) -> Self {
        Self::Io(io::Error::other(reason))
    }
}

/// Wraps each connection of a chain of connectors.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Meter(pub Patience);

impl<In: Transport> Connector<In> for Meter {
    type Out = Metered<In>;

    fn connect(&self, _: &ConnectionDetails, chained: Option<In>) -> Result<Option<Self::Out>, ureq::Error> {
        Ok(chained.map(|inner| Metered { inner, patience: self.0, rate: Rate::default() }))
    }
}

/// A connection that is watched.
#[derive(Debug)]
pub(crate) struct Metered<T> {
    inner: T,
    patience: Patience,
    rate: Rate,
}

impl<T: Transport> Transport for Metered<T> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.inner.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        self.rate = Rate::default();
        self.inner.transmit_output(amount, timeout)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        let before = self.inner.buffers().input().len();
        let asked = Instant::now();
        let progress = self.inner.await_input(timeout)?;
        let received = self.inner.buffers().input().len().saturating_sub(before) as u64;
        if let Some(slow) = self.rate.add(received, asked.elapsed(), &self.patience) {
            return Err(slow.into());
        }
        let mut allowance = ALLOWANCE.get();
        if allowance.until.is_some_and(|until| Instant::now() > until) {
            return Err(GivenUp::Late.into());
        }
        let Some(left) = allowance.bytes.checked_sub(received) else {
            return Err(GivenUp::Endless.into());
        };
        allowance.bytes = left;
        ALLOWANCE.set(allowance);
        Ok(progress)
    }

    fn is_open(&mut self) -> bool {
        self.inner.is_open()
    }

    fn is_tls(&self) -> bool {
        self.inner.is_tls()
    }
}

/// What came in the window that is running.
#[derive(Clone, Copy, Debug, Default)]
struct Rate {
    /// The first byte is here: until then the server may think, as long as a single read may take.
    begun: bool,
    waited: Duration,
    received: u64,
}

impl Rate {
    /// Adds what one read brought. An error when a window ends with too little.
    fn add(&mut self, bytes: u64, waited: Duration, patience: &Patience) -> Option<GivenUp> {
        if !self.begun {
            self.begun = bytes > 0;
            return None;
        }
        self.received = self.received.saturating_add(bytes);
        self.waited = self.waited.saturating_add(waited);
        if self.waited < patience.window {
            return None;
        }
        let (received, waited) = (self.received, self.waited);
        (self.received, self.waited) = (0, Duration::ZERO);
        let fewest = patience.slowest as f64 * waited.as_secs_f64();
        ((received as f64) < fewest)
            .then(|| GivenUp::Slow { bytes: received, seconds: waited.as_secs_f64().ceil() as u64 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const MINUTE: Patience =
        Patience { window: Duration::from_secs(60), slowest: 1024, answer: Duration::from_secs(600) };

    #[test]
    fn one_byte_a_second_is_too_slow_after_a_window() {
        let mut rate = Rate::default();
        let given_up = (0..1000).find_map(|second| Some((second, rate.add(1, SECOND, &MINUTE)?)));
        assert_eq!(given_up, Some((60, GivenUp::Slow { bytes: 60, seconds: 60 })));
    }

    #[test]
    fn the_slowest_rate_passes_for_ever_and_time_before_the_first_byte_does_not_count() {
        let mut rate = Rate::default();
        assert_eq!(rate.add(0, SECOND * 3000, &MINUTE), None);
        assert!((0..10_000).all(|_| rate.add(1024, SECOND, &MINUTE).is_none()));
        // A rush counts for its window only.
        assert_eq!(rate.add(1 << 30, SECOND * 100, &MINUTE), None);
        assert!((0..61).any(|_| rate.add(1, SECOND, &MINUTE).is_some()));
    }

    #[test]
    fn bytes_that_are_there_at_once_take_no_time() {
        let mut rate = Rate::default();
        assert!((0..100_000).all(|_| rate.add(1, Duration::ZERO, &MINUTE).is_none()));
    }
}
