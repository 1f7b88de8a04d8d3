//! What commands say on standard error beside their results: notes, warnings, figures. `--quiet` leaves out all but
//! warnings. Lines appear above the progress bars that are being drawn. Names and texts of files in them are escaped.

use std::borrow::Cow;
use std::ffi::OsString;
use std::fmt::Display;
use std::io::Write;
use std::sync::OnceLock;

use crate::format::escape;
use crate::progress;

/// Whether notes are left out.
static QUIET: OnceLock<bool> = OnceLock::new();

/// Sets what `--quiet` says; the first call counts.
pub fn set_quiet(quiet: bool) {
    QUIET.get_or_init(|| quiet);
}

/// Something that the user should know and that needs no action.
pub fn note(text: impl Display) {
    info(format_args!("note: {}", escape::sentence(&text.to_string())));
}

/// A line that belongs to no result: figures of a run, what is about to be done.
pub fn info(text: impl Display) {
    if !QUIET.get().copied().unwrap_or_default() {
        line(text);
    }
}

/// Something that may make the result wrong or useless; `--quiet` does not hide it.
pub fn warning(text: impl Display) {
    line(format_args!("warning: {}", escape::sentence(&text.to_string())));
}

/// A line on standard error, whatever the settings. If nobody can read it, it is lost.
pub fn line(text: impl Display) {
    let text = text.to_string();
    let text = escape::text(&text);
    progress::above_bars(|| {
        let _ = writeln!(std::io::stderr(), "{text}");
    });
}

/// Ends the program with clap's message about the command line, or its help. Where an argument has characters that a
/// terminal obeys, the message has no colours and they are escaped.
pub fn wrong_usage(error: &clap::Error) -> ! {
    let shown = |argument: OsString| matches!(escape::text(&argument.to_string_lossy()), Cow::Borrowed(_));
    if std::env::args_os().all(shown) {
        error.exit()
    }
    line(error.render().to_string().trim_end());
    std::process::exit(error.exit_code())
}
