//! From logits to the next token.
//!
//! The chain is llama.cpp's default one, in its order:
//!
//! ```text
//! logits -> repeat penalty -> top-k -> top-p -> min-p -> temperature -> draw
//! ```
//!
//! so top-p and min-p see probabilities at temperature 1. Temperature 0 means greedy: the highest logit
//! after the penalty, the lowest id among equals. Everything is ordered by (logit, id), so the outcome
//! depends on the logits and the seed alone, never on threads.

use crate::random::Random;
use crate::{Error, Result};

/// What to do with the logits. The defaults are llama.cpp's.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingOptions {
    /// Divides the logits before the draw; 0 (or less) is greedy.
    pub temperature: f32,
    /// Keep the `top_k` highest logits; 0 keeps all.
    pub top_k: usize,
    /// Keep the smallest set of most probable tokens whose probabilities reach `top_p`; 1 keeps all.
    pub top_p: f32,
    /// Drop tokens less probable than `min_p` times the most probable one; 0 keeps all.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of recent tokens; 1 does nothing.
    pub repeat_penalty: f32,
    /// How many recent tokens (prompt included) the penalty looks at.
    pub repeat_window: usize,
    /// Seed of the draw.
    pub seed: u64,
}

impl Default for SamplingOptions {
    fn default() -> Self {
        Self {
            temperature: 0.8,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            repeat_penalty: 1.0,
            repeat_window: 64,
            seed: 0,
        }
    }
}

impl SamplingOptions {
    /// Greedy decoding: always the highest logit.
    pub fn greedy() -> Self {
        Self { temperature: 0.0, ..Self::default() }
    }

    /// Checks that every number makes sense.
    ///
    /// # Errors
    /// [`Error::Option`] naming the option and its range.
    pub fn check(&self) -> Result<()> {
        let rules = [
            ("temperature", self.temperature, self.temperature.is_finite(), "a finite number"),
            ("top-p", self.top_p, self.top_p > 0.0 && self.top_p <= 1.0, "above 0, at most 1"),
            ("min-p", self.min_p, (0.0..=1.0).contains(&self.min_p), "from 0 to 1"),
            (
                "repeat-penalty",
                self.repeat_penalty,
                self.repeat_penalty > 0.0 && self.repeat_penalty.is_finite(),
                "a finite number above 0",
            ),
        ];
        for (name, value, holds, rule) in rules {
            if !holds {
                return Err(Error::Option(format!("{name} is {value}, it must be {rule}")));
            }
        }
        Ok(())
    }
}

/// One token that may still be drawn.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    id: u32,
    logit: f32,
}

impl Candidate {
    /// Highest logit first, lowest id among equals.
    fn order(&self, other: &Self) -> std::cmp::Ordering {
        other.logit.total_cmp(&self.logit).then(self.id.cmp(&other.id))
    }
}

/// Draws tokens. Holds the generator, the recent tokens and its scratch memory.
#[derive(Debug)]
pub struct Sampler {
    options: SamplingOptions,
    random: Random,
    /// The last `repeat_window` tokens in a ring.
    recent: Vec<u32>,
    next: usize,
    candidates: Vec<Candidate>,
    penalized: Vec<(u32, f32)>,
    weights: Vec<f64>,
}

impl Sampler {
    /// A sampler for these options.
    ///
    /// # Errors
    /// [`Error::Option`] if one of them is out of range.
    pub fn new(options: SamplingOptions) -> Result<Self> {
        options.check()?;
        let random = Random::new(options.seed);
        Ok(Self {
            random,
            recent: Vec::new(),
            next: 0,
            candidates: Vec::new(),
            penalized: Vec::new(),
            weights: Vec::new(),
            options,
        })
    }

    /// Tells the sampler of a token of the text so far (prompt or generated): the penalty looks back.
    pub fn accept(&mut self, token: u32) {
        let window = self.options.repeat_window;
        if window == 0 {
            return;
        }
        if self.recent.len() < window {
            self.recent.push(token);
        } else {
            self.recent[self.next] = token;
        }
        self.next = (self.next + 1) % window;
    }

    /// Picks the next token from `logits` (one per vocabulary entry, at temperature 1). The penalty is
    /// undone before returning: the logits come back as they were.
    ///
    /// # Errors
    /// [`Error::NotFinite`] if the logits hold a NaN or no finite value.
    pub fn sample(&mut self, logits: &mut [f32]) -> Result<u32> {
        if logits.iter().any(|l| l.is_nan()) {
            return Err(Error::NotFinite);
        }
        self.penalize(logits);
        let token = if self.options.temperature <= 0.0 { greedy(logits) } else { self.draw(logits) };
        for &(id, logit) in &self.penalized {
            logits[id as usize] = logit;
        }
        token.ok_or(Error::NotFinite)
    }

    fn penalize(&mut self, logits: &mut [f32]) {
        self.penalized.clear();
        let penalty = self.options.repeat_penalty;
        if penalty == 1.0 {
            return;
        }
        for &id in &self.recent {
            // Once per token, however often it occurred.
            if self.penalized.iter().any(|&(seen, _)| seen == id) {
                continue;
            }
            if let Some(logit) = logits.get_mut(id as usize) {
                self.penalized.push((id, *logit));
                *logit = if *logit <= 0.0 { *logit * penalty } else { *logit / penalty };
            }
        }
    }

    fn draw(&mut self, logits: &[f32]) -> Option<u32> {
        self.keep_top_k(logits);
        let highest = self.candidates.first()?.logit;
        if !highest.is_finite() {
            return None;
        }
        self.keep_top_p(highest);
        if self.options.min_p > 0.0 {
            let floor = highest + self.options.min_p.ln();
            // The list is sorted; the first one always stays (ln(1) = 0).
            let kept = self.candidates.partition_point(|c| c.logit >= floor);
            self.candidates.truncate(kept.max(1));
        }
        let scale = 1.0 / f64::from(self.options.temperature);
        self.weigh(highest, scale);
        let total: f64 = self.weights.iter().sum();
        let mut left = self.random.unit() * total;
        for (candidate, weight) in self.candidates.iter().zip(&self.weights) {
            left -= weight;
            if left < 0.0 {
                return Some(candidate.id);
            }
        }
        // Rounding ate the last sliver: the last candidate with any weight owns it.
        let last = self.weights.iter().rposition(|&w| w > 0.0)?;
        Some(self.candidates[last].id)
    }

    /// The `top_k` best candidates, sorted. One pass over the vocabulary with a rising threshold:
    /// sorting 128 thousand logits for every token would cost more than the rest of sampling together.
    fn keep_top_k(&mut self, logits: &[f32]) {
        let kept = &mut self.candidates;
        kept.clear();
        let k = if self.options.top_k == 0 { logits.len() } else { self.options.top_k.min(logits.len()) };
        let room = k.saturating_mul(2).max(64);
        let mut threshold = f32::NEG_INFINITY;
        for (id, &logit) in logits.iter().enumerate() {
            // Equal logits may be skipped once k better-or-equal ones with lower ids are held.
            if logit <= threshold && kept.len() >= k {
                continue;
            }
            kept.push(Candidate { id: id as u32, logit });
            if kept.len() >= room && room < logits.len() {
                kept.select_nth_unstable_by(k - 1, Candidate::order);
                kept.truncate(k);
                threshold = kept[k - 1].logit;
            }
        }
        kept.sort_unstable_by(Candidate::order);
        kept.truncate(k);
    }

    fn keep_top_p(&mut self, highest: f32) {
        if self.options.top_p >= 1.0 {
            return;
        }
        self.weigh(highest, 1.0);
        let goal = self.weights.iter().sum::<f64>() * f64::from(self.options.top_p);
        let mut reached = 0.0;
        for (index, weight) in self.weights.iter().enumerate() {
            reached += weight;
            if reached >= goal {
                self.candidates.truncate(index + 1);
                return;
            }
        }
    }

    /// exp((logit - highest) * scale) of every candidate.
    fn weigh(&mut self, highest: f32, scale: f64) {
        self.weights.clear();
        self.weights.extend(self.candidates.iter().map(|c| (f64::from(c.logit - highest) * scale).exp()));
    }
}

/// The highest logit's id, the lowest among equals; `None` if no logit is finite or one is infinite.
fn greedy(logits: &[f32]) -> Option<u32> {
    let mut best = 0;
    for (id, &logit) in logits.iter().enumerate() {
        if logit > logits[best] {
            best = id;
        }
    }
    logits.get(best).filter(|l| l.is_finite()).map(|_| best as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampler(options: SamplingOptions) -> Sampler {
        Sampler::new(options).unwrap()
    }

    /// No filter, temperature 1.
    fn plain() -> SamplingOptions {
        SamplingOptions { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, ..SamplingOptions::default() }
    }

    fn counts(options: SamplingOptions, logits: &[f32], draws: usize) -> Vec<usize> {
        let mut sampler = sampler(options);
        let mut counts = vec![0; logits.len()];
        let mut logits = logits.to_vec();
        for _ in 0..draws {
            counts[sampler.sample(&mut logits).unwrap() as usize] += 1;
        }
        counts
    }

    /// Compares frequencies with probabilities: each within five standard deviations.
    fn assert_distribution(counts: &[usize], expected: &[f64]) {
        let draws: usize = counts.iter().sum();
        for (id, (&n, &p)) in counts.iter().zip(expected).enumerate() {
            let deviation = (draws as f64 * p * (1.0 - p)).sqrt();
            let off = (n as f64 - draws as f64 * p).abs();
            assert!(off <= 5.0 * deviation, "token {id}: {n} of {draws}, expected {p}");
        }
    }

    fn logs(probabilities: &[f64]) -> Vec<f32> {
        probabilities.iter().map(|p| p.ln() as f32).collect()
    }

    #[test]
    fn plain_draws_follow_the_softmax() {
        let p = [0.5, 0.2, 0.15, 0.1, 0.05];
        assert_distribution(&counts(plain(), &logs(&p), 100_000), &p);
    }

    #[test]
    fn temperature_sharpens_after_the_filters() {
        // Temperature 0.5 squares the probabilities.
        let p = [0.5, 0.3, 0.2];
        let options = SamplingOptions { temperature: 0.5, ..plain() };
        assert_distribution(&counts(options, &logs(&p), 100_000), &[25.0 / 38.0, 9.0 / 38.0, 4.0 / 38.0]);
        // top-p sees temperature 1: at 0.75 two tokens are needed though the sharpened first has 0.66.
        let options = SamplingOptions { temperature: 0.1, top_p: 0.75, ..plain() };
        let counts = counts(options, &logs(&p), 10_000);
        assert!(counts[1] > 0 && counts[2] == 0, "{counts:?}");
    }

    #[test]
    fn top_k_top_p_and_min_p_cut_where_they_say() {
        let p = [0.1, 0.4, 0.05, 0.3, 0.15];
        let top_k = SamplingOptions { top_k: 2, ..plain() };
        assert_distribution(&counts(top_k, &logs(&p), 50_000), &[0.0, 4.0 / 7.0, 0.0, 3.0 / 7.0, 0.0]);
        let top_p = SamplingOptions { top_p: 0.8, ..plain() };
        assert_distribution(
            &counts(top_p, &logs(&p), 50_000),
            &[0.0, 0.4 / 0.85, 0.0, 0.3 / 0.85, 0.15 / 0.85],
        );
        let min_p = SamplingOptions { min_p: 0.3, ..plain() };
        assert_distribution(
            &counts(min_p, &logs(&p), 50_000),
            &[0.0, 0.4 / 0.85, 0.0, 0.3 / 0.85, 0.15 / 0.85],
        );
        let one = SamplingOptions { min_p: 1.0, ..plain() };
        assert_eq!(counts(one, &logs(&p), 100)[1], 100);
    }

    #[test]
    fn top_k_in_one_pass_equals_sorting() {
        let mut random = Random::new(3);
        for size in [1usize, 5, 63, 64, 65, 129, 1000, 5000] {
            // Coarse values make many ties.
            let logits: Vec<f32> = (0..size).map(|_| random.below(50) as f32).collect();
            for k in [1usize, 2, 40, 100, size] {
                let mut s = sampler(SamplingOptions { top_k: k, ..plain() });
                s.keep_top_k(&logits);
                let got: Vec<u32> = s.candidates.iter().map(|c| c.id).collect();
                let mut ids: Vec<u32> = (0..size as u32).collect();
                ids.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b)));
                ids.truncate(k);
                assert_eq!(got, ids, "size {size}, k {k}");
            }
        }
    }

    #[test]
    fn the_penalty_looks_back_a_window_and_leaves_the_logits_alone() {
        let options = SamplingOptions { repeat_penalty: 2.0, repeat_window: 2, ..SamplingOptions::greedy() };
        let mut s = sampler(options);
        let mut logits = vec![3.0, 2.0, -1.0, 1.6];
        assert_eq!(s.sample(&mut logits).unwrap(), 0);
        s.accept(0);
        s.accept(0);
        assert_eq!(s.sample(&mut logits).unwrap(), 1, "3 / 2 is below 2, and only once");
        s.accept(1);
        assert_eq!(s.sample(&mut logits).unwrap(), 3, "both are halved");
        s.accept(3);
        assert_eq!(s.sample(&mut logits).unwrap(), 0, "the window has passed it");
        assert_eq!(logits, [3.0, 2.0, -1.0, 1.6]);
        let mut negative = vec![-1.0, -1.5];
        let options = SamplingOptions { repeat_penalty: 2.0, ..SamplingOptions::greedy() };
        let mut s = sampler(options);
        s.accept(0);
        assert_eq!(s.sample(&mut negative).unwrap(), 1, "a negative logit sinks");
    }

    #[test]
    fn the_same_seed_draws_the_same_tokens() {
        let logits: Vec<f32> = (0..100).map(|i| ((i * 37) % 100) as f32 / 30.0).collect();
        let run = |seed| {
            let mut s = sampler(SamplingOptions { seed, ..SamplingOptions::default() });
            (0..50).map(|_| s.sample(&mut logits.clone()).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
    }

    #[test]
    fn greedy_takes_the_first_of_equals_and_nan_is_an_error() {
        let mut s = sampler(SamplingOptions::greedy());
        assert_eq!(s.sample(&mut [1.0, 5.0, 5.0]).unwrap(), 1);
        assert!(matches!(s.sample(&mut [1.0, f32::NAN]), Err(Error::NotFinite)));
        assert!(matches!(s.sample(&mut [f32::NEG_INFINITY; 3]), Err(Error::NotFinite)));
        let mut s = sampler(SamplingOptions::default());
        assert!(matches!(s.sample(&mut [f32::NAN, 1.0]), Err(Error::NotFinite)));
        assert!(matches!(s.sample(&mut [f32::INFINITY, 1.0]), Err(Error::NotFinite)));
        assert!(matches!(s.sample(&mut []), Err(Error::NotFinite)));
        assert_eq!(s.sample(&mut [f32::NEG_INFINITY, 1.0]).unwrap(), 1);
    }

    #[test]
    fn options_out_of_range_are_refused_by_name() {
        let bad = [
            (SamplingOptions { top_p: 0.0, ..plain() }, "top-p"),
            (SamplingOptions { min_p: 1.5, ..plain() }, "min-p"),
            (SamplingOptions { repeat_penalty: 0.0, ..plain() }, "repeat-penalty"),
            (SamplingOptions { temperature: f32::NAN, ..plain() }, "temperature"),
        ];
        for (options, name) in bad {
            let message = Sampler::new(options).unwrap_err().to_string();
            assert!(message.contains(name), "{message}");
        }
    }
}
