//! Arguments of `quern doctor`.

use clap::Args;

use super::shared::Threads;

const EXAMPLES: &str = "\
Examples:
  Show what this machine offers and what is missing:
    quern doctor

  The same for a bug report:
    quern doctor --json > doctor.json";

/// Arguments of `quern doctor`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Doctor {
    /// Make no network requests: the Hub is not asked
    #[arg(long)]
    pub offline: bool,
    /// Measure nothing: neither memory nor disks
    #[arg(long)]
    pub no_measure: bool,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub threads: Threads,
}
