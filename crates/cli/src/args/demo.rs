//! Arguments of `quern demo`.

use std::path::PathBuf;

use clap::Args;

use super::shared::Threads;

const EXAMPLES: &str = "\
Examples:
  Run the demo:
    quern demo

  Run it where quern was installed without the demo's model:
    quern demo --fixtures ~/src/quern/fixtures";

/// Arguments of `quern demo`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Demo {
    /// Directory with the demo model and its texts [default: what was installed with quern, or the
    /// fixtures directory of the checkout]
    #[arg(long, value_name = "DIR")]
    pub fixtures: Option<PathBuf>,
    #[command(flatten)]
    pub threads: Threads,
}
