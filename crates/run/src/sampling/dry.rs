//! DRY: a penalty that grows with the length of the sequence a token would repeat (p-e-w, text-generation-webui
//! pull request 5677; llama.cpp has the same).
//!
//! ```text
//! … a b c d … a b c |   d would continue "a b c": 3 tokens
//! ```
//!
//! A sequence does not reach across a breaker: a text such as a line break, whose tokens are no part of it. Tokens
//! that hold a whole breaker are never penalized.

use std::collections::BTreeMap;

use quern_model::Tokenizer;

use super::DryOptions;

/// Penalties above this are as good as any, and stay finite.
const MOST: f64 = 1e30;

/// Follows the text for [`DryOptions`].
#[derive(Debug)]
pub(super) struct Dry {
    options: DryOptions,
    texts: Texts,
    /// The end of the text so far: one byte less than the longest breaker, at most.
    tail: Vec<u8>,
    /// Tokens since the last breaker.
    free: usize,
}

/// The bytes of all tokens, one after the other.
#[derive(Debug, Default)]
struct Texts {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Texts {
    fn get(&self, token: u32) -> &[u8] {
        let token = token as usize;
        let Some(&end) = self.ends.get(token) else { return &[] };
        let start = if token == 0 { 0 } else { self.ends[token - 1] };
        &self.bytes[start..end]
    }

    fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.ends.push(self.bytes.len());
    }
}

impl Dry {
    /// `None` if the penalty is off. Without a tokenizer there are no breakers.
    pub fn new(options: &DryOptions, tokenizer: Option<&Tokenizer>) -> Option<Self> {
        if options.multiplier == 0.0 || options.window == 0 {
            return None;
        }
        let mut texts = Texts::default();
        if let Some(tokenizer) = tokenizer {
            (0..tokenizer.vocab_size() as u32).for_each(|token| texts.push(&tokenizer.token_bytes(token)));
        }
        Some(Self { options: options.clone(), texts, tail: Vec::new(), free: 0 })
    }

    /// Forgets the text.
    pub fn reset(&mut self) {
        self.tail.clear();
        self.free = 0;
    }

    /// Adds `token` to the text.
    pub fn accept(&mut self, token: u32) {
        let text = self.texts.get(token);
        let old = self.tail.len();
        self.tail.extend_from_slice(text);
        let breaks = |breaker: &String| {
            // The breaker must end in the new bytes.
            let from = (old + 1).saturating_sub(breaker.len());
            contains(&self.tail[from.min(self.tail.len())..], breaker.as_bytes())
        };
        self.free = if self.options.breakers.iter().any(breaks) { 0 } else { self.free + 1 };
        let keep = self.options.breakers.iter().map(|b| b.len() - 1).max().unwrap_or(0);
        self.tail.drain(..self.tail.len().saturating_sub(keep));
    }

    /// The tokens to penalize and by how much, sorted by token. `history` ends with what was accepted.
    pub fn penalties(&self, history: &[u32]) -> Vec<(u32, f32)> {
        let DryOptions { multiplier, base, allowed_length, window, .. } = self.options;
        let recent = &history[history.len().saturating_sub(window)..];
        if recent.len() <= allowed_length || self.free < allowed_length {
            return Vec::new();
        }
        let back: Vec<u32> = recent.iter().rev().copied().collect();
        let mut longest = BTreeMap::new();
        for (ago, length) in prefix_lengths(&back).into_iter().enumerate().skip(1) {
            let length = length.min(self.free);
            if length >= allowed_length {
                // The token after that earlier occurrence.
                let known = longest.entry(back[ago - 1]).or_insert(length);
                *known = length.max(*known);
            }
        }
        let is_breaker = |token: u32| {
            let text = self.texts.get(token);
            self.options.breakers.iter().any(|breaker| contains(text, breaker.as_bytes()))
        };
        let penalty = |length: usize| {
            let exponent = (length - allowed_length) as f64;
            (f64::from(multiplier) * f64::from(base).powf(exponent)).min(MOST) as f32
        };
        longest.into_iter().filter(|&(t, _)| !is_breaker(t)).map(|(t, length)| (t, penalty(length))).collect()
    }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.len() >= part.len() && text.windows(part.len()).any(|window| window == part)
}

/// For each place of `s`, how many items from there on equal those from the beginning on: the Z-algorithm, whose
/// time is linear because each comparison that holds moves `end` on.
fn prefix_lengths(s: &[u32]) -> Vec<usize> {
    let mut lengths = vec![0; s.len()];
    let (mut start, mut end) = (0, 0);
    for at in 1..s.len() {
        let mut length = if at < end { lengths[at - start].min(end - at) } else { 0 };
        while at + length < s.len() && s[length] == s[at + length] {
            length += 1;
        }
        if at + length > end {
            (start, end) = (at, at + length);
        }
        lengths[at] = length;
    }
    lengths
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    fn dry(options: DryOptions, texts: &[&str]) -> Dry {
        let mut dry = Dry::new(&options, None).unwrap();
        texts.iter().for_each(|text| dry.texts.push(text.as_bytes()));
        dry
    }

    fn options(allowed_length: usize) -> DryOptions {
        DryOptions { multiplier: 0.5, base: 2.0, allowed_length, ..DryOptions::default() }
    }

    fn penalties(dry: &mut Dry, history: &[u32]) -> Vec<(u32, f32)> {
        dry.reset();
        history.iter().for_each(|&token| dry.accept(token));
        dry.penalties(history)
    }

    /// Straight from the definition: every earlier end of every suffix.
    fn by_definition(options: &DryOptions, history: &[u32], free: usize) -> Vec<(u32, f32)> {
        let recent = &history[history.len().saturating_sub(options.window)..];
        let mut all: BTreeMap<u32, f32> = BTreeMap::new();
        for length in options.allowed_length.max(1)..=free.min(recent.len()) {
            let suffix = &recent[recent.len() - length..];
            for end in length..recent.len() {
                if &recent[end - length..end] == suffix {
                    let penalty =
                        options.multiplier * options.base.powi((length - options.allowed_length) as i32);
                    let known = all.entry(recent[end]).or_default();
                    *known = known.max(penalty);
                }
            }
        }
        all.into_iter().collect()
    }

    #[test]
    fn the_longest_repeated_sequence_counts() {
        // 1 2 3 4, and 2 3 5, and now 1 2 3: 4 would make it three, 5 two.
        let history = [1, 2, 3, 4, 9, 2, 3, 5, 8, 1, 2, 3];
        let mut dry = dry(options(2), &[]);
        assert_eq!(penalties(&mut dry, &history), [(4, 1.0), (5, 0.5)]);
        assert_eq!(penalties(&mut dry, &history[..11]), [(3, 0.5)]);
        assert_eq!(penalties(&mut dry, &history[..3]), []);
    }

    #[test]
    fn it_is_what_the_definition_says() {
        let mut random = Random::new(11);
        for round in 0..300 {
            let length = 1 + random.below(40) as usize;
            let history: Vec<u32> = (0..length).map(|_| random.below(3)).collect();
            let window = if round % 2 == 0 { usize::MAX } else { 1 + random.below(30) as usize };
            let options = DryOptions { window, ..options(1 + random.below(3) as usize) };
            let mut dry = dry(options.clone(), &[]);
            let expected = by_definition(&options, &history, length);
            assert_eq!(penalties(&mut dry, &history), expected, "{history:?} {options:?}");
        }
    }

    #[test]
    fn breakers_end_sequences_even_across_tokens() {
        let texts = ["a", "b", "x\ny", "en", "d!", "\n"];
        let mut one = dry(options(1), &texts);
        assert_eq!(penalties(&mut one, &[0, 1, 0]), [(1, 0.5)]);
        // The line break resets: only the text after it counts.
        assert_eq!(penalties(&mut one, &[0, 2, 1, 0, 2]), []);
        assert_eq!(penalties(&mut one, &[0, 2, 0, 2, 0]), [], "and a token that holds one is free");
        assert_eq!(penalties(&mut one, &[1, 0, 5, 1, 0]), []);
        let options = DryOptions { breakers: vec!["end".into()], ..options(1) };
        let mut spread = dry(options, &texts);
        assert_eq!(penalties(&mut spread, &[3, 4, 0, 3, 4]), [], "\"end\" is spread over two tokens");
        assert_eq!(penalties(&mut spread, &[3, 0, 4, 3]), [(0, 0.5)], "and here it does not");
        assert_eq!(
            penalties(&mut spread, &[3, 4, 0, 1, 3, 4, 0]),
            [(1, 0.5)],
            "after it, 0 alone is repeated"
        );
    }

    #[test]
    fn penalties_stay_finite() {
        let history = vec![7; 5000];
        let mut dry = dry(DryOptions { base: 10.0, window: usize::MAX, ..options(2) }, &[]);
        let all = penalties(&mut dry, &history);
        assert!(matches!(all[..], [(7, penalty)] if penalty.is_finite() && penalty > 1e20), "{all:?}");
    }
}
