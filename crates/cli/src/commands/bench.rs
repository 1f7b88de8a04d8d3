//! `quern bench`: prompt and generation speed.

use std::process::ExitCode;

use quern_run::{BenchOptions, BenchReport};

use super::{Outcome, load_in, print, print_json};
use crate::progress::{Bar, Unit};
use crate::{args, format};

/// Measures and prints a table as llama-bench's.
pub fn run(args: &args::Bench) -> Outcome {
    let model = load_in(&args.model, args.threads.count(), args.load.load_in)?;
    let bar = Bar::new(Unit::Runs);
    let options =
        BenchOptions { prompt: args.prompt, generate: args.generate, repetitions: args.repetitions };
    let report = quern_run::bench(&model, options, &bar)?;
    drop(bar);
    if args.json {
        print_json(&report)?;
        return Ok(ExitCode::SUCCESS);
    }
    let name = args
        .model
        .file_name()
        .map_or_else(|| args.model.display().to_string(), |n| n.to_string_lossy().into());
    let rows = speeds(&report).into_iter().map(|(test, speed, deviation)| {
        vec![
            name.clone(),
            format::bytes(model.file_size()),
            format::count(model.parameters()),
            report.threads.to_string(),
            test,
            format!("{speed:.2} ± {deviation:.2}"),
        ]
    });
    let header = ["model", "size", "parameters", "threads", "test", "tokens/s"];
    print(&format!("{}\n", format::table(&header, &[1, 2, 3, 5], rows)))?;
    Ok(ExitCode::SUCCESS)
}

/// The tests that ran: name as llama-bench has it, mean, standard deviation.
fn speeds(report: &BenchReport) -> Vec<(String, f64, f64)> {
    let tests = [
        (format!("pp{}", report.prompt), report.prompt_tokens_per_second, report.prompt_stddev),
        (format!("tg{}", report.generate), report.generate_tokens_per_second, report.generate_stddev),
    ];
    tests
        .into_iter()
        .filter_map(|(name, mean, deviation)| Some((name, mean?, deviation.unwrap_or(0.0))))
        .collect()
}
