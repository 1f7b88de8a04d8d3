//! Text from a prompt: prompt in batches, then one token after the other until something ends it.

use std::time::{Duration, Instant};

use quern_model::{EncodeOptions, StreamDecoder, Tokenizer};
use serde::Serialize;

use crate::sampling::{Sampler, SamplingOptions};
use crate::{Error, KvType, Model, Result, SessionOptions, Wanted, peak_memory_bytes};

/// How to generate.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerateOptions {
    /// At most so many tokens; `None` goes on to the end of text or of the context.
    pub limit: Option<usize>,
    /// Positions of the context; `None` takes [`Model::default_context`], or what prompt and limit need if
    /// that is more and the model was trained for it.
    pub context: Option<usize>,
    /// How keys and values are kept.
    pub kv: KvType,
    /// How tokens are drawn.
    pub sampling: SamplingOptions,
    /// Go on after an end-of-text token.
    pub ignore_end: bool,
    /// How the prompt becomes tokens. A rendered chat template has its special tokens written out:
    /// `parse_special` then, and `add_special` only if the template does not begin with BOS.
    pub encode: EncodeOptions,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        Self {
            limit: Some(128),
            context: None,
            kv: KvType::F16,
            sampling: SamplingOptions::default(),
            ignore_end: false,
            encode: EncodeOptions { add_special: true, parse_special: false },
        }
    }
}

/// Why generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Stop {
    /// The model said so. Its end-of-text token is in neither text nor tokens.
    EndOfText,
    /// The limit was reached.
    Limit,
    /// The context is full.
    ContextFull,
}

/// What came out, and how fast.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GenerateReport {
    /// The generated text, prompt excluded.
    pub text: String,
    /// The generated tokens.
    pub tokens: Vec<u32>,
    /// Tokens of the prompt, BOS included.
    pub prompt_tokens: usize,
    /// Speed over the prompt.
    pub prompt_tokens_per_second: f64,
    /// Speed of the passes after it, sampling included; 0 if there were none.
    pub generate_tokens_per_second: f64,
    /// Largest resident memory of the process so far, mapped weights included; `None` where unknown.
    pub peak_memory_bytes: Option<u64>,
    /// Why it ended.
    pub stop: Stop,
}

/// Continues `prompt`. `on_text` receives the generated text piece by piece, always whole characters.
///
/// # Errors
/// [`Error::Option`] for a sampling option out of range or an empty prompt without BOS,
/// [`Error::ContextFull`] if the prompt does not fit (before anything is computed),
/// [`Error::NotFinite`] if the model's output is; errors of the tokenizer.
pub fn generate(
    model: &Model,
    prompt: &str,
    options: &GenerateOptions,
    on_text: &mut dyn FnMut(&str),
) -> Result<GenerateReport> {
    let tokenizer = model.tokenizer()?;
    let tokens = tokenizer.encode(prompt, options.encode);
    generate_from_tokens(model, &tokens, options, on_text)
}

/// [`generate`] from the tokens of a prompt.
///
/// # Errors
/// As [`generate`].
pub fn generate_from_tokens(
    model: &Model,
    prompt: &[u32],
    options: &GenerateOptions,
    on_text: &mut dyn FnMut(&str),
) -> Result<GenerateReport> {
    let tokenizer = model.tokenizer()?;
    let mut sampler = Sampler::new(options.sampling.clone(), Some(tokenizer))?;
    if prompt.is_empty() {
        return Err(Error::Option("the prompt is empty: give at least one token of text".into()));
    }
    let context = context_for(model, prompt.len(), options);
    if prompt.len() > context {
        return Err(Error::ContextFull { held: 0, wanted: prompt.len(), context });
    }
    let mut session = model.session(SessionOptions { context, kv: options.kv, ..Default::default() })?;
    for &token in prompt {
        sampler.accept(token);
    }
    let mut out = Output { tokenizer, decoder: StreamDecoder::new(), text: String::new(), on_text };
    let mut tokens = Vec::new();
    let limit = options.limit.unwrap_or(usize::MAX);

    let started = Instant::now();
    let mut logits = session.forward(prompt, Wanted::Last)?;
    let prompt_time = started.elapsed();
    let started = Instant::now();
    let mut passes = 0;
    let stop = loop {
        if tokens.len() >= limit {
            break Stop::Limit;
        }
        let token = sampler.sample(logits)?;
        if tokenizer.is_end(token) && !options.ignore_end {
            break Stop::EndOfText;
        }
        sampler.accept(token);
        tokens.push(token);
        out.token(token);
        if tokens.len() >= limit {
            break Stop::Limit;
        }
        if session.len() >= context {
            break Stop::ContextFull;
        }
        logits = session.forward(&[token], Wanted::Last)?;
        passes += 1;
    };
    let generate_time = started.elapsed();
    let text = out.finish();
    Ok(GenerateReport {
        text,
        tokens,
        prompt_tokens: prompt.len(),
        prompt_tokens_per_second: speed(prompt.len(), prompt_time),
        generate_tokens_per_second: speed(passes, generate_time),
        peak_memory_bytes: peak_memory_bytes(),
        stop,
    })
}

fn context_for(model: &Model, prompt: usize, options: &GenerateOptions) -> usize {
    options.context.unwrap_or_else(|| {
        let needed = prompt.saturating_add(options.limit.unwrap_or(0));
        needed.max(model.default_context()).min(model.config().context_length)
    })
}

fn speed(tokens: usize, time: Duration) -> f64 {
    if tokens == 0 { 0.0 } else { tokens as f64 / time.as_secs_f64().max(1e-9) }
}

/// Where generated tokens become text.
struct Output<'t, 'f> {
    tokenizer: &'t Tokenizer,
    decoder: StreamDecoder,
    text: String,
    on_text: &'f mut dyn FnMut(&str),
}

impl Output<'_, '_> {
    fn token(&mut self, token: u32) {
        let piece = self.decoder.push(&self.tokenizer.token_bytes(token));
        self.emit(&piece);
    }

    fn finish(mut self) -> String {
        let rest = self.decoder.finish();
        self.emit(&rest);
        self.text
    }

    fn emit(&mut self, piece: &str) {
        if !piece.is_empty() {
            self.text.push_str(piece);
            (self.on_text)(piece);
        }
    }
}
