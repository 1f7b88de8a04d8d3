//! `quern man`: manual pages, made of the same definitions as `--help`.

use std::fs;
use std::process::ExitCode;

use anyhow::Context;
use clap::CommandFactory;
use clap_mangen::Man;

use super::{Outcome, print};
use crate::args;

/// Writes the pages of all commands, or prints that of quern.
pub fn run(args: &args::Man) -> Outcome {
    let Some(folder) = &args.output else {
        let mut page = Vec::new();
        Man::new(args::Cli::command()).render(&mut page)?;
        print(&String::from_utf8(page)?)?;
        return Ok(ExitCode::SUCCESS);
    };
    fs::create_dir_all(folder).with_context(|| format!("{}: cannot make the directory", folder.display()))?;
    clap_mangen::generate_to(args::Cli::command(), folder)
        .with_context(|| format!("{}: cannot write the manual pages", folder.display()))?;
    Ok(ExitCode::SUCCESS)
}
