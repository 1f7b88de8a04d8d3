//! What an error in the embedding's rows costs, by the gradients of the loss.

use quern_compute::Pool;
use quern_compute::parallel::{part_of, share};
use quern_model::TensorRole;
use quern_run::{GradientObserver, Gradients, LinearGradient, Model, ObserverError, Target};

use super::Gram;
use crate::calibrated::Calibration;
use crate::gptq::Hessian;

/// Tokens that are run at least, if there are so many, …
const TOKENS: usize = 8192;
/// … and for each column.
const TOKENS_PER_COLUMN: usize = 4;
/// Tokens whose residual streams are kept at once, unless one sequence has more: one for each block.
const AT_ONCE: usize = 2048;

/// Some of the calibration's sequences, spread evenly over them, in parts that are run at once.
pub(in super::super) struct Sample<'a> {
    parts: Vec<Vec<&'a Vec<u32>>>,
}

impl<'a> Sample<'a> {
    /// Those for an embedding with so many columns.
    pub fn of(calibration: &'a Calibration, columns: usize) -> Self {
        let sequences = &calibration.samples.sequences;
        let count = sequences.len().max(1);
        let all: usize = sequences.iter().map(Vec::len).sum();
        let wanted = TOKENS.max(TOKENS_PER_COLUMN * columns);
        let take = wanted.div_ceil((all / count).max(1)).min(count);
        let mut parts: Vec<Vec<&Vec<u32>>> = Vec::new();
        let mut room = 0;
        for sequence in (0..take).filter_map(|i| sequences.get(i * count / take)) {
            match parts.last_mut().filter(|_| sequence.len() <= room) {
                Some(part) => part.push(sequence),
                None => {
                    parts.push(vec![sequence]);
                    room = AT_ONCE;
                }
            }
            room = room.saturating_sub(sequence.len());
        }
        Self { parts }
    }

    /// Most tokens of a part.
    fn largest(&self) -> usize {
        let tokens = |part: &Vec<&Vec<u32>>| part.iter().map(|sequence| sequence.len()).sum();
        self.parts.iter().map(tokens).max().unwrap_or(0)
    }
}

/// Bytes of memory for the gradients of a sample, beside the mapped model.
pub(in super::super) fn memory(model: &Model, sample: &Sample<'_>) -> u64 {
    let config = model.config();
    let tokens = sample.largest() as u64;
    let (hidden, ffn) = (config.hidden_size as u64, config.ffn_size as u64);
    let (query, key) = ((config.heads * config.head_dim) as u64, (config.kv_heads * config.head_dim) as u64);
    let streams = (config.layers as u64 + 3) * tokens * hidden;
    let activations = tokens * (6 * hidden + 4 * ffn + 4 * query + 6 * key);
    let block = hidden * (3 * ffn + 2 * query + 2 * key);
    // Logits with their gradients, a part of the head in two orders.
    let head = (config.vocab_size as u64 * 16).max(1 << 25) + 2 * 4096 * hidden;
    4 * (streams + activations + block + head)
}

/// Sums the products of gradients over the sample: of tokens drawn from the model, so that the sum is the curvature of
/// the divergence from it. With the head's share if it is `tied`.
pub(super) fn gram(model: &Model, sample: &Sample<'_>, tied: bool) -> Result<Gram, quern_run::Error> {
    let mut sums =
        Sums { pool: model.pool(), sum: Hessian::new(model.config().hidden_size), tied, tokens: 0 };
    for (seed, part) in sample.parts.iter().enumerate() {
        let texts: Vec<Vec<u32>> = part.iter().map(|&sequence| sequence.clone()).collect();
        Gradients::new(model, &texts)?.run(Target::Drawn { seed: seed as u64 }, &mut sums)?;
    }
    Ok(Gram { sum: sums.sum, tokens: Some(sums.tokens) })
}

struct Sums<'a> {
    pool: &'a Pool,
    sum: Hessian,
    tied: bool,
    /// Tokens whose gradients were seen.
    tokens: u64,
}

impl GradientObserver for Sums<'_> {
    /// The head's share. An error `e` in row `r` changes the loss by `½ Σ_t δ_tr² (e x_t)²`. Rows that are read often as
    /// inputs are predicted about as often, so the sums over all rows stand for each of them.
    fn linear(&mut self, gradient: &LinearGradient<'_>) -> Result<(), ObserverError> {
        let linear = &gradient.linear;
        if !self.tied || linear.layer.is_some() || linear.role != TensorRole::TokenEmbedding {
            return Ok(());
        }
        let (rows, columns) = (linear.rows, linear.columns);
        if columns != self.sum.columns() {
            return Ok(());
        }
        let mut weighted = gradient.inputs.to_vec();
        let tokens = (part_of(self.pool, gradient.gradients.len(), rows) / rows).max(1);
        let parts = weighted.chunks_mut(tokens * columns).zip(gradient.gradients.chunks(tokens * rows));
        share(self.pool, parts, |(inputs, gradients)| {
            for (x, d) in inputs.chunks_exact_mut(columns).zip(gradients.chunks_exact(rows)) {
                let weight = d.iter().map(|d| d * d).sum::<f32>().sqrt();
                x.iter_mut().for_each(|x| *x *= weight);
            }
        });
        self.sum.add(self.pool, &weighted);
        Ok(())
    }

    fn residual(&mut self, layer: usize, gradients: &[f32]) -> Result<(), ObserverError> {
        if layer == 0 {
            self.sum.add(self.pool, gradients);
            self.tokens += (gradients.len() / self.sum.columns()) as u64;
        }
        Ok(())
    }
}
