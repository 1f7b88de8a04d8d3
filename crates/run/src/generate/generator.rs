//! A text that is continued several times; what was computed for it is kept.

use std::time::{Duration, Instant};

use quern_model::{StreamDecoder, Tokenizer};

use super::output::Output;
use super::stops::Stops;
use super::{GenerateOptions, GenerateReport, Listener, Stop, TokenLogprobs, check};
use crate::{Error, Model, Result, Sampler, Session, SessionOptions, Wanted, peak_memory_bytes};

/// Generates from one prompt after the other. Keys and values of the tokens that a prompt shares with the one before
/// it and its answer are not computed again; the sequence of random numbers continues.
#[derive(Debug)]
pub struct Generator<'m> {
    session: Session<'m>,
    tokenizer: &'m Tokenizer,
    options: GenerateOptions,
    sampler: Sampler,
    /// The tokens in the session.
    held: Vec<u32>,
}

impl<'m> Generator<'m> {
    /// A generator for up to `context` positions.
    ///
    /// # Errors
    /// [`Error::Option`] for an option out of range; errors of the tokenizer.
    pub fn new(model: &'m Model, options: GenerateOptions, context: usize) -> Result<Self> {
        if options.stop_texts.iter().any(String::is_empty) {
            return Err(Error::Option("a stop text is empty, it must be at least one character".into()));
        }
        let tokenizer = model.tokenizer()?;
        let sampler = Sampler::new(options.sampling.clone(), Some(tokenizer))?;
        let session = model.session(SessionOptions { context, kv: options.kv, ..Default::default() })?;
        Ok(Self { session, tokenizer, options, sampler, held: Vec::new() })
    }

    /// How it generates.
    pub fn options(&self) -> &GenerateOptions {
        &self.options
    }

    /// The number of positions the context holds.
    pub fn context(&self) -> usize {
        self.session.context()
    }

    /// Continues the prompt.
    ///
    /// # Errors
    /// As [`generate_from_tokens`](crate::generate_from_tokens). What was computed before stays.
    pub fn generate(&mut self, prompt: &[u32], listener: &mut dyn Listener) -> Result<GenerateReport> {
        check(self.session.model(), prompt, &self.options, self.session.context())?;
        self.sampler.forget();
        prompt.iter().for_each(|&token| self.sampler.accept(token));
        let reused = self.rewind(prompt);

        let Self { session, tokenizer, options, sampler, held } = self;
        let decoder = if options.own_text { tokenizer.stream() } else { StreamDecoder::new() };
        let mut run = Run {
            out: Output {
                tokenizer,
                decoder,
                stops: Stops::new(&options.stop_texts),
                special: options.show_special,
                text: String::new(),
                listener,
            },
            tokens: Vec::new(),
            logprobs: options.logprobs.map(|_| Vec::new()),
            clock: Clock::new(),
        };
        let stop = run.go(session, sampler, held, options, &prompt[reused..]);
        // Text that was held back is output even if something failed.
        let Run { out, tokens, logprobs, clock } = run;
        let text = out.finish(matches!(stop, Ok((_, Some(_)))));
        let (stop, stop_text) = stop?;
        session.model().checkpoint().check_files()?;
        Ok(GenerateReport {
            text,
            tokens,
            prompt_tokens: prompt.len(),
            prompt_tokens_reused: reused,
            prompt_tokens_per_second: speed(prompt.len() - reused, clock.prompt),
            generate_tokens_per_second: speed(clock.passes, clock.generate),
            peak_memory_bytes: peak_memory_bytes(),
            stop,
            stop_text: stop_text.map(str::to_owned),
            logprobs,
        })
    }

    /// Goes back to the longest beginning that `prompt` shares with what is held, the prompt's last token excluded:
    /// it has to be computed for its logits. Returns its length, or that of what the session can go back to.
    fn rewind(&mut self, prompt: &[u32]) -> usize {
        let shared = self.held.iter().zip(&prompt[..prompt.len() - 1]).take_while(|(a, b)| a == b).count();
        let kept = self.session.truncate(shared);
        self.held.truncate(kept);
        kept
    }
}

/// The end of a prompt that is run by itself where a model has states, so that they can be kept in front of it: templates
/// end a prompt with what the next prompt of the conversation may not have (the beginning of a thought).
const ENDING: usize = 8;

/// One answer on its way.
struct Run<'a, 'l> {
    out: Output<'a, 'l>,
    tokens: Vec<u32>,
    logprobs: Option<Vec<TokenLogprobs>>,
    clock: Clock,
}

/// Where the time went.
struct Clock {
    started: Instant,
    prompt: Duration,
    generate: Duration,
    passes: usize,
}

impl Clock {
    fn new() -> Self {
        Self { started: Instant::now(), prompt: Duration::ZERO, generate: Duration::ZERO, passes: 0 }
    }

    /// The prompt is done.
    fn prompt(&mut self) {
        self.prompt = self.started.elapsed();
    }

    /// A token is done.
    fn token(&mut self) {
        self.generate = self.started.elapsed() - self.prompt;
    }
}

impl<'a> Run<'a, '_> {
    /// Computes what is new of the prompt, then token after token. Returns why it ended, and the stop text.
    fn go(
        &mut self,
        session: &mut Session<'_>,
        sampler: &mut Sampler,
        held: &mut Vec<u32>,
        options: &GenerateOptions,
        prompt: &[u32],
    ) -> Result<(Stop, Option<&'a str>)> {
        let limit = options.limit.unwrap_or(usize::MAX);
        // All batches but the last are there for keys and values alone.
        self.out.listener.prompt(0, prompt.len());
        let whole = match session.has_states() {
            false => (prompt.len() - 1) / session.batch() * session.batch(),
            // Where the next prompt of a conversation most likely begins to differ.
            true => prompt.len().saturating_sub(ENDING),
        };
        let (first, last) = prompt.split_at(whole);
        for (number, batch) in first.chunks(session.batch()).enumerate() {
            if self.out.listener.is_done() {
                return Ok((Stop::Interrupted, None));
            }
            session.forward(batch, Wanted::Nothing)?;
            held.extend_from_slice(batch);
            self.out.listener.prompt(number * session.batch() + batch.len(), prompt.len());
        }
        if !first.is_empty() {
            session.keep()?;
        }
        let mut next = last.to_vec();
        loop {
            if self.out.listener.is_done() {
                return Ok((Stop::Interrupted, None));
            }
            let logits = session.forward(&next, Wanted::Last)?;
            held.extend_from_slice(&next);
            match self.tokens.is_empty() {
                true => {
                    self.clock.prompt();
                    self.out.listener.prompt(prompt.len(), prompt.len());
                }
                false => self.clock.passes += 1,
            }
            if limit == 0 {
                return Ok((Stop::Limit, None));
            }
            let token = sampler.sample(logits)?;
            if self.out.tokenizer.is_end(token) && !options.ignore_end {
                self.clock.token();
                return Ok((Stop::EndOfText, None));
            }
            sampler.accept(token);
            self.tokens.push(token);
            if let (Some(all), Some(count)) = (&mut self.logprobs, options.logprobs) {
                all.push(TokenLogprobs::of(self.out.tokenizer, logits, token, count));
            }
            let stop_text = self.out.token(token);
            self.clock.token();
            if stop_text.is_some() {
                return Ok((Stop::StopText, stop_text));
            }
            if self.tokens.len() >= limit {
                return Ok((Stop::Limit, None));
            }
            if session.len() >= session.context() {
                return Ok((Stop::ContextFull, None));
            }
            next.clear();
            next.push(token);
        }
    }
}

fn speed(tokens: usize, time: Duration) -> f64 {
    if tokens == 0 { 0.0 } else { tokens as f64 / time.as_secs_f64().max(1e-9) }
}
