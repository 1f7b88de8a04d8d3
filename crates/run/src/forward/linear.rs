//! Linear layers of a model, with their biases and, under act-order, the order of their inputs.

use quern_compute::{matmul, ops};

use crate::observer::observe;
use crate::parallel::{part_of, share};
use crate::weights::Linear;
use crate::{Model, Observer, Result};

/// Memory that linear layers need.
#[derive(Debug, Default)]
pub(crate) struct LinearScratch {
    matmul: quern_compute::Scratch,
    /// An input in the order of a weight's columns.
    permuted: Vec<f32>,
}

/// `outputs[i] = linears[i](input)` for layers that share their input: one parallel region for all that take
/// it in the same order.
pub(super) fn linear<const N: usize>(
    model: &Model,
    scratch: &mut LinearScratch,
    observer: &mut Option<&mut dyn Observer>,
    linears: [&Linear; N],
    input: &[f32],
    outputs: [&mut [f32]; N],
) -> Result<()> {
    if let Some(observer) = observer {
        observe(model, *observer, &linears, input)?;
    }
    apply(model, scratch, linears, input, outputs)
}

/// The same, without an observer.
pub(crate) fn apply<const N: usize>(
    model: &Model,
    scratch: &mut LinearScratch,
    linears: [&Linear; N],
    input: &[f32],
    mut outputs: [&mut [f32]; N],
) -> Result<()> {
    let columns = linears[0].weight.columns;
    let rows = input.len() / columns;
    let mut matrices = [linears[0].weight.matrix(&model.checkpoint)?; N];
    for (matrix, l) in matrices.iter_mut().zip(linears).skip(1) {
        *matrix = l.weight.matrix(&model.checkpoint)?;
    }
    let mut start = 0;
    while start < N {
        let order = linears[start].permutation.as_deref();
        let same = linears[start..].iter().take_while(|l| l.permutation.as_deref() == order).count();
        let group = start..start + same;
        let input = match order {
            None => input,
            Some(order) => {
                let permuted = &mut scratch.permuted;
                permuted.resize(input.len().max(permuted.len()), 0.0);
                permute(model, input, order, &mut permuted[..input.len()]);
                &scratch.permuted[..input.len()]
            }
        };
        matmul(&model.pool, &mut scratch.matmul, &matrices[group.clone()], input, rows, &mut outputs[group])?;
        start += same;
    }
    for (output, l) in outputs.into_iter().zip(linears) {
        if let Some(bias) = &l.bias {
            ops::add_bias(model.pool.level(), output, bias);
        }
    }
    Ok(())
}

/// `out[row][j] = x[row][order[j]]`.
fn permute(model: &Model, x: &[f32], order: &[u32], out: &mut [f32]) {
    let part = part_of(&model.pool, x.len(), order.len());
    share(&model.pool, x.chunks(part).zip(out.chunks_mut(part)), |(x, out)| {
        for (x, out) in x.chunks_exact(order.len()).zip(out.chunks_exact_mut(order.len())) {
            order.iter().zip(out).for_each(|(&from, out)| *out = x[from as usize]);
        }
    });
}
