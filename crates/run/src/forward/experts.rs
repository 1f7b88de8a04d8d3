//! A mixture of experts: a router chooses for every token which few of many networks compute for it.
//!
//! ```text
//! probabilities = softmax(router(x)); the `used` largest are chosen, and made to sum to one if so configured
//! y = Σ probability * down(act(gate(x)) * up(x))     over the chosen
//! ```
//!
//! Tokens are taken expert by expert: each weight is read once for all tokens that chose it. A token's sum goes
//! in the order of the experts' numbers, whatever the batch.

use quern_compute::ops;
use quern_compute::simd::Level;
use quern_model::Experts as Mixture;

use crate::weights::{Expert, Experts};
use crate::{Model, Observer, Result};

use super::activation;
use super::linear::{LinearScratch, linear};
use super::phases::activate_mul;

/// Which token chose an expert, and its share in that token's sum.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Choice {
    pub(crate) token: usize,
    pub(crate) share: f32,
}

/// For every expert the tokens that chose it, in order, from the router's outputs `[tokens][experts]`, which
/// are overwritten.
pub(crate) fn choose(level: Level, mixture: &Mixture, logits: &mut [f32]) -> Vec<Vec<Choice>> {
    let mut chosen: Vec<Vec<Choice>> = vec![Vec::new(); mixture.count];
    let mut order: Vec<usize> = Vec::with_capacity(mixture.count);
    for (token, row) in logits.chunks_exact_mut(mixture.count).enumerate() {
        ops::softmax(level, row);
        order.clear();
        order.extend(0..mixture.count);
        // Of equal ones the first; a router that gives NaN chooses anything, the logits will show it.
        order.sort_by(|&a, &b| row[b].total_cmp(&row[a]).then(a.cmp(&b)));
        order.truncate(mixture.used);
        let sum: f32 = order.iter().map(|&expert| row[expert]).sum();
        for &expert in &order {
            let share = if mixture.normalized { row[expert] / sum } else { row[expert] };
            chosen[expert].push(Choice { token, share });
        }
    }
    chosen
}

/// The rows of `x` that these tokens have.
pub(crate) fn gather(x: &[f32], width: usize, choices: &[Choice], out: &mut Vec<f32>) {
    out.clear();
    for choice in choices {
        out.extend_from_slice(&x[choice.token * width..][..width]);
    }
}

/// Adds an expert's rows to its tokens', each by its share.
pub(crate) fn scatter(rows: &[f32], width: usize, choices: &[Choice], out: &mut [f32]) {
    for (row, choice) in rows.chunks_exact(width).zip(choices) {
        let out = &mut out[choice.token * width..][..width];
        out.iter_mut().zip(row).for_each(|(out, y)| *out += choice.share * y);
    }
}

/// `out = experts(x)`, both `[tokens][hidden]`.
pub(super) fn run(
    model: &Model,
    linears: &mut LinearScratch,
    observer: &mut Option<&mut dyn Observer>,
    experts: &Experts,
    x: &[f32],
    out: &mut [f32],
) -> Result<()> {
    let config = &model.config;
    let Some(mixture) = config.experts else { return Ok(()) };
    let (hidden, width) = (config.hidden_size, mixture.ffn_size);
    let mut logits = vec![0.0; x.len() / hidden * mixture.count];
    linear(model, linears, &mut None, [&experts.router], x, [&mut logits])?;
    out.fill(0.0);
    let act = activation(config);
    let (mut input, mut gate, mut up, mut made) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (expert, choices) in experts.experts.iter().zip(choose(model.pool.level(), &mixture, &mut logits)) {
        if choices.is_empty() {
            continue;
        }
        let Expert { gate: gate_weights, up: up_weights, down } = expert;
        gather(x, hidden, &choices, &mut input);
        gate.resize(choices.len() * width, 0.0);
        up.resize(choices.len() * width, 0.0);
        made.resize(choices.len() * hidden, 0.0);
        let outputs = [gate.as_mut_slice(), up.as_mut_slice()];
        linear(model, linears, observer, [gate_weights, up_weights], &input, outputs)?;
        activate_mul(model, act, width, &mut gate, &up);
        linear(model, linears, observer, [down], &gate, [made.as_mut_slice()])?;
        scatter(&made, hidden, &choices, out);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_are_chosen_and_shared_out() {
        let mut logits = [0.0, 2f32.ln(), 4f32.ln(), 0.0, 1.0, 1.0, 1.0, 1.0];
        let mixture = Mixture { count: 4, used: 2, ffn_size: 8, normalized: true };
        let chosen = choose(Level::best(), &mixture, &mut logits.clone());
        let near = |choice: &Choice, token: usize, share: f32| {
            choice.token == token && (choice.share - share).abs() < 1e-6
        };
        assert!(near(&chosen[2][0], 0, 4.0 / 6.0) && near(&chosen[1][0], 0, 2.0 / 6.0));
        // Equal ones: the first two.
        assert!(near(&chosen[0][0], 1, 0.5) && near(&chosen[1][1], 1, 0.5));
        assert_eq!(chosen.iter().map(Vec::len).collect::<Vec<_>>(), [1, 2, 1, 0]);
        let chosen = choose(Level::best(), &Mixture { normalized: false, ..mixture }, &mut logits);
        assert!(near(&chosen[2][0], 0, 4.0 / 8.0) && near(&chosen[1][0], 0, 2.0 / 8.0));
    }

    #[test]
    fn rows_go_out_and_come_back() {
        let x = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let choices = [Choice { token: 2, share: 0.5 }, Choice { token: 0, share: 2.0 }];
        let mut rows = Vec::new();
        gather(&x, 2, &choices, &mut rows);
        assert_eq!(rows, [5.0, 6.0, 1.0, 2.0]);
        let mut out = [1.0; 6];
        scatter(&rows, 2, &choices, &mut out);
        assert_eq!(out, [3.0, 5.0, 1.0, 1.0, 3.5, 4.0]);
    }
}
