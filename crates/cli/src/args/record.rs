//! Options for what an output says of itself.

use clap::Args;

/// Whether the output records how it was made.
#[derive(Debug, Args)]
#[command(next_help_heading = "Record")]
pub struct NoProvenance {
    /// Do not record source, command and figures in the output
    ///
    /// Without this option a GGUF file has them in its metadata key quern.provenance, and a directory in the file
    /// quern.json. They name no folder, user, machine or time. What a source has recorded is copied in any case.
    #[arg(long)]
    pub no_provenance: bool,
}

/// Whether a model card is written.
#[derive(Debug, Args)]
#[command(next_help_heading = "Record")]
pub struct CardOptions {
    /// Write a model card for the Hugging Face Hub: README.md in the output directory, or beside the GGUF file
    ///
    /// In a directory, the card of the source stays as README.source.md. Beside a GGUF file, an existing README.md is
    /// refused unless --force is given.
    #[arg(long, conflicts_with = "no_provenance")]
    pub card: bool,
}
