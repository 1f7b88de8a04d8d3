//! Progress bars on standard error, drawn only when it is a terminal.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use quern_tensor_io::Progress;

/// A bar that a library job advances.
pub struct Bar(ProgressBar);

/// What the job counts.
pub enum Unit {
    /// Bytes of source data.
    Bytes,
    /// Chunks of a text.
    Chunks,
    /// Linear layers of a model.
    Modules,
    /// Repetitions of a measurement.
    Runs,
}

impl Bar {
    /// A bar that stays hidden unless standard error is a terminal.
    pub fn new(unit: Unit) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        let counts = match unit {
            Unit::Bytes => "{bytes:>10}/{total_bytes} {bytes_per_sec:>12}",
            Unit::Chunks => "{pos:>5}/{len} chunks",
            Unit::Modules => "{pos:>5}/{len} modules",
            Unit::Runs => "{pos:>3}/{len} runs",
        };
        let template = format!("{{bar:28}} {counts}  {{eta:>4}} left  {{wide_msg}}");
        if let Ok(style) = ProgressStyle::with_template(&template) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.enable_steady_tick(Duration::from_millis(100));
        Self(bar)
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

impl Progress for Bar {
    fn total(&self, units: u64) {
        self.0.set_length(units);
    }

    fn advance(&self, units: u64) {
        self.0.inc(units);
    }

    fn step(&self, what: &str) {
        self.0.set_message(what.to_owned());
    }
}
