//! Groups of linear layers: norm, permutation, products, biases, and what is done with the results.

use super::rows::{add, each_part, gate, gate_halves, norm, same};
use super::{Executor, front};
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
                let mut at = 0;
                for (l, rows) in linears.into_iter().zip(rows) {
                    let made = front(first, tokens * rows);
                    product.run(&[l], &mut [&mut *made])?;
                    for (out, made) in out.chunks_exact_mut(width).zip(made.chunks_exact(rows)) {
                        out[at..at + rows].copy_from_slice(made);
                    }
                    at += rows;
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
