//! Generates text from a prompt: the prompt in batches, then one token after the other until something ends it.

mod generator;
mod logprobs;
mod output;
mod stops;

use quern_model::EncodeOptions;
use serde::Serialize;

pub use generator::Generator;
pub use logprobs::{Logprob, TokenLogprobs};

use crate::sampling::SamplingOptions;
use crate::{Error, KvType, Model, Result};

/// How to generate.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerateOptions {
    /// The most tokens to generate; `None` continues to the end of text or of the context.
    pub limit: Option<usize>,
    /// Refuse a limit that does not fit into the context behind the prompt, instead of stopping when it is full.
    pub limit_must_fit: bool,
    /// Positions of the context; `None` takes [`Model::default_context`], or what prompt and limit need if
    /// that is more and the model was trained for it.
    pub context: Option<usize>,
    /// How keys and values are kept.
    pub kv: KvType,
    /// How tokens are drawn.
    pub sampling: SamplingOptions,
    /// Continue after an end-of-text token.
    pub ignore_end: bool,
    /// Texts that end generation. They are never part of the generated text.
    pub stop_texts: Vec<String>,
    /// Report the probability of each token, with this many of the likeliest alternatives.
    pub logprobs: Option<usize>,
    /// Show control tokens by their names.
    pub show_special: bool,
    /// The text is separate, as an answer is: the space that some tokenizers put in front of a text is
    /// dropped. Otherwise it continues the prompt.
    pub own_text: bool,
    /// How the prompt becomes tokens.
    pub encode: EncodeOptions,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        Self {
            limit: Some(128),
            limit_must_fit: false,
            context: None,
            kv: KvType::F16,
            sampling: SamplingOptions::default(),
            ignore_end: false,
            stop_texts: Vec::new(),
            logprobs: None,
            show_special: false,
            own_text: false,
            encode: EncodeOptions { add_special: true, parse_special: false },
        }
    }
}

impl GenerateOptions {
    /// Positions of the context for a prompt of this many tokens.
    pub(crate) fn context_for(&self, model: &Model, prompt: usize) -> usize {
        self.context.unwrap_or_else(|| {
            let needed = positions(prompt, self.limit.unwrap_or(0));
            needed.max(model.default_context()).min(model.config().context_length)
        })
    }
}

/// Positions that a prompt and this many generated tokens take: the last one is never an input.
fn positions(prompt: usize, limit: usize) -> usize {
    prompt.saturating_add(limit.saturating_sub(1))
}

/// Why generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Stop {
    /// The model generated an end-of-text token, which is in neither text nor tokens.
    EndOfText,
    /// The limit was reached.
    Limit,
    /// The context is full.
    ContextFull,
    /// A stop text came. Its tokens are in the tokens, it is not in the text.
    StopText,
    /// The listener ended it.
    Interrupted,
}

/// The result of a generation, with its speed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GenerateReport {
    /// The generated text, prompt excluded.
    pub text: String,
    /// The generated tokens.
    pub tokens: Vec<u32>,
    /// Tokens of the prompt, BOS included.
    pub prompt_tokens: usize,
    /// Those of them whose keys and values were there already.
    pub prompt_tokens_reused: usize,
    /// Speed over the rest of the prompt.
    pub prompt_tokens_per_second: f64,
    /// Speed of the passes after it, sampling included; 0 if there were none.
    pub generate_tokens_per_second: f64,
    /// Largest resident memory of the process so far, mapped weights included; `None` where unknown.
    pub peak_memory_bytes: Option<u64>,
    /// Why it ended.
    pub stop: Stop,
    /// The stop text that ended it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_text: Option<String>,
    /// How probable each token was, if asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logprobs: Option<Vec<TokenLogprobs>>,
}

/// Receives the generated text. Any `FnMut(&str)` is one.
pub trait Listener {
    /// Receives text, always whole characters.
    fn text(&mut self, text: &str);

    /// So many of the prompt's tokens are processed, of those that have to be: called before the first batch, and after
    /// each.
    fn prompt(&mut self, done: usize, total: usize) {
        let _ = (done, total);
    }

    /// Whether generation should end now; asked before each pass.
    fn is_done(&mut self) -> bool {
        false
    }
}

impl<F: FnMut(&str)> Listener for F {
    fn text(&mut self, text: &str) {
        self(text);
    }
}

/// Continues `prompt`; `listener` receives the generated text piece by piece.
///
/// # Errors
/// [`Error::Option`] for an option out of range or an empty prompt without BOS, [`Error::ContextFull`] or
/// [`Error::NoRoom`] if the prompt (and the limit, if it must) does not fit (before anything is computed),
/// [`Error::NotFinite`] if the model's output is; errors of the tokenizer.
pub fn generate(
    model: &Model,
    prompt: &str,
    options: &GenerateOptions,
    listener: &mut dyn Listener,
) -> Result<GenerateReport> {
    let tokens = model.tokenizer()?.encode(prompt, options.encode)?;
    generate_from_tokens(model, &tokens, options, listener)
}

/// [`generate`] from the tokens of a prompt.
///
/// # Errors
/// As [`generate`].
pub fn generate_from_tokens(
    model: &Model,
    prompt: &[u32],
    options: &GenerateOptions,
    listener: &mut dyn Listener,
) -> Result<GenerateReport> {
    let context = options.context_for(model, prompt.len());
    // Before the context is made: its size may be what is wrong.
    check(model, prompt, options, context)?;
    Generator::new(model, options.clone(), context)?.generate(prompt, listener)
}

/// Refuses what cannot succeed, before any work.
fn check(model: &Model, prompt: &[u32], options: &GenerateOptions, context: usize) -> Result<()> {
    if prompt.is_empty() {
        return Err(Error::Option("the prompt is empty: give at least one token of text".into()));
    }
    if prompt.len() > context {
        return Err(Error::ContextFull { held: 0, wanted: prompt.len(), context });
    }
    match options.limit {
        Some(limit) if options.limit_must_fit && positions(prompt.len(), limit) > context => {
            let trained = model.config().context_length;
            Err(Error::NoRoom { prompt: prompt.len(), limit, context, trained })
        }
        _ => Ok(()),
    }
}
