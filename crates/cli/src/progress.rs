//! What a long job is doing, on standard error: bars on a terminal, plain lines for logs, or nothing (`--progress`).
//!
//! ```text
//! bars    quantizing [======>         ] 1.2/4.1 GiB  310.0 MiB/s  9 s left  blk.3.ffn_down.weight
//! plain   quantizing: 29 % of 4.1 GiB, 310.0 MiB/s, 9 s left (blk.3.ffn_down.weight)
//! ```
//!
//! One thread for each bar shows it: after a moment, so that short jobs draw nothing, and in plain text every few
//! seconds, more rarely the longer the job takes.

mod transfers;
mod words;

use std::io::IsTerminal;
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use console::Term;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use quern_tensor_io::Progress;

use crate::format::escape;
use crate::messages;
pub use transfers::Transfers;
pub use words::Unit;

/// How progress is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Style {
    /// Bars that are drawn over and over.
    Bars,
    /// A line of text now and then.
    Plain,
    /// Not at all.
    #[default]
    None,
}

impl Style {
    /// Bars if standard error is a terminal that can draw them, plain lines on other terminals, nothing elsewhere.
    pub fn of_stderr() -> Self {
        let can_draw = || std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        match std::io::stderr().is_terminal() {
            true if can_draw() => Self::Bars,
            true => Self::Plain,
            false => Self::None,
        }
    }
}

/// How often a bar is drawn.
const TICK: Duration = Duration::from_millis(100);

static STYLE: OnceLock<Style> = OnceLock::new();

/// All bars, so that lines can be printed above them.
static BARS: LazyLock<MultiProgress> = LazyLock::new(|| {
    MultiProgress::with_draw_target(match style() {
        // Whether it is a terminal was decided with the style.
        Style::Bars => ProgressDrawTarget::term_like_with_hz(Box::new(Term::buffered_stderr()), 15),
        Style::Plain | Style::None => ProgressDrawTarget::hidden(),
    })
});

/// Sets how progress is shown; the first call counts.
pub fn set_style(style: Style) {
    STYLE.get_or_init(|| style);
}

/// How progress is shown.
pub fn style() -> Style {
    STYLE.get().copied().unwrap_or_default()
}

/// Does what writes to the terminal while no bar is drawn there.
pub fn above_bars<R>(write: impl FnOnce() -> R) -> R {
    match style() {
        Style::Bars => BARS.suspend(write),
        Style::Plain | Style::None => write(),
    }
}

/// When a job is shown.
#[derive(Clone, Copy, PartialEq)]
enum Patience {
    /// At once in plain text, as a bar after a moment.
    Little,
    /// When it takes longer than a second.
    Much,
}

impl Patience {
    fn delay(self, style: Style) -> Duration {
        match (self, style) {
            (Self::Little, Style::Bars) => Duration::from_millis(250),
            (Self::Little, Style::Plain | Style::None) => Duration::ZERO,
            (Self::Much, _) => Duration::from_secs(1),
        }
    }
}

/// One step of a command, which a library job advances. It is shown from the moment its size is known.
pub struct Bar {
    bar: ProgressBar,
    shared: Arc<Shared>,
    watcher: Option<JoinHandle<()>>,
}

/// What a bar and the thread that shows it have in common.
struct Shared {
    what: String,
    unit: Unit,
    stage: Mutex<Stage>,
    changed: Condvar,
}

#[derive(Clone, Copy, PartialEq)]
enum Stage {
    Waiting,
    Begun,
    Ended,
}

impl Shared {
    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, stage: Stage) {
        *self.stage() = stage;
        self.changed.notify_all();
    }

    /// Waits until the job has begun. Returns whether it is still going on.
    fn begun(&self) -> bool {
        let waited = self.changed.wait_while(self.stage(), |stage| *stage == Stage::Waiting);
        *waited.unwrap_or_else(PoisonError::into_inner) == Stage::Begun
    }

    /// Waits so long, or until the job has ended. Returns whether it is still going on.
    fn goes_on(&self, time: Duration) -> bool {
        let waited = self.changed.wait_timeout_while(self.stage(), time, |stage| *stage != Stage::Ended);
        *waited.unwrap_or_else(PoisonError::into_inner).0 != Stage::Ended
    }
}

impl Bar {
    /// A step that does `what` (in words such as "quantizing"), counted in `unit`.
    pub fn new(unit: Unit, what: impl Into<String>) -> Self {
        Self::shown_by(style(), Patience::Little, unit, what.into())
    }

    /// The same for what is usually done in no time: it is shown if it takes longer than a second.
    pub fn patient(unit: Unit, what: impl Into<String>) -> Self {
        Self::shown_by(style(), Patience::Much, unit, what.into())
    }

    /// A step whose size is not known, shown if it takes longer than a second.
    pub fn waiting(what: impl Into<String>) -> Self {
        let bar = Self::patient(Unit::Nothing, what);
        bar.begin();
        bar
    }

    /// Shows the step though its size is not known.
    pub fn begin(&self) {
        self.shared.enter(Stage::Begun);
    }

    fn shown_by(style: Style, patience: Patience, unit: Unit, what: String) -> Self {
        let bar = ProgressBar::hidden();
        let stage = Mutex::new(Stage::Waiting);
        let what = escape::line(&what).into_owned();
        let shared = Arc::new(Shared { what, unit, stage, changed: Condvar::new() });
        let watched = (bar.clone(), shared.clone());
        let watch = move || {
            let (bar, shared) = watched;
            let going_on = shared.begun() && shared.goes_on(patience.delay(style));
            match style {
                Style::Bars if going_on => draw(&bar, &shared),
                Style::Plain if going_on || patience == Patience::Little => write(&bar, &shared),
                Style::Bars | Style::Plain | Style::None => {}
            }
        };
        // Where the system refuses the thread, nothing is shown.
        let watcher = match style {
            Style::Bars | Style::Plain => Builder::new().name("quern-progress".into()).spawn(watch).ok(),
            Style::None => None,
        };
        Self { bar, shared, watcher }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.shared.enter(Stage::Ended);
        if let Some(watcher) = self.watcher.take() {
            let _ = watcher.join();
        }
        self.bar.finish_and_clear();
    }
}

impl Progress for Bar {
    fn total(&self, units: u64) {
        self.bar.set_length(units);
        self.bar.reset_elapsed();
        self.begin();
    }

    fn advance(&self, units: u64) {
        self.bar.inc(units);
    }

    fn resume(&self, units: u64) {
        self.bar.inc(units);
        // Neither speed nor time left are to count them.
        self.bar.tick();
        self.bar.reset_eta();
    }

    fn step(&self, what: &str) {
        self.bar.set_message(escape::line(what).into_owned());
    }
}

/// Shows the bar while the job goes on.
fn draw(bar: &ProgressBar, shared: &Arc<Shared>) {
    let template = match (&shared.unit, bar.length()) {
        (Unit::Nothing, _) | (_, None) => "{what} {counts} {time}  {wide_msg}",
        _ => "{what} [{bar:16}] {counts}  {rate}  {left}  {wide_msg}",
    };
    let Ok(style) = ProgressStyle::with_template(template) else { return };
    let own = shared.clone();
    let what = move |_: &ProgressState, out: &mut dyn std::fmt::Write| {
        let _ = write!(out, "{}", own.what);
    };
    let key = |text: fn(&Unit, &ProgressState) -> String| {
        let shared = shared.clone();
        move |state: &ProgressState, out: &mut dyn std::fmt::Write| {
            let _ = write!(out, "{}", text(&shared.unit, state));
        }
    };
    let style = style
        .with_key("what", what)
        .with_key("counts", key(|unit, state| unit.of_total(state.pos(), state.len())))
        .with_key("rate", key(|unit, state| unit.rate(state.per_sec())))
        .with_key("left", key(|_, state| words::left(state.pos(), state.len(), state.per_sec())))
        .with_key("time", key(|_, state| words::time(state.elapsed())))
        .progress_chars("=> ");
    BARS.add(bar.clone()).set_style(style);
    while shared.goes_on(TICK) {
        bar.tick();
    }
}

/// Writes a line at the start of the job, now and then while it goes on, and at its end.
fn write(bar: &ProgressBar, shared: &Shared) {
    let started = Instant::now();
    messages::line(words::start(&shared.what, &shared.unit, bar.length()));
    let mut last = (started, (0, String::new()));
    while shared.goes_on(pause(started.elapsed())) {
        // Also lets the bar measure its speed.
        bar.tick();
        let now = (bar.position(), bar.message());
        if now != last.1 || last.0.elapsed() >= LONGEST_PAUSE {
            let (position, message) = (now.0, now.1.clone());
            messages::line(words::middle(
                &shared.what,
                &shared.unit,
                (position, bar.length()),
                bar.per_sec(),
                &message,
            ));
            last = (Instant::now(), now);
        }
    }
    messages::line(words::end(&shared.what, &shared.unit, (bar.position(), bar.length()), started.elapsed()));
}

const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The time between two lines of a job that has taken so long.
fn pause(elapsed: Duration) -> Duration {
    (elapsed / 20).clamp(Duration::from_secs(2), LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_get_rarer() {
        let seconds = |s| pause(Duration::from_secs(s)).as_secs_f64();
        assert_eq!([0, 40, 100, 600, 36_000].map(seconds), [2.0, 2.0, 5.0, 30.0, 30.0]);
    }

    #[test]
    fn a_bar_counts_whatever_shows_it() {
        for style in [Style::Bars, Style::None] {
            let bar = Bar::shown_by(style, Patience::Little, Unit::Runs, "testing".to_owned());
            bar.total(10);
            bar.resume(4);
            bar.advance(3);
            assert_eq!((bar.bar.position(), bar.bar.length()), (7, Some(10)));
        }
    }
}
