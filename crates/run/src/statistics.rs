//! The arithmetic behind the reports: log-probabilities, running means, Kullback-Leibler divergence.

pub use quern_compute::ops::{kl_divergence, log_sum_exp, top1};

/// Mean and standard deviation of a sample (n - 1 below the root; 0 for fewer than two values).
pub fn mean_and_deviation(values: &[f64]) -> (f64, f64) {
    if values.is_empty() {
        return (0.0, 0.0);
    }
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    if values.len() < 2 {
        return (mean, 0.0);
    }
    let squares: f64 = values.iter().map(|v| (v - mean) * (v - mean)).sum();
    (mean, (squares / (n - 1.0)).sqrt())
}

/// Sums of negative log-likelihoods, from which perplexity and its standard error follow.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Likelihood {
    sum: f64,
    squares: f64,
    count: usize,
}

impl Likelihood {
    /// Adds one scored token's negative log-likelihood.
    pub fn add(&mut self, nll: f64) {
        self.sum += nll;
        self.squares += nll * nll;
        self.count += 1;
    }

    /// Tokens scored.
    pub fn count(&self) -> usize {
        self.count
    }

    /// exp of the mean negative log-likelihood; NaN before the first token.
    pub fn perplexity(&self) -> f64 {
        self.mean().exp()
    }

    /// Logarithm of the perplexity: the mean itself; NaN before the first token.
    pub fn mean(&self) -> f64 {
        self.sum / self.count as f64
    }

    /// Standard error of the mean, `sqrt(variance / (count - 1))`. 0 below two tokens.
    pub fn mean_error(&self) -> f64 {
        if self.count < 2 {
            return 0.0;
        }
        let n = self.count as f64;
        let mean = self.sum / n;
        let variance = (self.squares / n - mean * mean).max(0.0);
        (variance / (n - 1.0)).sqrt()
    }

    /// Standard error of the perplexity: that of the mean carried through the exponential. 0 below two tokens.
    pub fn standard_error(&self) -> f64 {
        if self.count < 2 { 0.0 } else { self.perplexity() * self.mean_error() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f64, b: f64, tolerance: f64) -> bool {
        (a - b).abs() <= tolerance * b.abs().max(1.0)
    }

    #[test]
    fn perplexity_of_known_likelihoods() {
        let mut sums = Likelihood::default();
        for nll in [1.0, 2.0, 4.0] {
            sums.add(nll);
        }
        let mean: f64 = 7.0 / 3.0;
        assert!(close(sums.perplexity(), mean.exp(), 1e-12));
        // Variance over n: (21 - 49/3) / 3 = 14/9; over (count - 1) = 2.
        assert!(close(sums.standard_error(), mean.exp() * (14.0f64 / 18.0).sqrt(), 1e-12));
        assert!(close(sums.mean(), mean, 1e-12) && close(sums.mean_error(), (14.0f64 / 18.0).sqrt(), 1e-12));
        assert_eq!(sums.count(), 3);
    }

    #[test]
    fn mean_and_deviation_of_a_sample() {
        let (mean, deviation) = mean_and_deviation(&[2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0]);
        assert!(close(mean, 5.0, 1e-12) && close(deviation, (32.0f64 / 7.0).sqrt(), 1e-12));
        assert_eq!(mean_and_deviation(&[3.0]), (3.0, 0.0));
    }
}
