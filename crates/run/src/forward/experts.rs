//! A mixture of experts: a router chooses for every token which few of many networks compute for it.
//!
//! ```text
//! probabilities = softmax(router(x)); the `used` largest are chosen, and made to sum to one if so configured
//! y = Σ probability * down(act(gate(x)) * up(x))     over the chosen
//! ```
//!
//! Tokens are taken expert by expert: each weight is read once for all tokens that chose it. A token's sum goes
//! in the order of the experts' numbers, whatever the batch.

use ndarray::{ArrayView2, ArrayViewMut2};
use quern_compute::ops;
use quern_compute::simd::Level;
use quern_model::Experts as Mixture;

use crate::matrix::{rows_of, rows_of_mut};
use crate::observer::observe;
use crate::weights::{Experts, Linear};
use crate::{Model, Observer, Result};

use super::activation;
use super::linear::{LinearScratch, apply};
use super::phases::activate_mul;

/// Which token chose an expert, and its share in that token's sum.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Choice {
    token: usize,
    share: f32,
}

/// For every expert the tokens that chose it, in order, from the router's outputs `[tokens][experts]`, which
/// are overwritten.
fn choose(level: Level, mixture: &Mixture, logits: &mut [f32]) -> Vec<Vec<Choice>> {
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

/// Copies the rows of `x` that these tokens have.
fn gather(x: ArrayView2<'_, f32>, choices: &[Choice], mut out: ArrayViewMut2<'_, f32>) {
    for (mut row, choice) in out.rows_mut().into_iter().zip(choices) {
        row.assign(&x.row(choice.token));
    }
}

/// Adds an expert's rows to its tokens', each by its share.
fn scatter(rows: ArrayView2<'_, f32>, choices: &[Choice], mut out: ArrayViewMut2<'_, f32>) {
    for (row, choice) in rows.rows().into_iter().zip(choices) {
        out.row_mut(choice.token).scaled_add(choice.share, &row);
    }
}

/// What happens before a group of an expert's layers runs: an ordinary pass calls its observer, calibration also
/// replaces the weights.
pub(crate) trait BeforeGroup {
    /// Whether it is called for experts that no token chose, too; their input is empty.
    const UNCHOSEN: bool;

    /// Called with the input of the group. Returns the layers to compute with in place of the model's, if there are
    /// any.
    fn before<const N: usize>(
        &mut self,
        model: &Model,
        linears: [&Linear; N],
        input: &[f32],
    ) -> Result<Option<[Linear; N]>>;
}

impl BeforeGroup for Option<&mut dyn Observer> {
    const UNCHOSEN: bool = false;

    fn before<const N: usize>(
        &mut self,
        model: &Model,
        linears: [&Linear; N],
        input: &[f32],
    ) -> Result<Option<[Linear; N]>> {
        if let Some(observer) = self.as_deref_mut() {
            observe(model, observer, &linears, input)?;
        }
        Ok(None)
    }
}

/// `out = experts(x)`, both `[tokens][hidden]`.
pub(crate) fn run<H: BeforeGroup>(
    model: &Model,
    linears: &mut LinearScratch,
    hook: &mut H,
    experts: &Experts,
    x: &[f32],
    out: &mut [f32],
) -> Result<()> {
    let config = &model.config;
    let Some(mixture) = config.experts else { return Ok(()) };
    let (hidden, width) = (config.hidden_size, mixture.ffn_size);
    let mut logits = vec![0.0; x.len() / hidden * mixture.count];
    apply(model, linears, [&experts.router], x, [&mut logits])?;
    out.fill(0.0);
    let act = activation(config);
    let (mut input, mut gate, mut up, mut made) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let chosen = choose(model.pool.level(), &mixture, &mut logits);
    for (expert, choices) in experts.experts.iter().zip(chosen) {
        if choices.is_empty() && !H::UNCHOSEN {
            continue;
        }
        let (narrow, wide) = (choices.len() * hidden, choices.len() * width);
        let (input, made) = (front(&mut input, narrow), front(&mut made, narrow));
        let (gate, up) = (front(&mut gate, wide), front(&mut up, wide));
        gather(rows_of(x, hidden), &choices, rows_of_mut(input, hidden));
        let widening = [&expert.gate, &expert.up];
        let replaced = hook.before(model, widening, input)?;
        if !choices.is_empty() {
            let widening = replaced.as_ref().map_or(widening, <[Linear; 2]>::each_ref);
            apply(model, linears, widening, input, [&mut *gate, &mut *up])?;
            activate_mul(model, act, width, gate, up);
        }
        let replaced = hook.before(model, [&expert.down], gate)?;
        if !choices.is_empty() {
            let narrowing = replaced.as_ref().map_or([&expert.down], <[Linear; 1]>::each_ref);
            apply(model, linears, narrowing, gate, [&mut *made])?;
            scatter(rows_of(made, hidden), &choices, rows_of_mut(out, hidden));
        }
    }
    Ok(())
}

/// The first `length` values of a buffer, which grows if it is shorter.
fn front(buffer: &mut Vec<f32>, length: usize) -> &mut [f32] {
    if buffer.len() < length {
        buffer.resize(length, 0.0);
    }
    &mut buffer[..length]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_are_chosen_and_weighted() {
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
    fn rows_are_gathered_and_scattered() {
        let x = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let choices = [Choice { token: 2, share: 0.5 }, Choice { token: 0, share: 2.0 }];
        let mut rows = [0.0; 4];
        gather(rows_of(&x, 2), &choices, rows_of_mut(&mut rows, 2));
        assert_eq!(rows, [5.0, 6.0, 1.0, 2.0]);
        let mut out = [1.0; 6];
        scatter(rows_of(&rows, 2), &choices, rows_of_mut(&mut out, 2));
        assert_eq!(out, [3.0, 5.0, 1.0, 1.0, 3.5, 4.0]);
    }
}
