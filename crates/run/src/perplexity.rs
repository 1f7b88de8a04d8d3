//! Perplexity exactly as llama-perplexity computes it, so that figures compare.
//!
//! The whole text is tokenized once (with BOS, if the tokenizer adds one) and cut into chunks of
//! `context` tokens without overlap; a rest shorter than a chunk is left out. In each chunk the first
//! token is replaced by BOS and the second half is scored:
//!
//! ```text
//! position   0    1  ...  n/2-1 | n/2  n/2+1 ...  n-2   n-1
//! token     BOS   t1 ...        |
//! logits               not used | score the token after each | nothing to predict
//! ```
//!
//! that is `n - 1 - n/2` predictions a chunk (255 of 512). The perplexity is exp of the mean negative
//! log-likelihood; its standard error is the one of the mean, propagated through the exponential.
//!
//! Beside a reference model both run over the same chunks. The ratio of their perplexities is exp of the mean
//! difference of the tokens' log-likelihoods, and its error that of the differences: much smaller than the
//! errors of the two perplexities, which are correlated.

use std::time::Instant;

use quern_model::EncodeOptions;
use quern_tensor_io::Progress;
use serde::Serialize;

use quern_compute::RowLikelihood;

use crate::session::KeptLogits;
use crate::statistics::{Likelihood, mean_and_deviation};
use crate::{Error, KvType, Model, Result, Session, SessionOptions, Wanted};

/// What to score.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PerplexityOptions {
    /// Tokens in a chunk.
    pub context: usize,
    /// Score only this many chunks from the first on; `None` takes all.
    pub chunks: Option<usize>,
    /// How the model keeps keys and values. A reference keeps them in f16.
    pub kv: KvType,
}

impl Default for PerplexityOptions {
    fn default() -> Self {
        Self { context: 512, chunks: None, kv: KvType::F16 }
    }
}

/// How well a model predicts a text.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PerplexityReport {
    /// exp of the mean negative log-likelihood of the scored tokens.
    pub perplexity: f64,
    /// Standard error of `perplexity`.
    pub stderr: f64,
    /// Tokens scored.
    pub tokens: usize,
    /// Chunks run.
    pub chunks: usize,
    /// Tokens in a chunk.
    pub context: usize,
    /// Tokens run (scored or not) per second of wall time.
    pub tokens_per_second: f64,
    /// How far the distributions are from those of a reference model, where one was given.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub against: Option<Divergence>,
}

/// Distance of a model's distributions from a reference model's, over the scored positions.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Divergence {
    /// The reference's own perplexity on the same tokens.
    pub reference_perplexity: f64,
    /// The model's perplexity over the reference's.
    pub perplexity_ratio: f64,
    /// Standard error of it.
    pub perplexity_ratio_stderr: f64,
    /// Its natural logarithm: by how many nats a token is less likely, on average.
    pub ln_perplexity_ratio: f64,
    /// Standard error of that.
    pub ln_perplexity_ratio_stderr: f64,
    /// Mean Kullback-Leibler divergence from the reference, in nats.
    pub kl_mean: f64,
    /// Standard error of it.
    pub kl_stderr: f64,
    /// Half of the positions are below it.
    pub kl_median: f64,
    /// 99th percentile of it.
    pub kl_p99: f64,
    /// The largest.
    pub kl_max: f64,
    /// Share of positions where both put the same token first, 0 to 1.
    pub top1_agreement: f64,
    /// Standard error of it.
    pub top1_stderr: f64,
}

/// Scores `text` with `model`, and beside it with `reference` where one is given (a model with the same
/// vocabulary; usually the same one before quantization). Progress counts chunks.
///
/// # Errors
/// [`Error::TextTooShort`] below two chunks of tokens; [`Error::Option`] for a context below 4 or beyond
/// what the model was trained for, no chunks, or a reference of another vocabulary;
/// [`Error::NotFinite`] if the model's output is.
pub fn perplexity(
    model: &Model,
    reference: Option<&Model>,
    text: &str,
    options: PerplexityOptions,
    progress: &dyn Progress,
) -> Result<PerplexityReport> {
    let tokenizer = model.tokenizer()?;
    let tokens = tokenizer.encode(text, EncodeOptions { add_special: true, parse_special: false })?;
    let bos = tokenizer.bos().filter(|_| tokenizer.add_bos());
    perplexity_of_tokens(model, reference, &tokens, bos, options, progress)
}

/// [`perplexity`] of tokens: `tokens` is the whole text, `bos` replaces the first token of each chunk.
///
/// # Errors
/// As [`perplexity`].
pub fn perplexity_of_tokens(
    model: &Model,
    reference: Option<&Model>,
    tokens: &[u32],
    bos: Option<u32>,
    options: PerplexityOptions,
    progress: &dyn Progress,
) -> Result<PerplexityReport> {
    let context = options.context;
    check(model, reference, tokens.len(), options)?;
    let chunks = (tokens.len() / context).min(options.chunks.unwrap_or(usize::MAX));
    progress.total(chunks as u64);

    let session_options = SessionOptions { context, ..SessionOptions::default() };
    let mut session = model.session(SessionOptions { kv: options.kv, ..session_options })?;
    let mut other = reference.map(|r| r.session(session_options)).transpose()?;
    let mut scores = Likelihood::default();
    let mut compared = Compared::default();
    let mut chunk = Vec::with_capacity(context);
    let started = Instant::now();
    for index in 0..chunks {
        chunk.clear();
        chunk.extend_from_slice(&tokens[index * context..(index + 1) * context]);
        if let Some(bos) = bos {
            chunk[0] = bos;
        }
        let mut logits = run_chunk(&mut session, &chunk)?;
        let targets = &chunk[context / 2 + 1..];
        // Added in order, so the sums do not depend on the threads.
        let own = score(&mut logits, targets)?;
        own.iter().for_each(|row| scores.add(row.negative_log()));
        if let (Some(reference), Some(other)) = (reference, &mut other) {
            // Two models within one bound alternate.
            model.placement.give_back();
            let mut expected = run_chunk(other, &chunk)?;
            let theirs = score(&mut expected, targets)?;
            compared.add(&own, &theirs, &logits.divergence_from(&mut expected)?);
            reference.placement.give_back();
        }
        progress.advance(1);
    }
    let seconds = started.elapsed().as_secs_f64();
    [Some(model), reference].into_iter().flatten().try_for_each(|m| m.checkpoint().check_files())?;
    let against = other.is_some().then(|| compared.report());
    Ok(PerplexityReport {
        perplexity: scores.perplexity(),
        stderr: scores.standard_error(),
        tokens: scores.count(),
        chunks,
        context,
        tokens_per_second: (chunks * context) as f64 / seconds,
        against,
    })
}

fn check(model: &Model, reference: Option<&Model>, tokens: usize, options: PerplexityOptions) -> Result<()> {
    let context = options.context;
    if context < 4 {
        return Err(Error::Option(format!("context is {context}, it must be at least 4")));
    }
    if options.chunks == Some(0) {
        return Err(Error::Option("chunks is 0, it must be at least 1".into()));
    }
    for m in std::iter::once(model).chain(reference) {
        m.check_context(context)?;
    }
    if let Some(reference) = reference.filter(|r| r.vocabulary() != model.vocabulary()) {
        return Err(Error::Option(format!(
            "the reference has a vocabulary of {}, the model one of {}: they cannot be compared",
            reference.vocabulary(),
            model.vocabulary()
        )));
    }
    let needed = context.saturating_mul(2);
    if tokens < needed {
        return Err(Error::TextTooShort { tokens, needed, context });
    }
    Ok(())
}

/// Logits of positions `n/2 ..= n-2` of one chunk. The last token's logits predict nothing and the token
/// itself is input to no prediction: it is not run.
fn run_chunk<'s>(session: &'s mut Session<'_>, chunk: &[u32]) -> Result<KeptLogits<'s>> {
    session.clear();
    let (body, _) = chunk.split_at(chunk.len() - 1);
    session.forward_kept(body, Wanted::From(chunk.len() / 2))
}

/// What the logits say of the targets.
fn score(logits: &mut KeptLogits<'_>, targets: &[u32]) -> Result<Vec<RowLikelihood>> {
    let scores = logits.likelihood(targets)?;
    if scores.iter().all(|row| row.negative_log().is_finite()) { Ok(scores) } else { Err(Error::NotFinite) }
}

/// Statistics of two models position by position.
#[derive(Debug, Default)]
struct Compared {
    /// The reference's likelihoods.
    reference: Likelihood,
    /// Differences of the model's from them.
    difference: Likelihood,
    kl: Vec<f64>,
    agreed: usize,
}

impl Compared {
    /// Adds positions: what the model and the reference say of their targets, and the divergences.
    fn add(&mut self, own: &[RowLikelihood], theirs: &[RowLikelihood], divergences: &[f64]) {
        for ((own, theirs), kl) in own.iter().zip(theirs).zip(divergences) {
            let same = own.largest == theirs.largest;
            self.push(own.negative_log(), theirs.negative_log(), *kl, same);
        }
    }

    fn push(&mut self, own: f64, theirs: f64, kl: f64, same: bool) {
        self.reference.add(theirs);
        self.difference.add(own - theirs);
        self.kl.push(kl);
        self.agreed += usize::from(same);
    }

    fn report(mut self) -> Divergence {
        let count = self.kl.len().max(1) as f64;
        let (kl_mean, deviation) = mean_and_deviation(&self.kl);
        self.kl.sort_by(f64::total_cmp);
        let top1_agreement = self.agreed as f64 / count;
        Divergence {
            reference_perplexity: self.reference.perplexity(),
            perplexity_ratio: self.difference.perplexity(),
            perplexity_ratio_stderr: self.difference.standard_error(),
            ln_perplexity_ratio: self.difference.mean(),
            ln_perplexity_ratio_stderr: self.difference.mean_error(),
            kl_mean,
            kl_stderr: deviation / count.sqrt(),
            kl_median: percentile(&self.kl, 0.5),
            kl_p99: percentile(&self.kl, 0.99),
            kl_max: self.kl.last().copied().unwrap_or(0.0),
            top1_agreement,
            top1_stderr: (top1_agreement * (1.0 - top1_agreement) / (count - 1.0).max(1.0)).sqrt(),
        }
    }
}

/// Linear interpolation between the order statistics around `share * (n - 1)`; `sorted` ascends.
fn percentile(sorted: &[f64], share: f64) -> f64 {
    let at = share * sorted.len().saturating_sub(1) as f64;
    let (low, high) = (at.floor() as usize, at.ceil() as usize);
    sorted.get(low).zip(sorted.get(high)).map_or(0.0, |(a, b)| a + (b - a) * at.fract())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_interpolate_and_agreement_is_a_share() {
        let mut compared = Compared::default();
        for kl in (0..=100).rev() {
            compared.push(1.0, 1.0, f64::from(kl), kl < 50);
        }
        let report = compared.report();
        assert!((report.kl_mean - 50.0).abs() < 1e-9 && (report.kl_median - 50.0).abs() < 1e-9);
        assert!((report.kl_p99 - 99.0).abs() < 1e-9 && (report.kl_max - 100.0).abs() < 1e-9);
        // The variance of 0..=100 over n - 1 is 858.5.
        assert!((report.kl_stderr - (858.5f64 / 101.0).sqrt()).abs() < 1e-9);
        assert!((report.top1_agreement - 50.0 / 101.0).abs() < 1e-12);
        assert!((report.top1_stderr - (50.0f64 * 51.0 / 101.0 / 101.0 / 100.0).sqrt()).abs() < 1e-12);
        assert_eq!(percentile(&[0.5], 0.99), 0.5);
        assert_eq!(percentile(&[1.0, 2.0], 0.25), 1.25);
    }

    #[test]
    fn the_ratio_is_that_of_the_perplexities_and_its_error_that_of_the_differences() {
        let (mut compared, mut own) = (Compared::default(), Likelihood::default());
        for (a, b) in [(1.0, 0.5), (3.0, 2.25), (2.0, 2.0)] {
            own.add(a);
            compared.push(a, b, 0.0, true);
        }
        let report = compared.report();
        assert!((report.perplexity_ratio - own.perplexity() / report.reference_perplexity).abs() < 1e-12);
        // Differences 0.5, 0.75, 0: mean 1.25 / 3, variance over n 0.8125 / 3 - mean², over n - 1 = 2.
        let mean = 1.25f64 / 3.0;
        let error = ((0.8125 / 3.0 - mean * mean) / 2.0).sqrt();
        assert!((report.ln_perplexity_ratio - mean).abs() < 1e-12);
        assert!((report.ln_perplexity_ratio_stderr - error).abs() < 1e-12);
        assert!((report.perplexity_ratio_stderr - mean.exp() * error).abs() < 1e-12);
    }
}
