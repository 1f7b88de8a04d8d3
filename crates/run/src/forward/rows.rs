//! Norms and sums of rows between the linear layers, divided among the threads.

use quern_compute::ops;
use quern_compute::simd::Level;
use quern_model::architecture::Norm;

use crate::Model;
use crate::parallel::{part_of, share};
use crate::weights::NormWeights;

/// `out = norm(x)` for whole rows, on this thread.
fn norm_rows(level: Level, kind: Norm, eps: f32, weights: &NormWeights, x: &[f32], out: &mut [f32]) {
    match kind {
        Norm::Layer => ops::layer_norm(level, x, &weights.weight, weights.bias.as_deref(), eps, out),
        Norm::Rms => ops::rms_norm(level, x, &weights.weight, eps, out),
    }
}

/// `out = norm(x)`, row by row.
pub(super) fn norm(model: &Model, x: &[f32], weights: &NormWeights, out: &mut [f32]) {
    let (kind, eps) = (model.config.architecture.norm, model.config.norm_epsilon);
    let part = part_of(&model.pool, x.len(), weights.weight.len());
    let parts = x.chunks(part).zip(out.chunks_mut(part));
    share(&model.pool, parts, |(x, out)| norm_rows(model.pool.level(), kind, eps, weights, x, out));
}

/// `x = norm(x)`, row by row.
pub(super) fn norm_in_place(model: &Model, x: &mut [f32], weights: &NormWeights) {
    let (kind, eps) = (model.config.architecture.norm, model.config.norm_epsilon);
    let width = weights.weight.len();
    each_part(model, x, width, |part| {
        let mut row = vec![0.0; width];
        for x in part.chunks_exact_mut(width) {
            norm_rows(model.pool.level(), kind, eps, weights, x, &mut row);
            x.copy_from_slice(&row);
        }
    });
}

/// `x = norm(x)` for each head of `[n][heads][head_dim]`: one weight for all heads, or one for each.
pub(super) fn norm_heads(model: &Model, x: &mut [f32], heads: usize, weight: &[f32]) {
    let (kind, eps) = (model.config.architecture.norm, model.config.norm_epsilon);
    let dim = model.config.head_dim;
    each_part(model, x, heads * dim, |part| {
        let mut out = vec![0.0; dim];
        for row in part.chunks_exact_mut(heads * dim) {
            let weights = weight.chunks_exact(dim).cycle();
            for (head, weight) in row.chunks_exact_mut(dim).zip(weights) {
                match kind {
                    Norm::Layer => ops::layer_norm(model.pool.level(), head, weight, None, eps, &mut out),
                    Norm::Rms => ops::rms_norm(model.pool.level(), head, weight, eps, &mut out),
                }
                head.copy_from_slice(&out);
            }
        }
    });
}

/// `x += y`, then `out = norm(x)` where there is one: both while the row is in the cache.
pub(super) fn add_and_norm(
    model: &Model,
    x: &mut [f32],
    y: &[f32],
    then: Option<(&NormWeights, &mut [f32])>,
) {
    let (kind, eps) = (model.config.architecture.norm, model.config.norm_epsilon);
    let part = part_of(&model.pool, x.len(), model.config.hidden_size);
    let parts = x.chunks_mut(part).zip(y.chunks(part));
    match then {
        None => share(&model.pool, parts, |(x, y)| ops::add(model.pool.level(), x, y)),
        Some((weights, out)) => share(&model.pool, parts.zip(out.chunks_mut(part)), |((x, y), out)| {
            ops::add(model.pool.level(), x, y);
            norm_rows(model.pool.level(), kind, eps, weights, x, out);
        }),
    }
}

/// Calls `body` for parts of whole rows, on all threads.
pub(super) fn each_part(model: &Model, x: &mut [f32], width: usize, body: impl Fn(&mut [f32]) + Sync) {
    let part = part_of(&model.pool, x.len(), width);
    share(&model.pool, x.chunks_mut(part), body);
}

/// Calls `body` for every row, on all threads.
pub(super) fn each(model: &Model, x: &mut [f32], width: usize, body: impl Fn(&mut [f32]) + Sync) {
    each_part(model, x, width, |part| part.chunks_exact_mut(width).for_each(&body));
}
