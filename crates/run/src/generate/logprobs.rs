//! The probabilities that the model gave the generated tokens.

use quern_model::Tokenizer;
use serde::Serialize;

use super::output::text_of;
use crate::sampling::highest;
use crate::statistics::log_sum_exp;

/// A token and the logarithm of its probability: natural, of the model's own distribution, before penalties, filters
/// and temperature.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Logprob {
    /// The token.
    pub id: u32,
    /// Its text; U+FFFD for bytes that are no whole character, its name for a control token.
    pub text: String,
    /// ln p.
    pub logprob: f64,
}

/// A generated token and what else was likely in its place.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TokenLogprobs {
    /// The token that was drawn.
    #[serde(flatten)]
    pub drawn: Logprob,
    /// The likeliest tokens, the best first.
    pub top: Vec<Logprob>,
}

impl TokenLogprobs {
    /// Of `token` under a row of logits, with the `count` likeliest.
    pub(super) fn of(tokenizer: &Tokenizer, logits: &[f32], token: u32, count: usize) -> Self {
        let norm = log_sum_exp(logits);
        let of = |id: u32, logit: f32| Logprob {
            id,
            text: String::from_utf8_lossy(&text_of(tokenizer, id, true)).into_owned(),
            logprob: f64::from(logit) - norm,
        };
        let top = highest(logits, count).into_iter().map(|(id, logit)| of(id, logit)).collect();
        Self { drawn: of(token, logits[token as usize]), top }
    }
}
