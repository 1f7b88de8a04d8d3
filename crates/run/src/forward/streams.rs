//! Several residual streams, of which blocks compute the first (AltUp of Gemma 3n), and the second way beside attention
//! (Laurel):
//!
//! ```text
//! x_i  = S_i e, as long as e                                   for i > 0, in front of the first block
//! m    = tanh(R norm(x_0) / hidden)
//! x_i += sum_j (P m)_ij x_j                                    in front of a block; x_0 is then its input a
//! x_0  = (a + attention + n + norm(B A n)) / sqrt(2)           n: the attention's input; then the network, as usual
//! x_i  = x_i + ((C m)_i + 1) (x_0 - a)                         behind the block, m of the new x_0, and of x_0 from a on
//! x_i += what the token adds, of x_0                           for i > 0
//! x_0  = mean of x_0 and U_i x_i, as long as x_0               behind the last block
//! ```
//!
//! On the CPU alone. Streams are one after the other, `[streams][tokens][hidden]`.

use quern_compute::{Executor, Input, Norm, Output, ValuesMut};

use crate::weights::{Block, Linear, Streams};
use crate::{Model, Result};

/// `out = linear(x)`.
fn multiply(executor: &mut Executor, linear: &Linear, x: &[f32], out: &mut [f32]) -> Result<()> {
    Ok(executor.linear([&linear.op], Input::Values(x.into()), Output::Store([ValuesMut::Host(out)]))?)
}

fn mean_square(row: &[f32]) -> f32 {
    row.iter().map(|v| v * v).sum::<f32>() / row.len() as f32
}

/// Makes each row of `x` as long as that of `like`.
fn as_long_as(like: &[f32], x: &mut [f32], hidden: usize) {
    for (like, row) in like.chunks_exact(hidden).zip(x.chunks_exact_mut(hidden)) {
        let factor = mean_square(like).sqrt() / mean_square(row).max(1e-5).sqrt();
        row.iter_mut().for_each(|v| *v *= factor);
    }
}

/// Fills the other streams from the first, in front of the first block.
pub(crate) fn spread(model: &Model, executor: &mut Executor, x: &mut [f32]) -> Result<()> {
    let (Some([ways, _]), hidden) = (&model.weights.streams, model.config.hidden_size) else { return Ok(()) };
    let length = x.len() / model.config.streams;
    let (first, others) = x.split_at_mut(length);
    for (way, other) in ways.iter().zip(others.chunks_exact_mut(length)) {
        multiply(executor, way, first, other)?;
        as_long_as(first, other, hidden);
    }
    Ok(())
}

/// Brings all streams to the first, behind the last block.
pub(crate) fn merge(model: &Model, executor: &mut Executor, x: &mut [f32]) -> Result<()> {
    let (Some([_, ways]), hidden) = (&model.weights.streams, model.config.hidden_size) else { return Ok(()) };
    let length = x.len() / model.config.streams;
    let (first, others) = x.split_at_mut(length);
    let mut sum = first.to_vec();
    let mut own = vec![0.0; length];
    for (way, other) in ways.iter().zip(others.chunks_exact(length)) {
        multiply(executor, way, other, &mut own)?;
        as_long_as(first, &mut own, hidden);
        sum.iter_mut().zip(&own).for_each(|(sum, own)| *sum += own);
    }
    let share = 1.0 / model.config.streams as f32;
    first.iter_mut().zip(sum).for_each(|(x, sum)| *x = sum * share);
    Ok(())
}

/// How the first stream's rows mix all: `[tokens][streams]`.
fn modalities(executor: &mut Executor, own: &Streams, first: &[f32]) -> Result<Vec<f32>> {
    let hidden = own.router_norm.weight.len();
    let mut normed = vec![0.0; first.len()];
    executor.norm(&own.router_norm, first.into(), ValuesMut::Host(&mut normed))?;
    normed.iter_mut().for_each(|v| *v /= hidden as f32);
    let mut mixed = vec![0.0; first.len() / hidden * own.router.op.weight.rows()];
    multiply(executor, &own.router, &normed, &mut mixed)?;
    mixed.iter_mut().for_each(|v| *v = v.tanh());
    Ok(mixed)
}

/// Mixes the streams in front of a block.
pub(crate) fn predict(executor: &mut Executor, own: &Streams, x: &mut [f32]) -> Result<()> {
    let (streams, hidden) = (own.router.op.weight.rows(), own.router_norm.weight.len());
    let length = x.len() / streams;
    let mixed = modalities(executor, own, &x[..length])?;
    let mut shares = vec![0.0; mixed.len() * streams];
    multiply(executor, &own.predict, &mixed, &mut shares)?;
    let mut row = vec![0.0; streams * hidden];
    for (token, shares) in shares.chunks_exact(streams * streams).enumerate() {
        let at = |stream: usize| stream * length + token * hidden;
        for (stream, out) in row.chunks_exact_mut(hidden).enumerate() {
            out.copy_from_slice(&x[at(stream)..][..hidden]);
            for (other, share) in shares[stream * streams..][..streams].iter().enumerate() {
                let from = &x[at(other)..][..hidden];
                out.iter_mut().zip(from).for_each(|(out, from)| *out += share * from);
            }
        }
        for (stream, out) in row.chunks_exact(hidden).enumerate() {
            x[at(stream)..][..hidden].copy_from_slice(out);
        }
    }
    Ok(())
}

/// Adds the second way beside attention to the first stream, which has attention's result; `input` is the block's.
pub(crate) fn laurel(executor: &mut Executor, block: &Block, input: &[f32], first: &mut [f32]) -> Result<()> {
    let (Some(own), Some(norm)) = (&block.streams, &block.attention_norm) else { return Ok(()) };
    let normed = normed(executor, norm, input)?;
    let tokens = input.len() / norm.weight.len();
    let mut narrow = vec![0.0; tokens * own.laurel_in.op.weight.rows()];
    let mut made = vec![0.0; input.len()];
    multiply(executor, &own.laurel_in, &normed, &mut narrow)?;
    multiply(executor, &own.laurel_out, &narrow, &mut made)?;
    executor.norm_in_place(&own.laurel_norm, ValuesMut::Host(&mut made))?;
    let added = normed.iter().zip(&made).map(|(a, b)| a + b);
    first.iter_mut().zip(added).for_each(|(x, added)| *x = (*x + added) * std::f32::consts::FRAC_1_SQRT_2);
    Ok(())
}

fn normed(executor: &mut Executor, norm: &Norm, x: &[f32]) -> Result<Vec<f32>> {
    let mut out = vec![0.0; x.len()];
    executor.norm(norm, x.into(), ValuesMut::Host(&mut out))?;
    Ok(out)
}

/// Brings what a block changed in the first stream to all; `input` is the block's.
pub(crate) fn correct(executor: &mut Executor, own: &Streams, input: &[f32], x: &mut [f32]) -> Result<()> {
    let (streams, hidden) = (own.router.op.weight.rows(), own.router_norm.weight.len());
    let length = x.len() / streams;
    let mixed = modalities(executor, own, &x[..length])?;
    let mut shares = vec![0.0; mixed.len()];
    multiply(executor, &own.correct, &mixed, &mut shares)?;
    let (first, others) = x.split_at_mut(length);
    for (token, shares) in shares.chunks_exact(streams).enumerate() {
        let at = token * hidden..(token + 1) * hidden;
        for (first, input) in first[at.clone()].iter_mut().zip(&input[at.clone()]) {
            *first -= input;
        }
        let change = &first[at.clone()];
        for (other, share) in others.chunks_exact_mut(length).zip(&shares[1..]) {
            other[at.clone()].iter_mut().zip(change).for_each(|(x, change)| *x += change * (share + 1.0));
        }
        for (first, input) in first[at.clone()].iter_mut().zip(&input[at]) {
            *first = *first * (shares[0] + 1.0) + input;
        }
    }
    Ok(())
}

/// What the gate of what tokens add receives: the first stream, times a vector.
pub(crate) fn scaled(own: &Streams, first: &[f32], out: &mut [f32]) {
    let rows = first.chunks_exact(own.scale.len()).zip(out.chunks_exact_mut(own.scale.len()));
    rows.for_each(|(x, out)| {
        out.iter_mut().zip(x).zip(&own.scale).for_each(|((out, x), scale)| *out = x * scale);
    });
}

/// Adds to all streams but the first.
pub(crate) fn add_to_others(added: &[f32], x: &mut [f32]) {
    x.chunks_exact_mut(added.len()).skip(1).for_each(|stream| {
        stream.iter_mut().zip(added).for_each(|(x, added)| *x += added);
    });
}

/// Cuts off what is below `cutoff` standard deviations above the mean of each row, of `width` values.
pub(crate) fn cut_off(gates: &mut [f32], width: usize, cutoff: f32) {
    for row in gates.chunks_exact_mut(width) {
        let mean = row.iter().sum::<f32>() / width as f32;
        let variance = row.iter().map(|v| (v - mean) * (v - mean)).sum::<f32>() / width as f32;
        let least = mean + variance.sqrt() * cutoff;
        row.iter_mut().for_each(|v| *v = (*v - least).max(0.0));
    }
}
