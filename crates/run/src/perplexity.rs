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
//! log-likelihood; its standard error is the one of the mean, carried through the exponential.

use std::time::Instant;

use quern_model::EncodeOptions;
use quern_tensor_io::Progress;
use serde::Serialize;

use crate::statistics::{Likelihood, kl_divergence, negative_log_likelihood, top1};
use crate::{Error, Model, Result, Session, SessionOptions, Wanted};

/// What to score.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PerplexityOptions {
    /// Tokens in a chunk.
    pub context: usize,
    /// Score only the first so many chunks; `None` takes all.
    pub chunks: Option<usize>,
}

impl Default for PerplexityOptions {
    fn default() -> Self {
        Self { context: 512, chunks: None }
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
    /// Mean Kullback-Leibler divergence from the reference, in nats.
    pub kl_mean: f64,
    /// 99th percentile of it.
    pub kl_p99: f64,
    /// Share of positions where both put the same token first, 0 to 1.
    pub top1_agreement: f64,
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
    let tokens = tokenizer.encode(text, EncodeOptions { add_special: true, parse_special: false });
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
    let mut session = model.session(session_options)?;
    let mut other = reference.map(|r| r.session(session_options)).transpose()?;
    let (mut scores, mut reference_scores) = (Likelihood::default(), Likelihood::default());
    let (mut divergences, mut agreed) = (Vec::new(), 0usize);
    let mut chunk = Vec::with_capacity(context);
    let started = Instant::now();
    for index in 0..chunks {
        chunk.clear();
        chunk.extend_from_slice(&tokens[index * context..(index + 1) * context]);
        if let Some(bos) = bos {
            chunk[0] = bos;
        }
        let logits = run_chunk(&mut session, &chunk)?;
        let targets = &chunk[context / 2 + 1..];
        score(model, logits, targets, &mut scores)?;
        if let (Some(reference), Some(other)) = (reference, &mut other) {
            let expected = run_chunk(other, &chunk)?;
            score(reference, expected, targets, &mut reference_scores)?;
            let vocabulary = model.vocabulary();
            let mut rows = vec![(0.0, false); targets.len()];
            model.per_row(&mut rows, |row, out| {
                let at = row * vocabulary..(row + 1) * vocabulary;
                let (p, q) = (&expected[at.clone()], &logits[at]);
                *out = (kl_divergence(p, q), top1(p) == top1(q));
            });
            divergences.extend(rows.iter().map(|&(kl, _)| kl));
            agreed += rows.iter().filter(|&&(_, same)| same).count();
        }
        progress.advance(1);
    }
    let seconds = started.elapsed().as_secs_f64();
    let against = other.is_some().then(|| divergence(divergences, agreed, &reference_scores));
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
/// itself is seen by nobody: it is not run.
fn run_chunk<'s>(session: &'s mut Session<'_>, chunk: &[u32]) -> Result<&'s [f32]> {
    session.clear();
    let (body, _) = chunk.split_at(chunk.len() - 1);
    session.forward(body, Wanted::From(chunk.len() / 2)).map(|logits| &*logits)
}

fn score(model: &Model, logits: &[f32], targets: &[u32], scores: &mut Likelihood) -> Result<()> {
    let vocabulary = model.vocabulary();
    let mut rows = vec![0.0; targets.len()];
    model.per_row(&mut rows, |row, nll| {
        *nll = negative_log_likelihood(&logits[row * vocabulary..(row + 1) * vocabulary], targets[row]);
    });
    // Added in order, so the sums do not depend on the threads.
    for nll in rows {
        if !nll.is_finite() {
            return Err(Error::NotFinite);
        }
        scores.add(nll);
    }
    Ok(())
}

fn divergence(mut kl: Vec<f64>, agreed: usize, reference: &Likelihood) -> Divergence {
    let count = kl.len().max(1) as f64;
    let mean = kl.iter().sum::<f64>() / count;
    kl.sort_by(f64::total_cmp);
    // Linear interpolation between the order statistics around 0.99 (n - 1).
    let at = 0.99 * kl.len().saturating_sub(1) as f64;
    let (low, high) = (at.floor() as usize, at.ceil() as usize);
    let p99 = kl.get(low).zip(kl.get(high)).map_or(0.0, |(a, b)| a + (b - a) * at.fract());
    Divergence {
        reference_perplexity: reference.perplexity(),
        kl_mean: mean,
        kl_p99: p99,
        top1_agreement: agreed as f64 / count,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentile_interpolates_and_agreement_is_a_share() {
        let kl: Vec<f64> = (0..=100).rev().map(f64::from).collect();
        let report = divergence(kl, 50, &Likelihood::default());
        assert!((report.kl_mean - 50.0).abs() < 1e-9);
        assert!((report.kl_p99 - 99.0).abs() < 1e-9);
        assert!((report.top1_agreement - 50.0 / 101.0).abs() < 1e-12);
        assert_eq!(divergence(vec![0.5], 1, &Likelihood::default()).kl_p99, 0.5);
    }
}
