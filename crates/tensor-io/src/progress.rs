//! The interface through which libraries report progress; the command line displays it.

/// Receives progress from any thread.
pub trait Progress: Sync {
    /// The work ahead, in the unit the job documents (bytes read, tokens).
    fn total(&self, units: u64) {
        let _ = units;
    }

    /// `units` more are done.
    fn advance(&self, units: u64) {
        let _ = units;
    }

    /// `units` were done by an earlier run: they count as done, not for the speed.
    fn resume(&self, units: u64) {
        self.advance(units);
    }

    /// What is being worked on now: a tensor's name, a block.
    fn step(&self, what: &str) {
        let _ = what;
    }
}

/// Nobody is watching.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoProgress;

impl Progress for NoProgress {}
