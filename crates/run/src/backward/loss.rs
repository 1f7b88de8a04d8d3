//! The loss and its gradient by the residual stream behind the last block.

use quern_compute::parallel::share;
use quern_compute::{Values, ops};

use crate::random::Random;
use crate::{Error, Result};

use super::GradientObserver;
use super::products::{Backward, Machine, transposed};
use super::vectors::Vectors;

/// Numbers of the logits that are computed together.
pub(super) const LOGITS: usize = 1 << 25;
/// Rows of the head that are transposed at a time.
const HEAD_ROWS: usize = 4096;

/// The token that each token's distribution is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The one that follows in the text; a sequence's last token has none and no loss.
    Text,
    /// One drawn from the distribution itself.
    Drawn {
        /// Decides what is drawn.
        seed: u64,
    },
}

/// What one token's distribution is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// Nothing: it has no loss.
    None,
    /// This token.
    Token(u32),
    /// One drawn from the distribution itself.
    Drawn {
        /// Decides what is drawn, …
        seed: u64,
        /// … with the token's place.
        place: usize,
    },
}

/// Cross entropy of the targets.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Loss {
    /// Its sum, in nats.
    pub nats: f64,
    /// Tokens that have a target.
    pub tokens: usize,
}

impl Machine<'_> {
    /// Computes the loss of tokens with these targets, whose residual streams behind the last block are `x`; `d` becomes
    /// its gradient by these.
    pub(super) fn head(
        &mut self,
        targets: &[Choice],
        x: &[f32],
        d: &mut Vectors,
        observer: &mut dyn GradientObserver,
    ) -> Result<Loss> {
        let model = self.model;
        let (config, weights) = (&model.config, &model.weights);
        let hidden = config.hidden_size;
        let tokens = targets.len();
        let step = (LOGITS / config.vocab_size).clamp(16, 2048);
        let norm = weights.output_norm.as_ref().map(|norm| self.norm_on(norm)).transpose()?;
        let head = self.linear_on(&weights.output)?;
        let narrow = match &weights.embedding_out {
            Some(linear) => {
                let moved = self.linear_on(linear)?;
                let back = self.backward(linear, &moved)?;
                Some((linear, moved, back))
            }
            None => None,
        };
        // On a GPU, the whole head at once.
        let head_back = if self.on_cpu() { None } else { Some(self.backward(&weights.output, &head)?) };
        let mut loss = Loss::default();
        for first in (0..tokens).step_by(step) {
            let range = first..tokens.min(first + step);
            let values = range.start * hidden..range.end * hidden;
            self.begin()?;
            let x = self.uploaded(&x[values.clone()])?;
            let normed = match &norm {
                Some(norm) => self.norm(norm, x.values())?,
                None => self.copy(x.values())?,
            };
            let narrowed = match &narrow {
                Some((_, moved, _)) => Some(self.linear(moved, normed.values())?),
                None => None,
            };
            let inputs = narrowed.as_ref().unwrap_or(&normed);
            let mut logits = self.linear(&head, inputs.values())?;
            if let Some(cap) = config.final_softcap {
                self.executor.softcap(logits.values_mut(), config.vocab_size, cap)?;
            }
            let part = self.compared(&targets[range.clone()], &mut logits)?;
            loss = Loss { nats: loss.nats + part.nats, tokens: loss.tokens + part.tokens };
            if !loss.nats.is_finite() {
                return Err(Error::NotFinite);
            }
            self.show(observer, &weights.output, &range, (inputs, &logits))?;
            let mut back = match &head_back {
                Some(weight) => self.back(weight, logits.values())?,
                None => self.through_head(logits.values().host()?)?,
            };
            if let Some((linear, _, weight)) = &narrow {
                self.show(observer, linear, &range, (&normed, &back))?;
                back = self.back(weight, back.values())?;
            }
            if let Some(norm) = &norm {
                self.executor.norm_backward(norm, hidden, x.values(), back.values_mut())?;
            }
            self.executor.copy(back.values(), d.values_mut().slice(values))?;
            self.end()?;
        }
        Ok(loss)
    }

    /// The loss of some tokens; their logits become gradients. On the CPU, wherever the logits are.
    fn compared(&mut self, targets: &[Choice], logits: &mut Vectors) -> Result<Loss> {
        if self.on_cpu() {
            return Ok(self.compare(targets, logits.values_mut().host()?));
        }
        let mut copy = vec![0f32; logits.len()];
        self.executor.download(logits.values(), &mut copy)?;
        let loss = self.compare(targets, &mut copy);
        self.executor.upload(&copy, logits.values_mut())?;
        Ok(loss)
    }

    fn compare(&self, targets: &[Choice], logits: &mut [f32]) -> Loss {
        let (pool, config) = (&self.model.pool, &self.model.config);
        let mut losses = vec![Loss::default(); targets.len()];
        let rows = logits.chunks_exact_mut(config.vocab_size).zip(&mut losses).zip(targets);
        share(pool, rows, |((row, loss), &target)| {
            let chosen = match target {
                Choice::None => None,
                Choice::Token(token) => Some(token),
                Choice::Drawn { seed, place } => Some(draw(row, seed, place)),
            };
            let Some(chosen) = chosen.map(|token| token as usize).filter(|&token| token < row.len()) else {
                return row.fill(0.0);
            };
            let nats = ops::log_sum_exp(row) - f64::from(row[chosen]);
            *loss = Loss { nats, tokens: 1 };
            let slopes: Option<Vec<f32>> =
                config.final_softcap.map(|cap| row.iter().map(|l| 1.0 - (l / cap).powi(2)).collect());
            ops::softmax(pool.level(), row);
            row[chosen] -= 1.0;
            for (value, slope) in row.iter_mut().zip(slopes.into_iter().flatten()) {
                *value *= slope;
            }
        });
        let add = |a: Loss, b: Loss| Loss { nats: a.nats + b.nats, tokens: a.tokens + b.tokens };
        losses.into_iter().fold(Loss::default(), add)
    }

    /// From gradients by logits to those by the head's inputs, some rows of the head at a time.
    fn through_head(&mut self, d_logits: &[f32]) -> Result<Vectors> {
        let model = self.model;
        let head = &model.weights.output;
        let (rows, columns) = (head.op.weight.rows(), head.op.weight.columns());
        let mut back = self.zeros(d_logits.len() / rows * columns)?;
        for first in (0..rows).step_by(HEAD_ROWS) {
            let some = first..rows.min(first + HEAD_ROWS);
            let weight = Backward::Transposed(transposed(&model.pool, head, some.clone())?);
            let d: Vec<f32> =
                d_logits.chunks_exact(rows).flat_map(|row| &row[some.clone()]).copied().collect();
            self.add_back(&weight, Values::Host(&d), back.values_mut())?;
        }
        Ok(back)
    }
}

/// A token drawn from the distribution of its logits, the same for the same seed and place.
fn draw(logits: &[f32], seed: u64, place: usize) -> u32 {
    let mut random = Random::new(seed.wrapping_add((place as u64).wrapping_mul(0x2545_f491_4f6c_dd1d)));
    random.next_u64();
    let (total, wanted) = (ops::log_sum_exp(logits), random.unit());
    let mut sum = 0f64;
    for (token, &logit) in logits.iter().enumerate() {
        sum += (f64::from(logit) - total).exp();
        if sum > wanted {
            return token as u32;
        }
    }
    // Rounding left the sum below one.
    logits.len().saturating_sub(1) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_drawn_as_their_probabilities_say() {
        let logits = [0f32, 2f32.ln(), f32::NEG_INFINITY, 5f32.ln()];
        let mut counts = [0u32; 4];
        for place in 0..80_000 {
            counts[draw(&logits, 9, place) as usize] += 1;
        }
        for (count, expected) in counts.iter().zip([10_000u32, 20_000, 0, 50_000]) {
            // Five standard deviations.
            assert!(count.abs_diff(expected) < 700, "{counts:?}");
        }
        assert_ne!(
            (0..64).map(|place| draw(&logits, 1, place)).collect::<Vec<_>>(),
            (0..64).map(|place| draw(&logits, 2, place)).collect::<Vec<_>>()
        );
    }
}
