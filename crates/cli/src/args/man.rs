//! Arguments of `quern man`.

use std::path::PathBuf;

use clap::Args;

const EXAMPLES: &str = "\
Examples:
  Read the manual page of quern itself:
    quern man | man -l -

  Write the pages of all commands where man finds them:
    quern man -o ~/.local/share/man/man1";

/// Arguments of `quern man`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Man {
    /// Directory to write one page for each command to; existing pages are replaced [default: standard output, one page]
    #[arg(short, long, value_name = "DIR")]
    pub output: Option<PathBuf>,
}
