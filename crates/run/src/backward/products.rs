//! Linear layers, norms and rotations, forward and backward, over the rows of a batch.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use quern_compute::parallel::{part_of, share};
use quern_compute::{
    Executor, Input, KvCache, KvType, Linear as Op, Matrix, Norm, NormKind, Output, Pool, ValuesMut, get_row,
    ops,
};
use quern_tensor_io::ElementType;

use crate::forward::cache_shape;
use crate::rope::RotaryAngles;
use crate::weights::{Linear, Weight};
use crate::{Model, Result};

/// What computes.
#[derive(Debug)]
pub(super) struct Machine<'m> {
    pub(super) model: &'m Model,
    pub(super) executor: Executor,
    /// Keys and values of one sequence.
    pub(super) cache: KvCache,
    pub(super) angles: RotaryAngles,
}

impl<'m> Machine<'m> {
    /// For sequences of at most `longest` tokens.
    pub(super) fn new(model: &'m Model, longest: usize) -> Result<Self> {
        let cpu = model.cpu();
        let mut angles = RotaryAngles::default();
        model.rotation.fill(&model.pool, 0, longest, &mut angles);
        let shape = cache_shape(&model.config, 1, longest, KvType::F32);
        Ok(Self { model, executor: Executor::new(&cpu)?, cache: KvCache::new(&cpu, shape)?, angles })
    }

    /// `linear(x)`.
    pub(super) fn linear(&mut self, linear: &Linear, x: &[f32]) -> Result<Vec<f32>> {
        self.product(&linear.op, x)
    }

    /// The same, of a layer that is none of the model's.
    pub(super) fn product(&mut self, op: &Op, x: &[f32]) -> Result<Vec<f32>> {
        let mut out = vec![0f32; x.len() / op.weight.columns() * op.weight.rows()];
        let output = Output::Store([ValuesMut::Host(&mut out)]);
        self.executor.linear([op], Input::Values(x.into()), output)?;
        Ok(out)
    }

    /// `to += op(x)`.
    pub(super) fn add_product(&mut self, op: &Op, x: &[f32], to: &mut [f32]) -> Result<()> {
        Ok(self.executor.linear([op], Input::Values(x.into()), Output::Add(ValuesMut::Host(to)))?)
    }

    /// `norm(x)`.
    pub(super) fn norm(&mut self, norm: &Norm, x: &[f32]) -> Result<Vec<f32>> {
        let mut out = vec![0f32; x.len()];
        self.executor.norm(norm, x.into(), ValuesMut::Host(&mut out))?;
        Ok(out)
    }

    /// The same, or `x` where there is no norm.
    pub(super) fn norm_if(&mut self, norm: Option<&Norm>, x: &[f32]) -> Result<Vec<f32>> {
        norm.map_or_else(|| Ok(x.to_vec()), |norm| self.norm(norm, x))
    }

    /// Gradient by the inputs `x` of a norm, in place of `d`, that by its outputs. `dim` numbers are normalized together:
    /// all, or those of a head.
    pub(super) fn norm_backward(&self, norm: &Norm, dim: usize, x: &[f32], d: &mut [f32]) -> Result<()> {
        let (weight, eps) = (norm.weight.host()?, norm.epsilon);
        let pool = &self.model.pool;
        // One weight for all heads, or one for each.
        let part = part_of(pool, x.len(), weight.len());
        share(pool, x.chunks(part).zip(d.chunks_mut(part)), |(x, d)| {
            let rows = x.chunks_exact(dim).zip(d.chunks_exact_mut(dim));
            for ((x, d), weight) in rows.zip(weight.chunks_exact(dim).cycle()) {
                match norm.kind {
                    NormKind::Rms => ops::rms_norm_backward(x, weight, eps, d),
                    NormKind::Layer => ops::layer_norm_backward(x, weight, eps, d),
                }
            }
        });
        Ok(())
    }
}

/// Cosines and sines of a layer for so many tokens from position 0 on.
pub(super) fn angles_of<'a>(
    model: &Model,
    angles: &'a RotaryAngles,
    layer: usize,
    tokens: usize,
) -> (&'a [f32], &'a [f32]) {
    let [cos, sin, local_cos, local_sin] = angles.tables();
    let windowed = model.config.window(layer).is_some() && angles.has_local();
    let (cos, sin) = if windowed { (local_cos, local_sin) } else { (cos, sin) };
    let values = tokens * model.rotation.pairs();
    (&cos[..values], &sin[..values])
}

/// `x += y`.
pub(super) fn add(pool: &Pool, x: &mut [f32], y: &[f32]) {
    let part = part_of(pool, x.len(), 1);
    share(pool, x.chunks_mut(part).zip(y.chunks(part)), |(x, y)| ops::add(pool.level(), x, y));
}

/// Rows `rows` of a layer's weight transposed, in f32: from the gradients by these outputs to those by the inputs.
pub(super) fn transposed(pool: &Pool, linear: &Linear, rows: Range<usize>) -> Result<Op> {
    let matrix = linear.op.weight.matrix()?;
    let (height, columns) = (rows.len(), matrix.columns());
    let numbers = decoded(pool, &matrix, rows)?;
    let order = linear.op.permutation.as_ref().map(|order| order.host()).transpose()?;
    // Column j of the weight multiplies input order[j].
    let mut column_of: Vec<usize> = (0..columns).collect();
    if let Some(order) = order {
        for (j, &input) in order.iter().enumerate() {
            column_of[input as usize] = j;
        }
    }
    let mut data = vec![0u8; 4 * numbers.len()];
    let part = part_of(pool, numbers.len(), height);
    let first = (0..columns).step_by((part / height).max(1));
    share(pool, first.zip(data.chunks_mut(4 * part)), |(first, data)| {
        for (to, &column) in data.chunks_exact_mut(4 * height).zip(&column_of[first..]) {
            for (to, row) in to.chunks_exact_mut(4).zip(numbers.chunks_exact(columns)) {
                to.copy_from_slice(&row[column].to_le_bytes());
            }
        }
    });
    let weight = Weight::owned(ElementType::F32, columns, height, data)?;
    Ok(Op { weight: weight.matrix, bias: None, permutation: None })
}

/// Rows of a matrix as numbers.
fn decoded(pool: &Pool, matrix: &Matrix<'_>, rows: Range<usize>) -> Result<Vec<f32>> {
    let columns = matrix.columns();
    let mut numbers = vec![0f32; rows.len() * columns];
    let part = part_of(pool, numbers.len(), columns);
    let failure = Mutex::new(None);
    let first = rows.step_by((part / columns).max(1));
    share(pool, first.zip(numbers.chunks_mut(part)), |(first, numbers)| {
        for (row, numbers) in (first..).zip(numbers.chunks_exact_mut(columns)) {
            if let Err(error) = get_row(matrix, row, numbers) {
                *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            }
        }
    });
    match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error.into()),
        None => Ok(numbers),
    }
}

#[cfg(test)]
mod tests {
    use quern_compute::{Permutation, Scratch, matmul};
    use quern_model::TensorRole;

    use super::*;

    #[test]
    fn transposed_rows_go_back_to_the_inputs_they_multiply() {
        let (pool, rows, columns) = (Pool::new(2), 300, 70);
        let numbers: Vec<f32> = (0..rows * columns).map(|i| ((i * 37 % 101) as f32 - 50.0) / 9.0).collect();
        let bytes = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
        let weight = Weight::owned(ElementType::F32, rows, columns, bytes(&numbers)).unwrap();
        let order: Vec<u32> = (0..columns as u32).map(|j| j * 3 % 70).collect();
        let permutation = Some(Permutation::Host(order.clone().into()));
        let op = Op { weight: weight.matrix, bias: None, permutation };
        let (name, role) = (String::new(), TensorRole::FfnUp);
        let linear = Linear { name, role, layer: None, expert: None, mapped: None, op };
        let d: Vec<f32> = (0..200).map(|i| (i as f32 / 7.0).sin()).collect();
        let back = transposed(&pool, &linear, 50..250).unwrap();
        let mut made = vec![0f32; columns];
        let matrix = back.weight.matrix().unwrap();
        matmul(&pool, &mut Scratch::new(), &[matrix], &d, 1, &mut [&mut made]).unwrap();
        for (j, &input) in order.iter().enumerate() {
            let expected: f32 = d.iter().zip(50..).map(|(d, r)| d * numbers[r * columns + j]).sum();
            assert!((made[input as usize] - expected).abs() < 1e-3, "{j}");
        }
    }
}
