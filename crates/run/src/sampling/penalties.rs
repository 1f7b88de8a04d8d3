//! Repeat, presence and frequency penalty.
//!
//! For a token that occurred `n > 0` times among the recent ones (Keskar et al., 2019, for the first; the OpenAI API
//! for the others):
//!
//! ```text
//! logit <- logit / repeat (logit * repeat if it is not positive) - presence - n * frequency
//! ```

use super::SamplingOptions;

/// How often each of the recent tokens occurred, sorted by token; nothing if no penalty is set.
pub(super) fn counts(options: &SamplingOptions, history: &[u32]) -> Vec<(u32, u32)> {
    let SamplingOptions { repeat_penalty, presence_penalty, frequency_penalty, repeat_window, .. } = *options;
    if repeat_penalty == 1.0 && presence_penalty == 0.0 && frequency_penalty == 0.0 {
        return Vec::new();
    }
    let mut recent = history[history.len().saturating_sub(repeat_window)..].to_vec();
    recent.sort_unstable();
    recent.chunk_by(|a, b| a == b).map(|equal| (equal[0], equal.len() as u32)).collect()
}

/// The logit of a token that occurred `count` times.
pub(super) fn penalized(options: &SamplingOptions, logit: f32, count: u32) -> f32 {
    let penalty = options.repeat_penalty;
    let logit = if logit <= 0.0 { logit * penalty } else { logit / penalty };
    logit - options.presence_penalty - count as f32 * options.frequency_penalty
}
