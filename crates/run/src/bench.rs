//! Speed, measured as llama-bench does: random tokens, one warm-up of each test, then the repetitions;
//! tokenization and sampling are excluded, and only the last prompt token passes the head.
//!
//! Generating a token reads every weight once, and the keys and values of all earlier positions. The memory's
//! bandwidth is the limit, and each generation test reports how much of it was reached.

use std::time::Instant;

use quern_tensor_io::Progress;
use serde::Serialize;

use crate::random::Random;
use crate::statistics::mean_and_deviation;
use crate::{Error, KvType, Model, Result, Session, SessionOptions, Wanted, peak_memory_bytes};

/// The tests: every number of tokens at every depth.
#[derive(Clone, Debug, PartialEq)]
pub struct BenchOptions {
    /// Tokens of the prompt tests; 0 leaves one out.
    pub prompt: Vec<usize>,
    /// Tokens of the generation tests; 0 leaves one out.
    pub generate: Vec<usize>,
    /// Positions filled before a test begins.
    pub depth: Vec<usize>,
    /// Measured runs of each.
    pub repetitions: usize,
    /// How keys and values are kept.
    pub kv: KvType,
    /// Bytes a second that the memory which has the model delivers ([`crate::Bandwidths`]), to compare with.
    pub bandwidth: Option<f64>,
}

impl Default for BenchOptions {
    fn default() -> Self {
        Self {
            prompt: vec![512],
            generate: vec![128],
            depth: vec![0],
            repetitions: 5,
            kv: KvType::F16,
            bandwidth: None,
        }
    }
}

/// What a test runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BenchTest {
    /// Tokens in batches.
    Prompt,
    /// One token after the other.
    Generate,
}

/// One test's result.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Speed {
    /// What was run.
    pub test: BenchTest,
    /// So many tokens of it.
    pub tokens: usize,
    /// Positions that were filled before.
    pub depth: usize,
    /// Mean speed.
    pub tokens_per_second: f64,
    /// Standard deviation of it between the runs.
    pub stddev: f64,
    /// Of generation: bytes of weights, keys and values read for a token, on average.
    pub bytes_per_token: Option<u64>,
    /// Of generation: share of the memory's bandwidth that these bytes are, 0 to 1. A model that fits into the
    /// processor's caches may get beyond 1.
    pub share_of_limit: Option<f64>,
}

impl Speed {
    /// The test's name as llama-bench writes it: `pp512`, `tg128`, `tg128 @ d4096`.
    pub fn name(&self) -> String {
        let kind = match self.test {
            BenchTest::Prompt => "pp",
            BenchTest::Generate => "tg",
        };
        match self.depth {
            0 => format!("{kind}{}", self.tokens),
            depth => format!("{kind}{} @ d{depth}", self.tokens),
        }
    }
}

/// Mean and spread of the speeds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BenchReport {
    /// Tokens of the first prompt test.
    pub prompt: Option<usize>,
    /// Tokens of the first generation test.
    pub generate: Option<usize>,
    /// Measured runs of each test.
    pub repetitions: usize,
    /// Threads used.
    pub threads: usize,
    /// Name of the type that kept keys and values.
    pub kv: &'static str,
    /// Mean speed of the first prompt test, `None` if there was none.
    pub prompt_tokens_per_second: Option<f64>,
    /// Standard deviation of it between the runs.
    pub prompt_stddev: Option<f64>,
    /// Mean speed of the first generation test, `None` if there was none.
    pub generate_tokens_per_second: Option<f64>,
    /// Standard deviation of it between the runs.
    pub generate_stddev: Option<f64>,
    /// Bytes a second that memory delivers, if it was measured.
    pub memory_bytes_per_second: Option<f64>,
    /// Largest resident memory of the process so far.
    pub peak_memory_bytes: Option<u64>,
    /// All tests.
    pub tests: Vec<Speed>,
}

/// Times `model`. Progress counts runs, warm-ups and the filling of the context included.
///
/// # Errors
/// [`Error::Option`] if there is nothing to time, or the model's context is too small for it.
pub fn bench(model: &Model, options: &BenchOptions, progress: &dyn Progress) -> Result<BenchReport> {
    let BenchOptions { depth: depths, repetitions, kv, .. } = options;
    let counts = |test, tokens: &[usize]| {
        tokens.iter().filter(|&&tokens| tokens > 0).map(move |&tokens| (test, tokens)).collect::<Vec<_>>()
    };
    let mut tests = counts(BenchTest::Prompt, &options.prompt);
    tests.extend(counts(BenchTest::Generate, &options.generate));
    if *repetitions == 0 || tests.is_empty() || depths.is_empty() {
        return Err(Error::Option(
            "nothing to time: the repetitions, or both prompt and generate, are 0".into(),
        ));
    }
    let longest = tests.iter().map(|&(_, tokens)| tokens).max().unwrap_or(0);
    let context = longest.saturating_add(depths.iter().copied().max().unwrap_or(0));
    model.check_context(context)?;
    let mut session = model.session(SessionOptions { context, kv: *kv, ..SessionOptions::default() })?;
    let mut random = Random::new(0);
    // A GPU's memory grows with the batch.
    let warm_up_tokens = if model.uses_gpu() { usize::MAX } else { WARM_UP_TOKENS };
    let fillings = depths.iter().filter(|&&depth| depth > 0).count();
    progress.total((tests.len() * depths.len() * (repetitions + 1) + fillings) as u64);

    let mut speeds = Vec::new();
    for &depth in depths {
        session.clear();
        if depth > 0 {
            run_prompt(&mut session, &mut random, depth)?;
            session.keep()?;
            progress.advance(1);
        }
        for &(test, tokens) in &tests {
            let run = match test {
                BenchTest::Prompt => run_prompt,
                BenchTest::Generate => run_generate,
            };
            let mut values = Vec::with_capacity(*repetitions);
            for repetition in 0..=*repetitions {
                session.truncate(depth);
                let warm_up = repetition == 0;
                let started = Instant::now();
                run(&mut session, &mut random, if warm_up { tokens.min(warm_up_tokens) } else { tokens })?;
                if !warm_up {
                    values.push(tokens as f64 / started.elapsed().as_secs_f64());
                }
                progress.advance(1);
            }
            let (tokens_per_second, stddev) = mean_and_deviation(&values);
            let bytes_per_token =
                (test == BenchTest::Generate).then(|| model.bytes_per_token(depth + tokens / 2, *kv));
            let share =
                |(bytes, bandwidth): (u64, f64)| tokens_per_second * bytes as f64 / bandwidth.max(1.0);
            let share_of_limit = bytes_per_token.zip(options.bandwidth).map(share);
            speeds.push(Speed {
                test,
                tokens,
                depth,
                tokens_per_second,
                stddev,
                bytes_per_token,
                share_of_limit,
            });
        }
    }
    model.checkpoint().check_files()?;
    let first = |test| speeds.iter().find(|speed| speed.test == test);
    let (prompt, generate) = (first(BenchTest::Prompt), first(BenchTest::Generate));
    Ok(BenchReport {
        prompt: prompt.map(|s| s.tokens),
        generate: generate.map(|s| s.tokens),
        repetitions: *repetitions,
        threads: model.threads(),
        kv: kv.name(),
        prompt_tokens_per_second: prompt.map(|s| s.tokens_per_second),
        prompt_stddev: prompt.map(|s| s.stddev),
        generate_tokens_per_second: generate.map(|s| s.tokens_per_second),
        generate_stddev: generate.map(|s| s.stddev),
        memory_bytes_per_second: options.bandwidth,
        peak_memory_bytes: peak_memory_bytes(),
        tests: speeds,
    })
}

/// Tokens of a warm-up at most: enough to load every page of the weights and start all threads.
const WARM_UP_TOKENS: usize = 32;

fn random_token(session: &Session<'_>, random: &mut Random) -> u32 {
    random.below(u32::try_from(session.model().vocabulary()).unwrap_or(u32::MAX))
}

fn run_prompt(session: &mut Session<'_>, random: &mut Random, count: usize) -> Result<()> {
    let tokens: Vec<u32> = (0..count).map(|_| random_token(session, random)).collect();
    session.forward(&tokens, Wanted::Last).map(|_| ())
}

fn run_generate(session: &mut Session<'_>, random: &mut Random, count: usize) -> Result<()> {
    for _ in 0..count {
        let token = random_token(session, random);
        session.forward(&[token], Wanted::Last)?;
    }
    Ok(())
}
