//! `quern bench`: prompt and generation speed.

use std::process::ExitCode;

use quern_model::Config;
use quern_run::{Bandwidths, BenchOptions, BenchReport, ReadLimit, SessionOptions};
use serde_json::{Value, json};

use super::placement::{self, Planned};
use super::{Outcome, load_placed, print, print_json, short_name, warn_of_memory};
use crate::progress::{Bar, Unit};
use crate::{args, format, messages, model};

/// Measures and prints a table as llama-bench's, with the share of what memory allows.
pub fn run(args: &args::Bench) -> Outcome {
    model::state(&args.stated);
    let (kv, limit, threads) =
        (args.placement.kv, args.placement.devices.options().memory.ram, args.threads.count());
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
        return placement::dry_run(&models, &args.placement.devices, threads, false, args.json);
    }
    let most = limit.map_or(u64::MAX, |limit| limit / 2);
    let mut bandwidths = Bandwidths::default();
    if placement::gpus(&args.placement.devices)?.is_empty() {
        // Before any model: the measurement itself takes memory, for a moment. Where there are GPUs, it is not known yet
        // whether RAM gets layers.
        bandwidths.ram(threads, most);
    }
    let mut options = BenchOptions {
        prompt: args.prompt.clone(),
        generate: args.generate.clone(),
        depth: args.depth.clone(),
        repetitions: args.repetitions,
        kv,
        bandwidth: None,
    };
    let (mut reports, mut rows, mut limits) = (Vec::new(), Vec::new(), Vec::new());
    for path in args.models() {
        let placed = load_placed(&planned(path), threads, &args.placement.devices)?;
        let model = &placed.model;
        let session = session(model.config());
        warn_of_memory(model, session)?;
        let limit = bandwidths.limit(model, most)?;
        options.bandwidth = limit.as_ref().map(ReadLimit::bytes_per_second);
        limits.extend(limit.map(|limit| (short_name(path), limit_text(&limit, threads))));
        let bar = Bar::new(Unit::Runs, format!("measuring {}", short_name(path)));
        let report = quern_run::bench(model, &options, &bar)?;
        drop(bar);
        let sizes = [format::bytes(model.file_size()), format::count(model.parameters())];
        rows.extend(table_rows(&short_name(path), &sizes, &report));
        let mut value = json!({"model": path, "file_size": model.file_size()});
        if let (Value::Object(value), Value::Object(report)) = (&mut value, serde_json::to_value(&report)?) {
            value.extend(report);
        }
        let placement = placed.report(&args.placement.devices, session, 1);
        if let Some(placement) = placement.as_ref().filter(|placement| placement.is_split()) {
            messages::info(format_args!("{}\n{}", path.display(), placement::run_table(placement)));
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
    print(&format!("{}\n{}", format::table(&header, &[1, 2, 3, 6, 7, 8], rows), limit_lines(&limits)))?;
    Ok(ExitCode::SUCCESS)
}

/// One line if all models have the same limit, else one for each.
fn limit_lines(limits: &[(String, String)]) -> String {
    match limits {
        [(_, first), rest @ ..] if rest.iter().all(|(_, limit)| limit == first) => {
            format!("limit: {first}\n")
        }
        _ => limits.iter().map(|(name, limit)| format!("limit of {name}: {limit}\n")).collect(),
    }
}

/// A limit, and the memories it comes from.
fn limit_text(limit: &ReadLimit, threads: usize) -> String {
    let total = rate(limit.bytes_per_second());
    match &*limit.memories {
        [one] => match &one.gpu {
            Some(gpu) => format!("{total}, memory of {gpu}"),
            None => format!("{total} read from memory by {threads} threads"),
        },
        memories => {
            let parts = memories.iter().map(|memory| {
                let (bytes, rate) = (format::bytes(memory.bytes_per_token), rate(memory.bytes_per_second));
                match &memory.gpu {
                    Some(gpu) => format!("{bytes} at {rate}, memory of {gpu}"),
                    None => format!("{bytes} at {rate} read from RAM by {threads} threads"),
                }
            });
            format!("{total}; per token {}", parts.collect::<Vec<_>>().join(" and "))
        }
    }
}

/// Bytes a second: `21.3 GB/s`, `2.91 TB/s`.
fn rate(bytes_per_second: f64) -> String {
    match bytes_per_second {
        fast if fast >= 1e12 => format!("{:.2} TB/s", fast / 1e12),
        slow => format!("{:.1} GB/s", slow / 1e9),
    }
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

#[cfg(test)]
mod tests {
    use quern_run::MemorySpeed;

    use super::*;

    #[test]
    fn limits_name_what_was_measured() {
        let memory = |gpu: Option<&str>, bytes_per_second| MemorySpeed {
            gpu: gpu.map(str::to_owned),
            bytes_per_token: 1 << 30,
            bytes_per_second,
        };
        let (card, ram) = (memory(Some("NVIDIA H100"), 2.912e12), memory(None, 2e10));
        let text = |memories: &[&MemorySpeed]| {
            limit_text(&ReadLimit { memories: memories.iter().map(|&memory| memory.clone()).collect() }, 8)
        };
        assert_eq!(text(&[&card]), "2.91 TB/s, memory of NVIDIA H100");
        assert_eq!(text(&[&ram]), "20.0 GB/s read from memory by 8 threads");
        assert_eq!(
            text(&[&ram, &card]),
            "39.7 GB/s; per token 1.00 GiB at 20.0 GB/s read from RAM by 8 threads and 1.00 GiB at 2.91 TB/s, memory of \
             NVIDIA H100"
        );
        let limits =
            [("a", "1 GB/s"), ("b", "1 GB/s"), ("c", "2 GB/s")].map(|(a, b)| (a.to_owned(), b.to_owned()));
        assert_eq!(limit_lines(&limits[..2]), "limit: 1 GB/s\n");
        assert_eq!(limit_lines(&limits[1..]), "limit of b: 1 GB/s\nlimit of c: 2 GB/s\n");
        assert_eq!(limit_lines(&[]), "");
    }
}
