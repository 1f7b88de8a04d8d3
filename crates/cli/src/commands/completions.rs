//! `quern completions`: the script that lets a shell complete commands, options and their values.

use std::process::ExitCode;

use clap::CommandFactory;

use super::{Outcome, print};
use crate::args;

/// Prints the script of one shell.
pub fn run(args: &args::Completions) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut args::Cli::command(), "quern", &mut script);
    print(&String::from_utf8(script)?)?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, ValueEnum};
    use clap_complete::Shell;

    use crate::args::Cli;

    #[test]
    fn every_shell_completes_commands_options_and_values() {
        for shell in Shell::value_variants() {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "quern", &mut script);
            let script = String::from_utf8(script).unwrap();
            for part in ["quantize", "imatrix", "progress", "load-in"] {
                assert!(script.contains(part), "{shell}: {part}");
            }
            // PowerShell and elvish complete no values.
            if [Shell::Bash, Shell::Zsh, Shell::Fish].contains(shell) {
                for value in ["iq4_xs", "gptq_v2", "bf16"] {
                    assert!(script.contains(value), "{shell}: {value}");
                }
            }
        }
    }
}
