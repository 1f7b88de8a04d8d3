//! Sampling: chooses the next token from the logits.
//!
//! The chain is llama.cpp's default one, in its order, unless [`SamplingOptions::stages`] says otherwise:
//!
//! ```text
//! logits -> penalties -> DRY -> top-nσ -> top-k -> typical -> top-p -> min-p -> XTC -> temperature -> draw
//! ```
//!
//! so top-p and min-p see probabilities at temperature 1. Temperature 0 means greedy: the highest logit
//! after the penalties, the lowest id among equals. Everything is ordered by (logit, id), so the outcome
//! depends on the logits and the seed alone, never on threads.

mod candidates;
mod dry;
mod mirostat;
mod options;
mod penalties;

use candidates::Candidates;
use dry::Dry;
pub use options::{DryOptions, Mirostat, MirostatVersion, SamplingOptions, Stage};
use quern_model::Tokenizer;

use crate::random::Random;
use crate::{Error, Result};

/// Draws tokens. Holds the generator, the tokens of the text and its scratch memory.
#[derive(Debug)]
pub struct Sampler {
    options: SamplingOptions,
    random: Random,
    history: Vec<u32>,
    dry: Option<Dry>,
    mirostat: Option<mirostat::State>,
    candidates: Candidates,
}

impl Sampler {
    /// A sampler for these options. DRY finds its sequence breakers in the texts of `tokenizer`'s tokens; without a
    /// tokenizer it has none.
    ///
    /// # Errors
    /// [`Error::Option`] if one of them is out of range.
    pub fn new(options: SamplingOptions, tokenizer: Option<&Tokenizer>) -> Result<Self> {
        options.check()?;
        Ok(Self {
            random: Random::new(options.seed),
            history: Vec::new(),
            dry: Dry::new(&options.dry, tokenizer),
            mirostat: options.mirostat.map(mirostat::State::new),
            candidates: Candidates::default(),
            options,
        })
    }

    /// Adds a token of the text so far (prompt or generated), which the penalties use.
    pub fn accept(&mut self, token: u32) {
        self.history.push(token);
        if let Some(dry) = &mut self.dry {
            dry.accept(token);
        }
    }

    /// Clears the text, but continues the sequence of random numbers.
    pub fn forget(&mut self) {
        self.history.clear();
        if let Some(dry) = &mut self.dry {
            dry.reset();
        }
        if let Some(mirostat) = &mut self.mirostat {
            mirostat.reset();
        }
    }

    /// Picks the next token from `logits` (one per vocabulary entry, at temperature 1). The penalties are
    /// undone before returning: the logits are unchanged.
    ///
    /// # Errors
    /// [`Error::NotFinite`] if the logits hold a NaN or no finite value.
    pub fn sample(&mut self, logits: &mut [f32]) -> Result<u32> {
        if logits.iter().any(|l| l.is_nan()) {
            return Err(Error::NotFinite);
        }
        self.candidates.reset();
        let token = self.pick(logits);
        self.candidates.restore(logits);
        token.ok_or(Error::NotFinite)
    }

    fn pick(&mut self, logits: &mut [f32]) -> Option<u32> {
        let greedy = self.options.temperature <= 0.0;
        let filters = !greedy && self.mirostat.is_none();
        for at in 0..self.options.stages.len() {
            let stage = self.options.stages[at];
            match stage {
                Stage::Penalties | Stage::Dry => self.penalize(stage, logits),
                Stage::Temperature if !greedy => self.candidates.temperature(self.options.temperature),
                _ if filters => self.filter(stage, logits),
                _ => {}
            }
        }
        match &mut self.mirostat {
            _ if greedy => candidates::greedy(logits),
            Some(state) => state.draw(&mut self.candidates, logits, &mut self.random),
            None => self.candidates.draw(logits, &mut self.random).map(|(token, _)| token),
        }
    }

    fn penalize(&mut self, stage: Stage, logits: &mut [f32]) {
        let (options, history) = (&self.options, &self.history);
        match (stage, &self.dry) {
            (Stage::Dry, None) => {}
            (Stage::Dry, Some(dry)) => {
                self.candidates.change(logits, &dry.penalties(history), |logit, penalty| logit - penalty);
            }
            _ => {
                let counts = penalties::counts(options, history);
                self.candidates
                    .change(logits, &counts, |logit, &count| penalties::penalized(options, logit, count));
            }
        }
    }

    fn filter(&mut self, stage: Stage, logits: &[f32]) {
        let (options, candidates) = (&self.options, &mut self.candidates);
        match stage {
            Stage::TopNSigma => candidates.top_n_sigma(logits, options.top_n_sigma),
            Stage::TopK => candidates.top_k(logits, options.top_k),
            Stage::Typical => candidates.typical(logits, options.typical_p),
            Stage::TopP => candidates.top_p(logits, options.top_p),
            Stage::MinP => candidates.min_p(logits, options.min_p),
            Stage::Xtc => {
                if options.xtc_probability > 0.0
                    && options.xtc_threshold <= 0.5
                    && self.random.unit() < f64::from(options.xtc_probability)
                {
                    candidates.xtc(logits, options.xtc_threshold);
                }
            }
            Stage::Penalties | Stage::Dry | Stage::Temperature => {}
        }
    }
}

/// The `count` highest logits with their ids, the highest first.
pub(crate) fn highest(logits: &[f32], count: usize) -> Vec<(u32, f32)> {
    let mut candidates = Candidates::default();
    candidates.reset();
    if count > 0 {
        candidates.top_k(logits, count);
    }
    candidates.list(&[]).iter().map(|c| (c.id, c.logit)).collect()
}

#[cfg(test)]
mod tests;
