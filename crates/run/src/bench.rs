//! Speed, measured as llama-bench does: random tokens, one warm-up of each test, then the repetitions;
//! tokenization and sampling excluded, and only the last prompt token goes through the head.

use std::time::Instant;

use quern_tensor_io::Progress;
use serde::Serialize;

use crate::random::Random;
use crate::statistics::mean_and_deviation;
use crate::{Error, Model, Result, Session, SessionOptions, Wanted, peak_memory_bytes};

/// What to time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BenchOptions {
    /// Tokens of the prompt test; 0 leaves it out.
    pub prompt: usize,
    /// Tokens of the generation test; 0 leaves it out.
    pub generate: usize,
    /// Measured runs of each.
    pub repetitions: usize,
}

impl Default for BenchOptions {
    fn default() -> Self {
        Self { prompt: 512, generate: 128, repetitions: 5 }
    }
}

/// Mean and spread of the speeds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BenchReport {
    /// Tokens in the prompt test.
    pub prompt: usize,
    /// Tokens in the generation test.
    pub generate: usize,
    /// Measured runs of each.
    pub repetitions: usize,
    /// Threads used.
    pub threads: usize,
    /// Mean speed over the prompt, `None` if it was left out.
    pub prompt_tokens_per_second: Option<f64>,
    /// Standard deviation of it between the runs.
    pub prompt_stddev: Option<f64>,
    /// Mean speed of generation, `None` if it was left out.
    pub generate_tokens_per_second: Option<f64>,
    /// Standard deviation of it between the runs.
    pub generate_stddev: Option<f64>,
    /// Largest resident memory of the process so far.
    pub peak_memory_bytes: Option<u64>,
}

/// Times `model`. Progress counts runs, warm-ups included.
///
/// # Errors
/// [`Error::Option`] if there is nothing to time, or the model's context is too small for it.
pub fn bench(model: &Model, options: BenchOptions, progress: &dyn Progress) -> Result<BenchReport> {
    let BenchOptions { prompt, generate, repetitions } = options;
    if repetitions == 0 || (prompt == 0 && generate == 0) {
        return Err(Error::Option(
            "nothing to time: the repetitions, or both prompt and generate, are 0".into(),
        ));
    }
    let context = prompt.max(generate);
    model.check_context(context)?;
    let mut session = model.session(SessionOptions { context, ..SessionOptions::default() })?;
    let mut random = Random::new(0);
    let tests = usize::from(prompt > 0) + usize::from(generate > 0);
    progress.total((tests * (repetitions + 1)) as u64);

    let mut speeds = |count: usize, run: fn(&mut Session<'_>, &mut Random, usize) -> Result<()>| {
        if count == 0 {
            return Ok(None);
        }
        let mut values = Vec::with_capacity(repetitions);
        for repetition in 0..=repetitions {
            session.clear();
            let started = Instant::now();
            let warm_up = repetition == 0;
            run(&mut session, &mut random, if warm_up { count.min(WARM_UP_TOKENS) } else { count })?;
            if !warm_up {
                values.push(count as f64 / started.elapsed().as_secs_f64());
            }
            progress.advance(1);
        }
        Ok::<_, Error>(Some(mean_and_deviation(&values)))
    };
    let prompt_speed = speeds(prompt, run_prompt)?;
    let generate_speed = speeds(generate, run_generate)?;
    Ok(BenchReport {
        prompt,
        generate,
        repetitions,
        threads: model.threads(),
        prompt_tokens_per_second: prompt_speed.map(|s| s.0),
        prompt_stddev: prompt_speed.map(|s| s.1),
        generate_tokens_per_second: generate_speed.map(|s| s.0),
        generate_stddev: generate_speed.map(|s| s.1),
        peak_memory_bytes: peak_memory_bytes(),
    })
}

/// Tokens of a warm-up at most: enough to bring every page of the weights in and the threads to speed.
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
