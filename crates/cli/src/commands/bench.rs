//! `quern bench`: prompt and generation speed.

use std::path::Path;
use std::process::ExitCode;

use quern_model::Config;
use quern_run::{BenchOptions, BenchReport, SessionOptions, read_bandwidth};
use serde_json::{Value, json};

use super::placement::{self, Planned};
use super::{Outcome, load_placed, print, print_json, warn_of_memory};
use crate::progress::{Bar, Unit};
use crate::{args, format};

/// Measures and prints a table as llama-bench's, with the share of what memory allows.
pub fn run(args: &args::Bench) -> Outcome {
    let (kv, limit, threads) = (args.placement.kv, args.placement.options().memory.ram, args.threads.count());
    let longest = |list: &[usize]| list.iter().copied().max().unwrap_or(0);
    let context = longest(&args.depth).saturating_add(longest(&args.prompt).max(longest(&args.generate)));
    let session = |config: &Config| {
        // What is out of range is for the measurement to refuse.
        let context = context.clamp(1, config.context_length);
        SessionOptions { context, kv, ..SessionOptions::default() }
    };
    let planned = |path| Planned { path, load_in: args.load.load_in, session: &session, kv, rows: 1 };
    if args.placement.dry_run {
        let models: Vec<_> = args.models().map(planned).collect();
        return placement::dry_run(&models, &args.placement, threads, false, args.json);
    }
    // Before any model: the measurement itself takes memory, for a moment.
    let bandwidth = read_bandwidth(threads, limit.map_or(u64::MAX, |limit| limit / 2));
    let options = BenchOptions {
        prompt: args.prompt.clone(),
        generate: args.generate.clone(),
        depth: args.depth.clone(),
        repetitions: args.repetitions,
        kv,
        bandwidth: Some(bandwidth),
    };
    let (mut reports, mut rows) = (Vec::new(), Vec::new());
    for path in args.models() {
        let placed = load_placed(&planned(path), threads, &args.placement)?;
        let model = &placed.model;
        let session = session(model.config());
        warn_of_memory(model, session)?;
        let bar = Bar::new(Unit::Runs);
        let report = quern_run::bench(model, &options, &bar)?;
        drop(bar);
        let sizes = [format::bytes(model.file_size()), format::count(model.parameters())];
        rows.extend(table_rows(&name(path), &sizes, &report));
        let mut value = json!({"model": path, "file_size": model.file_size()});
        if let (Value::Object(value), Value::Object(report)) = (&mut value, serde_json::to_value(&report)?) {
            value.extend(report);
        }
        let placement = placed.report(&args.placement, session, 1);
        if let Some(placement) = placement.as_ref().filter(|placement| placement.is_split()) {
            eprintln!("{}\n{}", path.display(), placement::run_table(placement));
        }
        value["placement"] = serde_json::to_value(placement)?;
        reports.push(value);
    }
    if args.json {
        match &*reports {
            [report] => print_json(report)?,
            _ => print_json(&reports)?,
        }
        return Ok(ExitCode::SUCCESS);
    }
    let header =
        ["model", "size", "parameters", "threads", "kv", "test", "tokens/s", "read per token", "of limit"];
    print(&format!(
        "{}\nlimit: {:.1} GB/s read from memory by {threads} threads\n",
        format::table(&header, &[1, 2, 3, 6, 7, 8], rows),
        bandwidth / 1e9
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// The last part of a path.
fn name(path: &Path) -> String {
    path.file_name().map_or_else(|| path.display().to_string(), |n| n.to_string_lossy().into())
}

/// A line for each test.
fn table_rows(name: &str, sizes: &[String; 2], report: &BenchReport) -> Vec<Vec<String>> {
    let row = |speed: &quern_run::Speed| {
        vec![
            name.to_owned(),
            sizes[0].clone(),
            sizes[1].clone(),
            report.threads.to_string(),
            report.kv.to_owned(),
            speed.name(),
            format!("{:.2} ± {:.2}", speed.tokens_per_second, speed.stddev),
            speed.bytes_per_token.map_or_else(String::new, format::bytes),
            speed.share_of_limit.map_or_else(String::new, |share| format!("{:.0} %", 100.0 * share)),
        ]
    };
    report.tests.iter().map(row).collect()
}
