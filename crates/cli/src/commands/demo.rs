//! `quern demo`: quantizes, measures and converts the small model that comes with quern.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::bail;
use quern_model::{Packed, View};
use quern_quantize::bitsandbytes::{self, Kind};
use quern_quantize::calibrated;
use quern_quantize::calibration::{SampleOptions, TextSource, samples};
use quern_quantize::gptq::Settings;
use quern_quantize::job::{self, Options};
use quern_quantize::recipe::FileType;
use quern_run::{BenchOptions, GenerateOptions, PerplexityOptions, SamplingOptions};
use quern_tensor_io::output::ScratchFolder;
use quern_tensor_io::scheme::{CodeFormat, GptqFormat};
use quern_tensor_io::{Checkpoint, NoProgress, Progress};

use super::{Outcome, generate, inspect, load, print, read_text};
use crate::progress::{Bar, Unit};
use crate::{args, format};

/// What the demo quantizes to.
#[derive(Clone, Copy, PartialEq)]
enum Target {
    Gguf(FileType),
    Bitsandbytes(Kind),
    /// 4 bits, groups of this many columns.
    Gptq(usize),
}

impl Target {
    fn name(self) -> String {
        match self {
            Self::Gguf(file_type) => file_type.name().to_lowercase(),
            Self::Bitsandbytes(kind) => kind.name().to_owned(),
            Self::Gptq(group) => format!("gptq 4-bit g{group}"),
        }
    }
}

/// From large to small in each format; the first is the reference.
const TARGETS: [Target; 13] = [
    Target::Gguf(FileType::F16),
    Target::Gguf(FileType::Q8_0),
    Target::Gguf(FileType::Q6K),
    Target::Gguf(FileType::Q5KM),
    Target::Gguf(FileType::Q4KM),
    Target::Gguf(FileType::IQ4XS),
    Target::Gguf(FileType::Q4_0),
    Target::Gguf(FileType::Q3KM),
    Target::Gguf(FileType::Q2K),
    Target::Gptq(32),
    Target::Gptq(128),
    Target::Bitsandbytes(Kind::Int8),
    Target::Bitsandbytes(Kind::Nf4),
];

/// A type is good if its perplexity is at most this many times the reference's.
const GOOD: f64 = 1.05;

/// What the demo measures of one target.
struct Measured {
    target: Target,
    path: PathBuf,
    size: u64,
    bits_per_weight: f64,
    seconds: f64,
    perplexity: f64,
    prompt_speed: f64,
    generate_speed: f64,
}

/// Quantizes to every target, inspects one, measures all, converts some, and generates with the smallest good GGUF.
pub fn run(args: &args::Demo) -> Outcome {
    let fixtures = fixtures(args.fixtures.as_deref())?;
    let (model, text) = (fixtures.join("bookworm-4m"), fixtures.join("text/validation.txt"));
    let text = read_text(&text)?;
    let threads = args.threads.count();
    let work = ScratchFolder::beside(&std::env::temp_dir().join("demo"))?;

    let checkpoint = Checkpoint::open(&model)?;
    print(&format!(
        "{}\n",
        inspect::describe(&model.display().to_string(), &quern_inspect::summarize(&checkpoint))
    ))?;
    let calibration = read_text(&fixtures.join("text/calibration.txt"))?;
    let mut results = Vec::new();
    let bar = Bar::new(Unit::Runs, "quantizing and measuring");
    bar.total(TARGETS.len() as u64);
    for target in TARGETS {
        bar.step(&target.name());
        let path = work.path().join(target.name());
        let started = Instant::now();
        make(&checkpoint, target, &path, &calibration, threads)?;
        let seconds = started.elapsed().as_secs_f64();
        results.push(measure(target, path, seconds, &text, threads)?);
        bar.advance(1);
    }
    drop(bar);

    let reference = results[0].perplexity;
    let rows = results.iter().map(|g| {
        vec![
            g.target.name(),
            format::bytes(g.size),
            format!("{:.2}", g.bits_per_weight),
            format!("{:.3}", g.perplexity),
            format!("{:+.1} %", 100.0 * (g.perplexity / reference - 1.0)),
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

    convert(&results, work.path(), threads)?;

    let gguf = results.iter().filter(|g| matches!(g.target, Target::Gguf(_)));
    let good = gguf.filter(|g| g.perplexity <= GOOD * reference).min_by_key(|g| g.size);
    let best = good.unwrap_or(&results[0]);
    let name = best.target.name();
    let summary = quern_inspect::summarize(&Checkpoint::open(&best.path)?);
    print(&format!(
        "\n{}\nThe smallest GGUF within {:.0} % of f16 is {name}. It generates:\n\n",
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
    generate(&load(&best.path, threads)?, prompt, &options)?;
    Ok(ExitCode::SUCCESS)
}

/// Converts three of the results to other formats, and reports what verification found.
fn convert(results: &[Measured], work: &Path, threads: usize) -> anyhow::Result<()> {
    let ways = [
        (Target::Gguf(FileType::F16), quern_convert::Target::Safetensors),
        (Target::Gptq(128), quern_convert::Target::Gguf),
        (Target::Gptq(128), quern_convert::Target::Packed(CodeFormat::Gptq(GptqFormat::V2))),
    ];
    let mut text = String::from("\n");
    let bar = Bar::new(Unit::Runs, "converting and verifying");
    bar.total(ways.len() as u64);
    for (number, (from, to)) in ways.into_iter().enumerate() {
        let Some(source) = results.iter().find(|g| g.target == from) else { continue };
        let checkpoint = Checkpoint::open(&source.path)?;
        let plan = quern_convert::plan(
            &checkpoint,
            quern_convert::Options { threads, ..quern_convert::Options::new(to) },
        )?;
        let out = work.join(format!("converted-{number}"));
        quern_convert::run(&plan, &out, &NoProgress)?;
        let found = quern_convert::verify(&plan, &out, &NoProgress)?;
        if let Some(first) = found.mismatches.first() {
            bail!("{} to {}: {}", from.name(), to.name(), first.what);
        }
        text += &format!(
            "{} to {}: {} of {} tensors exactly the same numbers\n",
            from.name(),
            to.name(),
            found.exact,
            found.tensors
        );
        bar.advance(1);
    }
    drop(bar);
    print(&text)
}

/// Quantizes to one target.
fn make(
    checkpoint: &Checkpoint,
    target: Target,
    path: &Path,
    calibration: &str,
    threads: usize,
) -> anyhow::Result<()> {
    match target {
        Target::Gguf(file_type) => {
            let view = View::gguf(checkpoint, Packed::Refused)?;
            let plan = job::plan(&view, Options { threads, ..Options::new(file_type) })?;
            job::run(&plan, path, &NoProgress)?;
        }
        Target::Bitsandbytes(kind) => {
            let options = bitsandbytes::Options { threads, ..bitsandbytes::Options::new(kind) };
            bitsandbytes::quantize(checkpoint, path, options, &NoProgress)?;
        }
        Target::Gptq(group) => {
            let model = load(checkpoint.path(), threads)?;
            let settings = Settings { group_size: Some(group), ..Settings::default() };
            let source = TextSource::Text(calibration.to_owned());
            let samples = samples(model.tokenizer()?, source, SampleOptions { samples: 64, context: 256 })?;
            let options = calibrated::gptq::Options::new(settings, samples);
            let plan = calibrated::gptq::plan(&model, &options)?;
            calibrated::gptq::run(&model, &plan, &options, path, &NoProgress)?;
        }
    }
    Ok(())
}

/// Measures what was made.
fn measure(
    target: Target,
    path: PathBuf,
    seconds: f64,
    text: &str,
    threads: usize,
) -> anyhow::Result<Measured> {
    let model = load(&path, threads)?;
    let summary = quern_inspect::summarize(model.checkpoint());
    let chunks = PerplexityOptions { chunks: Some(16), ..PerplexityOptions::default() };
    let report = quern_run::perplexity(&model, None, text, chunks, &NoProgress)?;
    let tests =
        BenchOptions { prompt: vec![256], generate: vec![64], repetitions: 2, ..BenchOptions::default() };
    let speed = quern_run::bench(&model, &tests, &NoProgress)?;
    Ok(Measured {
        target,
        size: model.file_size(),
        bits_per_weight: summary.bits_per_weight,
        seconds,
        perplexity: report.perplexity,
        prompt_speed: speed.prompt_tokens_per_second.unwrap_or(0.0),
        generate_speed: speed.generate_tokens_per_second.unwrap_or(0.0),
        path,
    })
}

/// The folder of the demo's model: the given one, in the working directory, where packages of quern have it, or in the
/// checkout quern was built from.
fn fixtures(given: Option<&Path>) -> anyhow::Result<PathBuf> {
    // `bin/quern` and `share/quern/demo`, below /usr or a Python environment; the program may be called through a link.
    let program = std::env::current_exe().and_then(|path| path.canonicalize()).unwrap_or_default();
    let installed = program.parent().and_then(Path::parent).map(|prefix| prefix.join("share/quern/demo"));
    let built_from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures");
    let candidates = match given {
        Some(path) => vec![path.to_path_buf()],
        None => [PathBuf::from("fixtures")].into_iter().chain(installed).chain([built_from]).collect(),
    };
    match candidates.iter().find(|c| c.join("bookworm-4m/config.json").is_file()) {
        Some(found) => Ok(found.clone()),
        None => bail!(
            "the demo's model is in none of {}; give the folder fixtures/ of a checkout of quern with --fixtures",
            candidates.iter().map(|c| c.display().to_string()).collect::<Vec<_>>().join(", ")
        ),
    }
}
