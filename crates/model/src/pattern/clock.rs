//! The time that work on one text may take.

use std::cell::Cell;
use std::time::{Duration, Instant};

use super::PatternError;

/// What any text may take.
const BASE: Duration = Duration::from_secs(8);
/// What each byte of it may take beyond: a hundred times what the slowest of the known tokenizers needs.
const PER_BYTE: Duration = Duration::from_micros(20);
/// So many steps pass between two looks at the clock.
const STEPS: u32 = 64;

/// Counts steps and stops work that goes on for too long.
#[derive(Debug)]
pub(crate) struct Clock {
    end: Instant,
    steps: Cell<u32>,
}

impl Clock {
    /// A clock for a text of so many bytes, which starts now.
    pub fn for_text(bytes: usize) -> Self {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        Self { end: Instant::now() + BASE + PER_BYTE * bytes, steps: Cell::new(0) }
    }

    /// One step; an error once the time is over.
    pub fn step(&self) -> Result<(), PatternError> {
        let steps = self.steps.get() + 1;
        self.steps.set(steps % STEPS);
        match steps == STEPS && Instant::now() > self.end {
            true => Err(PatternError::new(
                "its rules take far more time for a text of this length than those of any known tokenizer",
            )),
            false => Ok(()),
        }
    }

    /// The next step looks at the clock: what follows may take long.
    pub fn look_soon(&self) {
        self.steps.set(STEPS - 1);
    }
}
