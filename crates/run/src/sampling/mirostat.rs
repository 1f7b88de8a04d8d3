//! Mirostat: the cut follows the surprise of what was drawn (Basu, Ramachandran, Keskar, Varshney: "Mirostat", ICLR
//! 2021). `mu` starts at twice the target; after each draw `mu -= eta * (surprise - tau)`, in bits.
//!
//! - 1.0 estimates the exponent `s` of Zipf's law from the 100 likeliest tokens and keeps the `k` likeliest, where
//!   `k = (e * 2^mu / (1 - N^-e))^(1/s)` with `e = s - 1` and `N` tokens in the vocabulary;
//! - 2.0 keeps the tokens whose own surprise is at most `mu`.

use super::candidates::Candidates;
use super::{Mirostat, MirostatVersion};
use crate::random::Random;

/// Tokens that the exponent is estimated from.
const ESTIMATE_FROM: usize = 100;

/// The state of mirostat.
#[derive(Debug)]
pub(super) struct State {
    options: Mirostat,
    mu: f64,
}

impl State {
    pub fn new(options: Mirostat) -> Self {
        Self { mu: 2.0 * f64::from(options.tau), options }
    }

    /// Forgets what was drawn.
    pub fn reset(&mut self) {
        self.mu = 2.0 * f64::from(self.options.tau);
    }

    /// Cuts and draws.
    pub fn draw(&mut self, candidates: &mut Candidates, logits: &[f32], random: &mut Random) -> Option<u32> {
        match self.options.version {
            MirostatVersion::One => {
                let vocabulary = logits.len();
                let list = candidates.list(logits);
                let likeliest: Vec<f32> = list.iter().take(ESTIMATE_FROM).map(|c| c.logit).collect();
                candidates.top_k(logits, keep(&likeliest, self.mu, vocabulary));
            }
            MirostatVersion::Two => candidates.keep_share(logits, (-self.mu).exp2()),
        }
        let (token, probability) = candidates.draw(logits, random)?;
        self.mu -= f64::from(self.options.eta) * (-probability.log2() - f64::from(self.options.tau));
        Some(token)
    }
}

/// How many tokens the first algorithm keeps, from the likeliest logits in their order.
fn keep(likeliest: &[f32], mu: f64, vocabulary: usize) -> usize {
    let (mut products, mut squares) = (0.0, 0.0);
    for (index, pair) in likeliest.windows(2).enumerate() {
        // The ratio of probabilities is that of the weights.
        let step = ((index + 2) as f64 / (index + 1) as f64).ln();
        products += step * f64::from(pair[0] - pair[1]);
        squares += step * step;
    }
    let s = products / squares;
    let excess = s - 1.0;
    let k = (excess * mu.exp2() / (1.0 - (vocabulary as f64).powf(-excess))).powf(1.0 / s);
    // No estimate (one token, all equal, or the pole at s = 1): all tokens are kept.
    if k.is_finite() { (k as usize).clamp(1, vocabulary) } else { vocabulary }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Logits of Zipf's law with exponent `s`.
    fn zipf(s: f64, size: usize) -> Vec<f32> {
        (0..size).map(|i| (-s * ((i + 1) as f64).ln()) as f32).collect()
    }

    #[test]
    fn the_mean_surprise_comes_to_the_target() {
        for version in [MirostatVersion::One, MirostatVersion::Two] {
            for tau in [2.0, 4.0, 6.0] {
                let logits = zipf(1.1, 5000);
                let total: f64 = logits.iter().map(|&l| f64::from(l).exp()).sum();
                let mut state = State::new(Mirostat { version, tau, eta: 0.1 });
                let (mut random, mut candidates) = (Random::new(4), Candidates::default());
                let mut surprise = 0.0;
                let mut cut = 0.0;
                for round in 0..6000 {
                    candidates.reset();
                    let token = state.draw(&mut candidates, &logits, &mut random).unwrap();
                    if round >= 1000 {
                        let all: f64 =
                            candidates.list(&logits).iter().map(|c| f64::from(c.logit).exp()).sum();
                        surprise -= (f64::from(logits[token as usize]).exp() / all).log2() / 5000.0;
                        cut += all / total / 5000.0;
                    }
                }
                assert!((surprise - f64::from(tau)).abs() < 0.1, "{version:?}, {tau}: {surprise}");
                assert!(cut < 1.0, "something is cut");
            }
        }
    }

    #[test]
    fn the_estimate_of_the_first_algorithm_is_the_exponent() {
        // For Zipf's law with s = 2 the estimate is exact; k is then the paper's formula.
        let k = keep(&zipf(2.0, 100), 8.0, 10_000);
        let expected = (256.0f64 / (1.0 - 1.0 / 10_000.0)).sqrt() as usize;
        assert_eq!(k, expected);
        assert_eq!(keep(&[1.0], 8.0, 50), 50);
        assert_eq!(keep(&[1.0, 1.0, 1.0], 8.0, 50), 50);
    }
}
