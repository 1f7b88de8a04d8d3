//! `quern demo`: the whole mill on the small model that comes with quern.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, bail};
use quern_model::GgufView;
use quern_quantize::job::{self, Options};
use quern_quantize::recipe::FileType;
use quern_run::{BenchOptions, GenerateOptions, PerplexityOptions, SamplingOptions};
use quern_tensor_io::{Checkpoint, NoProgress, Progress};

use super::{Outcome, inspect, load, print, read_text, tell};
use crate::progress::{Bar, Unit};
use crate::{args, format};

/// From large to small; the first is the yardstick.
const TYPES: [FileType; 9] = [
    FileType::F16,
    FileType::Q8_0,
    FileType::Q6K,
    FileType::Q5KM,
    FileType::Q4KM,
    FileType::IQ4XS,
    FileType::Q4_0,
    FileType::Q3KM,
    FileType::Q2K,
];

/// A type is good if its perplexity is at most this much above the yardstick's.
const GOOD: f64 = 1.05;

/// What the demo learns of one type.
struct Ground {
    file_type: FileType,
    path: PathBuf,
    size: u64,
    bits_per_weight: f64,
    seconds: f64,
    perplexity: f64,
    prompt_speed: f64,
    generate_speed: f64,
}

/// Quantizes to every type of [`TYPES`], inspects one, measures all, and lets the smallest good one talk.
pub fn run(args: &args::Demo) -> Outcome {
    let fixtures = fixtures(args.fixtures.as_deref())?;
    let (model, text) = (fixtures.join("bookworm-4m"), fixtures.join("text/validation.txt"));
    let text = read_text(&text)?;
    let threads = args.threads.count();
    let work = tempfile::tempdir().context("cannot make a temporary directory")?;

    let checkpoint = Checkpoint::open(&model)?;
    print(&format!(
        "{}\n",
        inspect::describe(&model.display().to_string(), &quern_inspect::summarize(&checkpoint))
    ))?;
    let view = GgufView::new(&checkpoint)?;
    let mut ground = Vec::new();
    let bar = Bar::new(Unit::Runs);
    bar.total(TYPES.len() as u64);
    for file_type in TYPES {
        bar.step(&format!("grinding to {}", file_type.name().to_lowercase()));
        ground.push(grind(&view, file_type, work.path(), &text, threads)?);
        bar.advance(1);
    }
    drop(bar);

    let yardstick = ground[0].perplexity;
    let rows = ground.iter().map(|g| {
        vec![
            g.file_type.name().to_lowercase(),
            format::bytes(g.size),
            format!("{:.2}", g.bits_per_weight),
            format!("{:.3}", g.perplexity),
            format!("{:+.1} %", 100.0 * (g.perplexity / yardstick - 1.0)),
            format!("{:.0} ms", 1000.0 * g.seconds),
            format!("{:.0}", g.prompt_speed),
            format!("{:.0}", g.generate_speed),
        ]
    });
    let header = [
        "type",
        "size",
        "bits/weight",
        "perplexity",
        "vs f16",
        "quantized in",
        "prompt tok/s",
        "generate tok/s",
    ];
    print(&format!("{}\n", format::table(&header, &[1, 2, 3, 4, 5, 6, 7], rows)))?;

    let good = ground.iter().filter(|g| g.perplexity <= GOOD * yardstick).min_by_key(|g| g.size);
    let best = good.unwrap_or(&ground[0]);
    let name = best.file_type.name().to_lowercase();
    let summary = quern_inspect::summarize(&Checkpoint::open(&best.path)?);
    print(&format!(
        "\n{}\nThe smallest within {:.0} % of f16 is {name}. It tells:\n\n",
        inspect::describe(&format!("bookworm-4m as {name}"), &summary),
        100.0 * (GOOD - 1.0)
    ))?;
    let prompt = "It was a dark night, and the old captain";
    let options = GenerateOptions {
        limit: Some(120),
        sampling: SamplingOptions {
            temperature: 0.7,
            repeat_penalty: 1.1,
            seed: 4,
            ..SamplingOptions::default()
        },
        ..GenerateOptions::default()
    };
    tell(&load(&best.path, threads)?, prompt, &options)?;
    Ok(ExitCode::SUCCESS)
}

/// Quantizes to one type and measures the result.
fn grind(
    view: &GgufView<'_>,
    file_type: FileType,
    work: &Path,
    text: &str,
    threads: usize,
) -> anyhow::Result<Ground> {
    let path = work.join(format!("bookworm-4m-{}.gguf", file_type.name()));
    let started = Instant::now();
    let plan = job::plan(view, Options { threads, ..Options::new(file_type) })?;
    job::run(&plan, &path, &NoProgress)?;
    let seconds = started.elapsed().as_secs_f64();
    let model = load(&path, threads)?;
    let chunks = PerplexityOptions { context: 512, chunks: Some(16) };
    let report = quern_run::perplexity(&model, None, text, chunks, &NoProgress)?;
    let speed =
        quern_run::bench(&model, BenchOptions { prompt: 256, generate: 64, repetitions: 2 }, &NoProgress)?;
    Ok(Ground {
        file_type,
        size: plan.file_size(),
        bits_per_weight: plan.bits_per_weight(),
        seconds,
        perplexity: report.perplexity,
        prompt_speed: speed.prompt_tokens_per_second.unwrap_or(0.0),
        generate_speed: speed.generate_tokens_per_second.unwrap_or(0.0),
        path,
    })
}

/// Where the demo's model lies: as told, in the working directory, or in the checkout quern was built from.
fn fixtures(told: Option<&Path>) -> anyhow::Result<PathBuf> {
    let built_from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures");
    let candidates = match told {
        Some(path) => vec![path.to_path_buf()],
        None => vec![PathBuf::from("fixtures"), built_from],
    };
    match candidates.iter().find(|c| c.join("bookworm-4m/config.json").is_file()) {
        Some(found) => Ok(found.clone()),
        None => bail!(
            "the demo's model is not in {}; run in a checkout of quern or give its fixtures folder with --fixtures",
            candidates[0].display()
        ),
    }
}
