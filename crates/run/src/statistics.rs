//! The arithmetic behind the reports: log-probabilities, running means, Kullback-Leibler divergence.

/// Natural logarithm of the sum of exponentials of a row of logits, without overflow: the maximum is
/// taken out first and the sum is kept in f64, as llama-perplexity does. NaN if the row holds one.
pub fn log_sum_exp(logits: &[f32]) -> f64 {
    // f32::max ignores NaN; the sum below becomes NaN again.
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    // Eight accumulators: the loop is as long as the vocabulary and one sum would wait on each addition.
    let mut sums = [0f64; 8];
    let mut chunks = logits.chunks_exact(8);
    for chunk in &mut chunks {
        for (sum, &l) in sums.iter_mut().zip(chunk) {
            *sum += f64::from((l - highest).exp());
        }
    }
    for (sum, &l) in sums.iter_mut().zip(chunks.remainder()) {
        *sum += f64::from((l - highest).exp());
    }
    f64::from(highest) + sums.iter().sum::<f64>().ln()
}

/// Negative log-likelihood of `target` under the softmax of `logits`, in nats.
pub fn negative_log_likelihood(logits: &[f32], target: u32) -> f64 {
    log_sum_exp(logits) - f64::from(logits[target as usize])
}

/// Kullback-Leibler divergence of the softmax of `logits` from that of `reference`, in nats:
/// sum of p (ln p - ln q) with p the reference's probabilities. Never below 0 except for rounding.
pub fn kl_divergence(reference: &[f32], logits: &[f32]) -> f64 {
    let (p_norm, q_norm) = (log_sum_exp(reference), log_sum_exp(logits));
    let mut sum = 0.0;
    for (&p, &q) in reference.iter().zip(logits) {
        let log_p = f64::from(p) - p_norm;
        let weight = log_p.exp();
        if weight > 0.0 {
            sum += weight * (log_p - (f64::from(q) - q_norm));
        }
    }
    sum
}

/// Index of the highest value, the lowest index among equals.
pub fn top1(logits: &[f32]) -> usize {
    let mut best = 0;
    for (index, &logit) in logits.iter().enumerate() {
        if logit > logits[best] {
            best = index;
        }
    }
    best
}

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
    fn log_sum_exp_is_stable_and_right() {
        let logits: Vec<f32> = (0..37).map(|i| (i as f32 * 0.7).sin() * 5.0).collect();
        let direct = logits.iter().map(|&l| f64::from(l).exp()).sum::<f64>().ln();
        assert!(close(log_sum_exp(&logits), direct, 1e-6));
        let shifted: Vec<f32> = logits.iter().map(|l| l + 512.0).collect();
        assert!(close(log_sum_exp(&shifted), direct + 512.0, 1e-6));
        assert!(log_sum_exp(&[1.0, f32::NAN]).is_nan());
    }

    #[test]
    fn likelihood_of_known_probabilities() {
        let logits: Vec<f32> = [0.7f64, 0.2, 0.1].iter().map(|p| p.ln() as f32).collect();
        assert!(close(negative_log_likelihood(&logits, 1), -(0.2f64.ln()), 1e-6));
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
    fn divergence_is_zero_for_equals_and_known_for_two_coins() {
        let p: Vec<f32> = [0.5f64, 0.5].iter().map(|p| p.ln() as f32).collect();
        let q: Vec<f32> = [0.25f64, 0.75].iter().map(|p| p.ln() as f32).collect();
        assert!(kl_divergence(&p, &p).abs() < 1e-12);
        let expected = 0.5 * (0.5f64 / 0.25).ln() + 0.5 * (0.5f64 / 0.75).ln();
        assert!(close(kl_divergence(&p, &q), expected, 1e-6));
        assert_eq!(top1(&[1.0, 3.0, 3.0]), 1);
    }

    #[test]
    fn mean_and_deviation_of_a_sample() {
        let (mean, deviation) = mean_and_deviation(&[2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0]);
        assert!(close(mean, 5.0, 1e-12) && close(deviation, (32.0f64 / 7.0).sqrt(), 1e-12));
        assert_eq!(mean_and_deviation(&[3.0]), (3.0, 0.0));
    }
}
