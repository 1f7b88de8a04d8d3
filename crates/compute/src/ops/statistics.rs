//! What perplexity takes from rows of logits: log-sum-exp, Kullback-Leibler divergence, the largest.

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
    fn divergence_is_zero_for_equals_and_known_for_two_coins() {
        let p: Vec<f32> = [0.5f64, 0.5].iter().map(|p| p.ln() as f32).collect();
        let q: Vec<f32> = [0.25f64, 0.75].iter().map(|p| p.ln() as f32).collect();
        assert!(kl_divergence(&p, &p).abs() < 1e-12);
        let expected = 0.5 * (0.5f64 / 0.25).ln() + 0.5 * (0.5f64 / 0.75).ln();
        assert!(close(kl_divergence(&p, &q), expected, 1e-6));
        assert_eq!(top1(&[1.0, 3.0, 3.0]), 1);
    }
}
