//! Progress bars on standard error, drawn only when it is a terminal.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use quern_hub::PullProgress;
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
    /// Models of the catalogue.
    Models,
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
            Unit::Models => "{pos:>3}/{len} models",
            Unit::Runs => "{pos:>3}/{len} runs",
        };
        style(&bar, &format!("{{bar:28}} {counts}  {{eta:>4}} left  {{wide_msg}}"));
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

/// A bar for each file that is being downloaded, and one for all.
pub struct Transfers {
    all: MultiProgress,
    total: ProgressBar,
    files: Mutex<HashMap<String, ProgressBar>>,
}

impl Transfers {
    /// Bars that stay hidden unless standard error is a terminal.
    pub fn new() -> Self {
        let all = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
        Self { all, total: ProgressBar::hidden(), files: Mutex::default() }
    }

    fn with(&self, file: &str, act: impl FnOnce(&ProgressBar)) {
        if let Some(bar) = self.files.lock().ok().as_deref().and_then(|files| files.get(file)) {
            act(bar);
        }
    }
}

impl Drop for Transfers {
    fn drop(&mut self) {
        let _ = self.all.clear();
    }
}

impl PullProgress for Transfers {
    fn total(&self, files: usize, bytes: u64) {
        if files == 0 {
            return;
        }
        self.total.set_length(bytes);
        style(&self.total, "{bar:28} {bytes:>10}/{total_bytes} {bytes_per_sec:>12}  {eta:>4} left");
        self.all.add(self.total.clone());
        self.total.enable_steady_tick(Duration::from_millis(100));
    }

    fn start(&self, file: &str, bytes: u64) {
        let bar = ProgressBar::hidden();
        bar.set_length(bytes);
        style(&bar, "{bar:28} {bytes:>10}/{total_bytes}  {prefix} {wide_msg}");
        bar.set_prefix(file.to_owned());
        let bar = self.all.insert_before(&self.total, bar);
        if let Ok(mut files) = self.files.lock() {
            files.insert(file.to_owned(), bar);
        }
    }

    fn at(&self, file: &str, bytes: u64) {
        self.with(file, |bar| {
            let before = bar.position();
            match bytes >= before {
                true => self.total.inc(bytes - before),
                false => self.total.dec(before - bytes),
            }
            bar.set_position(bytes);
            bar.set_message("");
        });
    }

    fn waiting(&self, file: &str, why: &str) {
        self.with(file, |bar| bar.set_message(format!("({why})")));
    }

    fn done(&self, file: &str) {
        self.with(file, ProgressBar::finish_and_clear);
    }
}

fn style(bar: &ProgressBar, template: &str) {
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
}
