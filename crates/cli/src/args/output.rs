//! What every command writes to standard error beside its results.

use clap::{Args, ValueEnum};

use crate::progress::Style;

/// Options of every command.
#[derive(Debug, Args)]
#[command(next_help_heading = "Messages")]
pub struct Output {
    /// How progress is shown on standard error: auto, bar, plain or none
    ///
    /// auto draws bars on a terminal and shows nothing where standard error is a file or a pipe. bar draws bars
    /// everywhere. plain writes a line at the start and end of each step and every few seconds between, without escape
    /// codes, for logs.
    #[arg(
        long,
        global = true,
        value_name = "HOW",
        value_enum,
        default_value = "auto",
        hide_possible_values = true
    )]
    progress: How,
    /// Print errors and warnings only: no progress, no notes, no figures on standard error
    ///
    /// Results on standard output stay. Progress is still shown if --progress asks for it.
    #[arg(short, long, global = true)]
    pub quiet: bool,
}

/// What `--progress` takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum How {
    /// Bars on a terminal, nothing elsewhere.
    Auto,
    /// Bars.
    Bar,
    /// Lines.
    Plain,
    /// Nothing.
    None,
}

impl Output {
    /// How progress is to be shown.
    pub fn style(&self) -> Style {
        match self.progress {
            How::Auto if self.quiet => Style::None,
            How::Auto => Style::of_stderr(),
            How::Bar => Style::Bars,
            How::Plain => Style::Plain,
            How::None => Style::None,
        }
    }
}
