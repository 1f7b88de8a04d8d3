//! Signals that end the program: INT (Ctrl-C), TERM and HUP.
//!
//! They are blocked in all threads and received by one of them, outside of any handler. It removes unfinished outputs
//! and then ends the process by the same signal, as the shell expects; a second signal ends it at once, with whatever
//! is left, which the next run that writes there removes. A signal that was ignored when the program started (`nohup`)
//! stays ignored, but for INT at a terminal. During an answer of a conversation, the first Ctrl-C stops the answer only.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use quern_tensor_io::output;

use crate::messages;

/// Where Ctrl-C is counted instead of ending the program at once.
static COUNTED: OnceLock<&'static AtomicU32> = OnceLock::new();
/// What is said when a signal ends the program.
static LAST_WORDS: Mutex<Option<String>> = Mutex::new(None);

/// From now on Ctrl-C is counted in `interrupts`, which somebody sets to 0 now and then; one more ends the program.
pub fn count_interrupts(interrupts: &'static AtomicU32) {
    COUNTED.get_or_init(|| interrupts);
}

/// What is said when a signal ends the program from now on.
pub fn on_stop_say(text: Option<String>) {
    *LAST_WORDS.lock().unwrap_or_else(PoisonError::into_inner) = text;
}

/// Says what runs that were killed had left and this one has removed.
pub fn say_what_was_swept() {
    output::notes().iter().for_each(messages::note);
}

/// Whether this Ctrl-C is only counted.
#[cfg(unix)]
fn only_counted() -> bool {
    COUNTED.get().is_some_and(|interrupts| interrupts.fetch_add(1, Ordering::SeqCst) == 0)
}

/// Blocks the signals and starts the thread that receives them. To be called before any other thread is started.
#[cfg(unix)]
pub fn prepare() {
    use nix::sys::signal::{SigSet, Signal};
    let ignored = ignored();
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // Scripts start what they do not wait for with INT ignored; who types at a terminal means it.
        let typed = signal == Signal::SIGINT && std::io::stdin().is_terminal();
        if typed || ignored & (1 << (signal as u64 - 1)) == 0 {
            signals.add(signal);
        }
    }
    if signals.thread_block().is_err() {
        return;
    }
    let receive = move || {
        let signal = loop {
            match signals.wait() {
                Ok(Signal::SIGINT) if only_counted() => {}
                Ok(signal) => break signal,
                Err(nix::errno::Errno::EINTR) => {}
                Err(_) => return,
            }
        };
        // From here on the next one ends the process at once.
        let _ = signals.thread_unblock();
        output::abandon();
        if let Some(text) = LAST_WORDS.lock().unwrap_or_else(PoisonError::into_inner).take() {
            messages::info(text);
        }
        let _ = nix::sys::signal::raise(signal);
        // Not reached: the signal ends the process.
        std::process::exit(128 + signal as i32);
    };
    if std::thread::Builder::new().name("signals".into()).spawn(receive).is_err() {
        // No thread to receive them: they end the process as they would any other.
        let _ = signals.thread_unblock();
    }
}

/// The signals that are ignored, as bits.
#[cfg(unix)]
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let bits = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    bits.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()).unwrap_or(0)
}

#[cfg(not(unix))]
pub fn prepare() {}
