//! The tokens that may still be drawn, and the filters that remove tokens from them.
//!
//! A vocabulary has some hundred thousand entries, and most filters leave a few dozen. So the logits are read in
//! place until the first filter that needs a list, which copies only what it keeps; from then on the list is
//! sorted, the highest logit first, the lowest id among equals.

use crate::random::Random;

/// One token that may still be drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Candidate {
    pub id: u32,
    pub logit: f32,
}

impl Candidate {
    fn order(&self, other: &Self) -> std::cmp::Ordering {
        other.logit.total_cmp(&self.logit).then(self.id.cmp(&other.id))
    }
}

/// What is left of the vocabulary. Holds its memory from token to token.
#[derive(Debug, Default)]
pub(super) struct Candidates {
    list: Vec<Candidate>,
    /// Whether the list holds the remaining tokens; otherwise all logits remain.
    listed: bool,
    /// The divisor to apply to the logits when they are listed.
    divisor: f32,
    /// The original values of logits that were changed in place.
    changed: Vec<(u32, f32)>,
    weights: Vec<f64>,
}

impl Candidates {
    /// Starts with all tokens.
    pub fn reset(&mut self) {
        self.list.clear();
        self.listed = false;
        self.divisor = 1.0;
    }

    /// Restores the logits.
    pub fn restore(&mut self, logits: &mut [f32]) {
        for (id, logit) in self.changed.drain(..).rev() {
            logits[id as usize] = logit;
        }
    }

    /// Changes the logits of some tokens. `changes` is sorted by id; ids outside the vocabulary are ignored.
    pub fn change<T>(&mut self, logits: &mut [f32], changes: &[(u32, T)], change: impl Fn(f32, &T) -> f32) {
        if self.divisor != 1.0 {
            self.list_top(logits, 0);
        }
        if self.listed {
            for candidate in &mut self.list {
                if let Ok(at) = changes.binary_search_by_key(&candidate.id, |&(id, _)| id) {
                    candidate.logit = change(candidate.logit, &changes[at].1);
                }
            }
            self.list.sort_unstable_by(Candidate::order);
            return;
        }
        for (id, how) in changes {
            if let Some(logit) = logits.get_mut(*id as usize) {
                self.changed.push((*id, *logit));
                *logit = change(*logit, how);
            }
        }
    }

    /// The list, sorted.
    pub fn list(&mut self, logits: &[f32]) -> &[Candidate] {
        self.list_top(logits, 0);
        &self.list
    }

    /// Keeps the `top_k` highest logits; all for 0.
    pub fn top_k(&mut self, logits: &[f32], top_k: usize) {
        if top_k > 0 {
            self.list_top(logits, top_k);
            self.list.truncate(top_k);
        }
    }

    /// Lists the `top_k` best candidates (all for 0), sorted, unless there is a list. One pass over the vocabulary
    /// with a rising threshold: sorting 128 thousand logits for every token would cost more than the rest of
    /// sampling together.
    fn list_top(&mut self, logits: &[f32], top_k: usize) {
        if self.listed {
            return;
        }
        self.listed = true;
        let kept = &mut self.list;
        let k = if top_k == 0 { logits.len() } else { top_k.min(logits.len()) };
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
        self.finish_list();
        self.list.truncate(k);
    }

    /// Lists what is at least `floor`, unless there is a list.
    fn list_above(&mut self, logits: &[f32], floor: f32) {
        if self.listed {
            return;
        }
        self.listed = true;
        let all = logits.iter().enumerate().map(|(id, &logit)| Candidate { id: id as u32, logit });
        self.list.extend(all.filter(|c| c.logit >= floor));
        self.finish_list();
    }

    fn finish_list(&mut self) {
        self.list.sort_unstable_by(Candidate::order);
        let divisor = std::mem::replace(&mut self.divisor, 1.0);
        if divisor != 1.0 {
            self.list.iter_mut().for_each(|c| c.logit /= divisor);
        }
    }

    /// The highest logit, undivided.
    fn highest(&self, logits: &[f32]) -> f32 {
        match self.listed {
            true => self.list.first().map_or(f32::NEG_INFINITY, |c| c.logit),
            false => logits.iter().copied().fold(f32::NEG_INFINITY, f32::max),
        }
    }

    /// Divides all logits by a temperature above 0.
    pub fn temperature(&mut self, temperature: f32) {
        if self.listed {
            self.list.iter_mut().for_each(|c| c.logit /= temperature);
        } else {
            self.divisor *= temperature;
        }
    }

    /// Top-nσ: keeps logits at most `n` standard deviations of all (finite) logits below the highest.
    pub fn top_n_sigma(&mut self, logits: &[f32], n: f32) {
        if n <= 0.0 {
            return;
        }
        let list = self.list.iter().map(|c| c.logit);
        let deviation = if self.listed { deviation(list) } else { deviation(logits.iter().copied()) };
        // Dividing all logits divides their deviation, so that the divisor does not matter here.
        let floor = (f64::from(self.highest(logits)) - f64::from(n) * deviation) as f32;
        self.keep_above(logits, floor);
    }

    /// Min-p: keeps tokens at least `min_p` times as probable as the most probable one.
    pub fn min_p(&mut self, logits: &[f32], min_p: f32) {
        if min_p > 0.0 {
            let floor = self.highest(logits) + min_p.ln() * self.divisor;
            self.keep_above(logits, floor);
        }
    }

    fn keep_above(&mut self, logits: &[f32], floor: f32) {
        if self.listed {
            let kept = self.list.partition_point(|c| c.logit >= floor);
            self.list.truncate(kept.max(1));
        } else {
            self.list_above(logits, floor);
        }
    }

    /// Top-p: keeps the most probable tokens until their probabilities reach `top_p`.
    pub fn top_p(&mut self, logits: &[f32], top_p: f32) {
        if top_p >= 1.0 {
            return;
        }
        self.list_top(logits, 0);
        let goal = self.weigh() * f64::from(top_p);
        let mut reached = 0.0;
        let last = self.weights.iter().position(|weight| {
            reached += weight;
            reached >= goal
        });
        self.list.truncate(last.map_or(self.list.len(), |last| last + 1));
    }

    /// Locally typical: keeps tokens in the order of |surprise - entropy| until their probabilities pass
    /// `typical_p`.
    pub fn typical(&mut self, logits: &[f32], typical_p: f32) {
        if typical_p >= 1.0 {
            return;
        }
        self.list_top(logits, 0);
        let total = self.weigh();
        let probabilities = self.weights.iter().map(|w| w / total);
        let surprise = |p: f64| if p > 0.0 { -p.ln() } else { f64::INFINITY };
        let entropy: f64 = probabilities.clone().filter(|&p| p > 0.0).map(|p| p * surprise(p)).sum();
        let mut far: Vec<(f64, usize, f64)> =
            probabilities.enumerate().map(|(at, p)| ((surprise(p) - entropy).abs(), at, p)).collect();
        far.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let mut reached = 0.0;
        let last = far.iter().position(|&(_, _, p)| {
            reached += p;
            reached > f64::from(typical_p)
        });
        let mut kept: Vec<Candidate> =
            far[..last.map_or(far.len(), |last| last + 1)].iter().map(|&(_, at, _)| self.list[at]).collect();
        kept.sort_unstable_by(Candidate::order);
        self.list = kept;
    }

    /// XTC ("exclude top choices"): drops all tokens of at least probability `threshold` but the last of them.
    pub fn xtc(&mut self, logits: &[f32], threshold: f32) {
        self.list_top(logits, 0);
        let goal = self.weigh() * f64::from(threshold);
        let likely = self.weights.iter().take_while(|&&w| w >= goal).count();
        self.list.drain(..likely.saturating_sub(1));
    }

    /// Weights of the list, as they are drawn with, their sum being returned.
    fn weigh(&mut self) -> f64 {
        let highest = self.list.first().map_or(0.0, |c| f64::from(c.logit));
        self.weights.clear();
        self.weights.extend(self.list.iter().map(|c| (f64::from(c.logit) - highest).exp()));
        self.weights.iter().sum()
    }

    /// The sum of all weights relative to the highest logit, and that logit.
    pub fn total(&mut self, logits: &[f32]) -> (f64, f32) {
        let highest = self.highest(logits);
        if self.listed {
            return (self.weigh(), highest);
        }
        let divisor = f64::from(self.divisor);
        let weight = |&l: &f32| ((f64::from(l) - f64::from(highest)) / divisor).exp();
        (logits.iter().map(weight).sum(), highest)
    }

    /// Keeps what has at least the share `share` of the sum of all weights; the highest logit always stays.
    pub fn keep_share(&mut self, logits: &[f32], share: f64) {
        let (total, highest) = self.total(logits);
        let below = (share * total).ln() * f64::from(self.divisor);
        let floor = f64::from(highest) + below;
        self.keep_above(logits, (floor as f32).min(highest));
    }

    /// Draws one; with it, the probability it had. `None` if no logit is finite or one is infinite.
    pub fn draw(&mut self, logits: &[f32], random: &mut Random) -> Option<(u32, f64)> {
        self.list_top(logits, 0);
        if !self.list.first()?.logit.is_finite() {
            return None;
        }
        let total = self.weigh();
        let mut left = random.unit() * total;
        let drawn = self.weights.iter().position(|weight| {
            left -= weight;
            left < 0.0
        });
        // If rounding loses the remainder, the last candidate with any weight is drawn.
        let at = drawn.or_else(|| self.weights.iter().rposition(|&w| w > 0.0))?;
        Some((self.list[at].id, self.weights[at] / total))
    }
}

/// Standard deviation of the logits that are finite.
fn deviation(logits: impl Iterator<Item = f32> + Clone) -> f64 {
    let finite = logits.filter(|l| l.is_finite()).map(f64::from);
    let (count, sum) = finite.clone().fold((0u32, 0.0), |(n, sum), l| (n + 1, sum + l));
    let mean = sum / f64::from(count.max(1));
    let squares: f64 = finite.map(|l| (l - mean).powi(2)).sum();
    (squares / f64::from(count.max(1))).sqrt()
}

/// The highest logit's id, the lowest among equals; `None` if no logit is finite or one is infinite.
pub(super) fn greedy(logits: &[f32]) -> Option<u32> {
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

    #[test]
    fn top_k_in_one_pass_equals_sorting() {
        let mut random = Random::new(3);
        for size in [1usize, 5, 63, 64, 65, 129, 1000, 5000] {
            // Coarse values make many ties.
            let logits: Vec<f32> = (0..size).map(|_| random.below(50) as f32).collect();
            for k in [1usize, 2, 40, 100, size] {
                let mut candidates = Candidates::default();
                candidates.reset();
                candidates.top_k(&logits, k);
                let got: Vec<u32> = candidates.list.iter().map(|c| c.id).collect();
                let mut ids: Vec<u32> = (0..size as u32).collect();
                ids.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b)));
                ids.truncate(k);
                assert_eq!(got, ids, "size {size}, k {k}");
            }
        }
    }

    #[test]
    fn filters_give_the_same_from_the_logits_and_from_a_list() {
        let mut random = Random::new(5);
        let logits: Vec<f32> = (0..500).map(|_| 8.0 * random.unit() as f32).collect();
        let run = |listed: bool, temperature: f32, filter: &dyn Fn(&mut Candidates)| {
            let mut candidates = Candidates::default();
            candidates.reset();
            if listed {
                candidates.list(&logits);
            }
            candidates.temperature(temperature);
            filter(&mut candidates);
            candidates.list(&logits).to_vec()
        };
        let filters: [&dyn Fn(&mut Candidates); 4] = [
            &|c| c.min_p(&logits, 0.2),
            &|c| c.top_n_sigma(&logits, 1.0),
            &|c| c.keep_share(&logits, 0.01),
            &|c| c.keep_share(&logits, 2.0),
        ];
        for (index, filter) in filters.iter().enumerate() {
            for temperature in [1.0, 0.5, 2.0] {
                let (lazy, eager) = (run(false, temperature, filter), run(true, temperature, filter));
                assert_eq!(lazy, eager, "filter {index} at temperature {temperature}");
                assert!(!lazy.is_empty() && lazy.len() < 500, "filter {index}: {} are left", lazy.len());
            }
        }
    }

    #[test]
    fn changes_are_undone_and_work_on_a_list_too() {
        let mut logits = vec![1.0, 2.0, 3.0, 4.0];
        let mut candidates = Candidates::default();
        candidates.reset();
        candidates.change(&mut logits, &[(1, 10.0), (3, -10.0), (9, 1.0)], |l, by| l + by);
        candidates.change(&mut logits, &[(1, 5.0)], |l, by| l + by);
        assert_eq!(logits, [1.0, 17.0, 3.0, -6.0]);
        candidates.temperature(2.0);
        candidates.change(&mut logits, &[(2, 100.0)], |l, by| l + by);
        let ids: Vec<(u32, f32)> = candidates.list(&logits).iter().map(|c| (c.id, c.logit)).collect();
        assert_eq!(ids, [(2, 101.5), (1, 8.5), (0, 0.5), (3, -3.0)]);
        candidates.restore(&mut logits);
        assert_eq!(logits, [1.0, 2.0, 3.0, 4.0]);
    }
}
