//! Groups of linear layers: norm, permutation, products, biases, and what is done with the results.

use super::rows::{add, each_part, gate, gate_halves, norm};
use super::{Executor, front};
use crate::error::same;
use crate::executor::{Input, Linear, Output};
use crate::ops;
use crate::parallel::{part_of, share};
use crate::{Matrix, Pool, Result, Scratch, matmul};

impl Executor {
    pub fn linear<const N: usize>(
        &mut self,
        linears: [&Linear; N],
        input: Input<'_>,
        output: Output<'_, N>,
    ) -> Result<()> {
        let Self { pool, matmul, normed, permuted, first, second, .. } = self;
        let input = match input {
            Input::Values(x) => x.host()?,
            Input::Norm(parameters, x) => {
                let x = x.host()?;
                let normed = front(normed, x.len());
                norm(pool, parameters, x, normed)?;
                &*normed
            }
        };
        let mut product = Product { pool, matmul, permuted, input };
        let rows = linears.map(|l| l.weight.rows());
        let tokens = input.len() / linears[0].weight.columns();
        match output {
            Output::Store(outputs) => {
                let mut hosts = Vec::with_capacity(N);
                for output in outputs {
                    hosts.push(output.host()?);
                }
                product.run(&linears, &mut hosts)
            }
            Output::Join(out) => {
                let (out, width) = (out.host()?, rows.iter().sum::<usize>());
                same("linear: joined output", tokens * width, out.len())?;
                if tokens == 1 {
                    return product.run(&linears, &mut cut(out, rows));
                }
                let made = &mut cut(front(first, out.len()), rows.map(|rows| tokens * rows));
                product.run(&linears, made)?;
                for (token, mut out) in out.chunks_exact_mut(width).enumerate() {
                    for (made, rows) in made.iter().zip(rows) {
                        let (own, rest) = out.split_at_mut(rows);
                        own.copy_from_slice(&made[token * rows..][..rows]);
                        out = rest;
                    }
                }
                Ok(())
            }
            Output::Add(x) => {
                let x = x.host()?;
                for l in linears {
                    let made = front(first, x.len());
                    product.run(&[l], &mut [&mut *made])?;
                    add(pool, l.weight.rows(), x, made);
                }
                Ok(())
            }
            Output::Activate(act, out) => {
                let out = out.host()?;
                product.run(&linears[..1], &mut [&mut *out])?;
                each_part(pool, out, rows[0], |part| ops::activate(pool.level(), act, part));
                Ok(())
            }
            Output::Gate(act, out) if N == 2 => {
                let out = out.host()?;
                let up = front(second, out.len());
                product.run(&linears, &mut [&mut *out, &mut *up])?;
                gate(pool, act, rows[0], out, up);
                Ok(())
            }
            Output::Gate(act, out) => {
                let out = out.host()?;
                let both = front(second, tokens * rows[0]);
                same("linear: half of gate and up", both.len(), 2 * out.len())?;
                product.run(&linears[..1], &mut [&mut *both])?;
                gate_halves(pool, act, rows[0] / 2, both, out);
                Ok(())
            }
        }
    }
}

/// The first `lengths[0]` values, the `lengths[1]` after them, and so on.
fn cut<const N: usize>(mut values: &mut [f32], lengths: [usize; N]) -> [&mut [f32]; N] {
    lengths.map(|length| {
        let (own, rest) = std::mem::take(&mut values).split_at_mut(length);
        values = rest;
        own
    })
}

/// One input, to be multiplied.
struct Product<'a> {
    pool: &'a Pool,
    matmul: &'a mut Scratch,
    permuted: &'a mut Vec<f32>,
    input: &'a [f32],
}

impl Product<'_> {
    /// `outputs[i] = linears[i](input)`: one parallel region for all that take their input in the same order.
    fn run(&mut self, linears: &[&Linear], outputs: &mut [&mut [f32]]) -> Result<()> {
        let Self { pool, matmul: scratch, permuted, input } = self;
        let rows = input.len() / linears[0].weight.columns();
        let matrices: Vec<Matrix<'_>> = linears.iter().map(|l| l.weight.matrix()).collect::<Result<_>>()?;
        let order_of = |l: &Linear| l.permutation.as_ref().map(|p| p.host().cloned()).transpose();
        let mut start = 0;
        while start < linears.len() {
            let order = order_of(linears[start])?;
            let mut end = start + 1;
            while end < linears.len() && order_of(linears[end])?.as_deref() == order.as_deref() {
                end += 1;
            }
            let input = match &order {
                None => *input,
                Some(order) => {
                    let permuted = front(permuted, input.len());
                    permute(pool, input, order, permuted);
                    &*permuted
                }
            };
            matmul(pool, scratch, &matrices[start..end], input, rows, &mut outputs[start..end])?;
            start = end;
        }
        for (output, l) in outputs.iter_mut().zip(linears) {
            if let Some(bias) = &l.bias {
                ops::add_bias(pool.level(), output, bias.host()?);
            }
        }
        Ok(())
    }
}

/// `out[row][j] = x[row][order[j]]`.
fn permute(pool: &Pool, x: &[f32], order: &[u32], out: &mut [f32]) {
    let part = part_of(pool, x.len(), order.len());
    share(pool, x.chunks(part).zip(out.chunks_mut(part)), |(x, out)| {
        for (x, out) in x.chunks_exact(order.len()).zip(out.chunks_exact_mut(order.len())) {
            order.iter().zip(out).for_each(|(&from, out)| *out = x[from as usize]);
        }
    });
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use quern_tensor_io::ElementType;

    use super::*;
    use crate::executor::{Permutation, Values, ValuesMut, Weight};

    /// Layers of f32 with a bias, the last of them in another order.
    fn layer(rows: usize, columns: usize, reversed: bool) -> Linear {
        let value = |i: usize| ((i * 37 + rows) % 23) as f32 / 7.0 - 1.5;
        let bytes: Vec<u8> = (0..rows * columns).flat_map(|i| value(i).to_le_bytes()).collect();
        let range = 0..bytes.len();
        let weight = Weight::host(ElementType::F32, rows, columns, Arc::new(bytes), range).unwrap();
        let order: Vec<u32> = (0..columns as u32).rev().collect();
        Linear {
            weight,
            bias: Some((0..rows).map(value).collect::<Vec<_>>().into()),
            permutation: reversed.then(|| Permutation::Host(order.into())),
        }
    }

    #[test]
    fn joined_results_are_those_of_each_layer_side_by_side() {
        let mut executor = Executor::new(&Arc::new(Pool::new(2)));
        let layers = [layer(5, 64, false), layer(3, 64, false), layer(4, 64, true)];
        for tokens in [1, 3] {
            let x: Vec<f32> = (0..tokens * 64).map(|i| (i as f32 * 0.37).sin()).collect();
            let input = || Input::Values(Values::Host(&x));
            let mut joined = vec![0.0; tokens * 12];
            let output = Output::Join(ValuesMut::Host(&mut joined));
            executor.linear(layers.each_ref(), input(), output).unwrap();
            let (mut a, mut b, mut c) = (vec![0.0; tokens * 5], vec![0.0; tokens * 3], vec![0.0; tokens * 4]);
            let apart = [&mut a, &mut b, &mut c].map(|values| ValuesMut::Host(values));
            executor.linear(layers.each_ref(), input(), Output::Store(apart)).unwrap();
            for token in 0..tokens {
                let own = &joined[12 * token..][..12];
                assert_eq!(own[..5], a[5 * token..][..5]);
                assert_eq!(own[5..8], b[3 * token..][..3]);
                assert_eq!(own[8..], c[4 * token..][..4]);
            }
            assert!(joined.iter().all(|&value| value != 0.0));
        }
        let mut short = vec![0.0; 11];
        let output = Output::Join(ValuesMut::Host(&mut short));
        assert!(executor.linear(layers.each_ref(), Input::Values(Values::Host(&[1.0; 64])), output).is_err());
    }
}
