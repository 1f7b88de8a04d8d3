//! The program `quern`: downloads, quantizes, converts, inspects, runs and measures language models.
//!
//! Results go to standard output, everything else to standard error. Exit code 0: done, 1: failed,
//! 2: wrong usage. `quern diff` has 0 for models that are the same, 1 for differences, 2 for everything else.

mod args;
mod changed;
mod commands;
mod format;
mod messages;
mod model;
mod progress;
mod remedy;
mod signals;

use std::io::ErrorKind;
use std::process::ExitCode;

fn main() -> ExitCode {
    if let Some(code) = quern_model::chat::enter() {
        return code;
    }
    signals::prepare();
    let cli = args::Cli::from_args(std::env::args_os()).unwrap_or_else(|error| messages::wrong_usage(&error));
    // Of a comparison, 1 means that there are differences.
    let is_comparison = matches!(cli.command, args::Command::Diff(_));
    let failure = if is_comparison { ExitCode::from(2) } else { ExitCode::FAILURE };
    messages::set_quiet(cli.output.quiet);
    progress::set_style(cli.output.style());
    let result = match cli.command {
        args::Command::Demo(args) => commands::demo::run(&args),
        args::Command::Quantize(args) => commands::quantize::run(&args),
        args::Command::Convert(args) => commands::convert::run(&args),
        args::Command::Imatrix(args) => commands::imatrix::run(&args),
        args::Command::Inspect(args) => commands::inspect::run(&args),
        args::Command::Fit(args) => commands::fit::run(&args),
        args::Command::Doctor(args) => commands::doctor::run(&args),
        args::Command::Diff(args) => commands::diff::run(&args),
        args::Command::Run(args) => commands::run::run(&args),
        args::Command::Perplexity(args) => commands::perplexity::run(&args),
        args::Command::Bench(args) => commands::bench::run(&args),
        args::Command::Pull(args) => commands::pull::run(&args),
        args::Command::Completions(args) => commands::completions::run(&args),
        args::Command::Man(args) => commands::man::run(&args),
    };
    let result = changed::checked(result);
    signals::say_what_was_swept();
    match result {
        Ok(code) => code,
        // Whoever read our output has seen enough (`quern inspect … | head`).
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            messages::line(format_args!("error: {}", remedy::described(&error)));
            failure
        }
    }
}

/// Whether the reader of our output has left.
pub(crate) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == ErrorKind::BrokenPipe)
    })
}
