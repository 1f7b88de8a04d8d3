//! Linear layers, norms and rotations, forward and backward, over the rows of a batch.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use quern_compute::parallel::{part_of, share};
use quern_compute::{
    Device, Executor, Input, KvCache, KvType, Linear as Op, Matrix, Norm, Output, PassKey, Pool, Turn,
    Uploader, Values, ValuesMut, bytes_of_linear, bytes_of_norm, get_row,
};
use quern_tensor_io::ElementType;

use crate::forward::{Angles, cache_shape, rope_style};
use crate::rope::{RotaryAngles, grow_queries};
use crate::weights::{Block, Linear, Weight};
use crate::{Model, Result};

use super::vectors::{Spare, Vectors};

/// What computes.
#[derive(Debug)]
pub(super) struct Machine<'m> {
    pub(super) model: &'m Model,
    pub(super) executor: Executor,
    /// Keys and values of one sequence; a GPU's attention over whole sequences needs none.
    pub(super) cache: Option<KvCache>,
    pub(super) angles: Angles,
    uploader: Uploader,
    spare: Spare,
    /// Apart, for they are of the same lengths in every block.
    spare_weights: Spare,
    longest: usize,
}

/// A layer's weight, to go from the gradients by its outputs to those by its inputs.
#[derive(Debug)]
pub(super) enum Backward {
    /// Transposed, as a layer of its own.
    Transposed(Op),
    /// `[rows][columns]` in f32, on a GPU.
    Plain { weight: Vectors, columns: usize },
}

impl Backward {
    fn columns(&self) -> usize {
        match self {
            Self::Transposed(op) => op.weight.rows(),
            Self::Plain { columns, .. } => *columns,
        }
    }

    fn rows(&self) -> usize {
        match self {
            Self::Transposed(op) => op.weight.columns(),
            Self::Plain { weight, columns } => weight.len() / columns,
        }
    }
}

impl<'m> Machine<'m> {
    /// For sequences of at most `longest` tokens.
    pub(super) fn new(model: &'m Model, device: &Device, longest: usize) -> Result<Self> {
        let mut tables = RotaryAngles::default();
        model.rotation.fill(&model.pool, 0, longest, &mut tables);
        let mut executor = Executor::new(device)?;
        let mut angles = Angles::new(device);
        executor.begin(whole(longest))?;
        angles.set(&mut executor, &tables)?;
        executor.end(None)?;
        let shape = cache_shape(&model.config, 1, longest, KvType::F32);
        let cache = executor.pool().is_some().then(|| KvCache::new(device, shape)).transpose()?;
        let uploader = Uploader::new(device, &model.pool)?;
        let [spare, spare_weights] = [Spare::new(device), Spare::new(device)];
        Ok(Self { model, executor, cache, angles, uploader, spare, spare_weights, longest })
    }

    /// Whether it computes on the CPU.
    pub(super) fn on_cpu(&self) -> bool {
        self.executor.pool().is_some()
    }

    /// Begins work: all that follows is queued on a GPU.
    pub(super) fn begin(&mut self) -> Result<()> {
        self.executor.begin(whole(self.longest))?;
        Ok(())
    }

    /// Waits for it.
    pub(super) fn end(&mut self) -> Result<()> {
        Ok(self.executor.end(None)?)
    }

    /// A block on the device.
    pub(super) fn block_on(&mut self, block: &Block) -> Result<Block> {
        if self.on_cpu() {
            return Ok(block.clone());
        }
        self.uploader.begin(block.gpu_bytes())?;
        let moved = block.upload(&mut self.uploader)?;
        self.uploader.before(&self.executor)?;
        Ok(moved)
    }

    /// A layer on the device.
    pub(super) fn linear_on(&mut self, linear: &Linear) -> Result<Linear> {
        if self.on_cpu() {
            return Ok(linear.clone());
        }
        self.uploader.begin(bytes_of_linear(&linear.op))?;
        let moved = linear.upload(&mut self.uploader)?;
        self.uploader.before(&self.executor)?;
        Ok(moved)
    }

    /// A norm on the device.
    pub(super) fn norm_on(&mut self, norm: &Norm) -> Result<Norm> {
        self.uploader.begin(bytes_of_norm(norm))?;
        let moved = self.uploader.norm(norm)?;
        self.uploader.before(&self.executor)?;
        Ok(moved)
    }

    /// So many numbers; what they are is not known.
    pub(super) fn vectors(&self, length: usize) -> Result<Vectors> {
        self.spare.take(length)
    }

    /// So many zeros.
    pub(super) fn zeros(&mut self, length: usize) -> Result<Vectors> {
        let mut zeros = self.vectors(length)?;
        self.executor.clear(zeros.values_mut())?;
        Ok(zeros)
    }

    /// These numbers.
    pub(super) fn copy(&mut self, x: Values<'_>) -> Result<Vectors> {
        let mut copy = self.vectors(x.len())?;
        self.executor.copy(x, copy.values_mut())?;
        Ok(copy)
    }

    /// These numbers, from RAM.
    pub(super) fn uploaded(&mut self, x: &[f32]) -> Result<Vectors> {
        let mut moved = self.vectors(x.len())?;
        self.executor.upload(x, moved.values_mut())?;
        Ok(moved)
    }

    /// `x += y`.
    pub(super) fn add(&mut self, x: &mut Vectors, y: &Vectors) -> Result<()> {
        Ok(self.executor.add(x.values_mut(), y.values())?)
    }

    /// `linear(x)`, with a layer that is on the device.
    pub(super) fn linear(&mut self, linear: &Linear, x: Values<'_>) -> Result<Vectors> {
        let op = &linear.op;
        let mut out = self.vectors(x.len() / op.weight.columns() * op.weight.rows())?;
        self.executor.linear([op], Input::Values(x), Output::Store([out.values_mut()]))?;
        Ok(out)
    }

    /// `norm(x)`.
    pub(super) fn norm(&mut self, norm: &Norm, x: Values<'_>) -> Result<Vectors> {
        let mut out = self.vectors(x.len())?;
        self.executor.norm(norm, x, out.values_mut())?;
        Ok(out)
    }

    /// The same, or a copy where there is no norm.
    pub(super) fn norm_if(&mut self, norm: Option<&Norm>, x: &Vectors) -> Result<Vectors> {
        match norm {
            Some(norm) => self.norm(norm, x.values()),
            None => self.copy(x.values()),
        }
    }

    /// Gradient by the inputs `x` of a norm of the residual stream, in place of `d`; nothing to do without a norm.
    pub(super) fn norm_back(&mut self, norm: Option<&Norm>, x: &Vectors, d: &mut Vectors) -> Result<()> {
        let Some(norm) = norm else { return Ok(()) };
        let hidden = self.model.config.hidden_size;
        Ok(self.executor.norm_backward(norm, hidden, x.values(), d.values_mut())?)
    }

    /// Multiplies the queries of a sequence in a layer, `width` numbers each, with what they grow to at their positions.
    pub(super) fn grow(
        &mut self,
        layer: usize,
        tokens: &Range<usize>,
        width: usize,
        q: &mut Vectors,
    ) -> Result<()> {
        let config = &self.model.config;
        let Some(growth) = config.growth(layer).filter(|growth| growth.reaches(tokens.len())) else {
            return Ok(());
        };
        match q.values_mut().slice(tokens.start * width..tokens.end * width).host() {
            Ok(rows) => grow_queries(config, 0, width, width, rows),
            Err(_) => return Err(crate::Error::QueryGrowth { context: growth.context }),
        }
        Ok(())
    }

    /// A layer's weight for the way back: `original` is in RAM, `on_device` the same on the device.
    pub(super) fn backward(&mut self, original: &Linear, on_device: &Linear) -> Result<Backward> {
        let (rows, columns) = (original.op.weight.rows(), original.op.weight.columns());
        if self.on_cpu() {
            return Ok(Backward::Transposed(transposed(&self.model.pool, original, 0..rows)?));
        }
        let mut weight = self.spare_weights.take(rows * columns)?;
        self.executor.weight(&on_device.op, weight.values_mut())?;
        Ok(Backward::Plain { weight, columns })
    }

    /// `to += Wᵀ d`: from the gradients by a layer's outputs to those by its inputs.
    pub(super) fn add_back(&mut self, weight: &Backward, d: Values<'_>, to: ValuesMut<'_>) -> Result<()> {
        match weight {
            Backward::Transposed(op) => {
                self.executor.linear([op], Input::Values(d), Output::Add(to))?;
            }
            Backward::Plain { weight, columns } => {
                self.executor.add_backward((weight.values(), *columns), d, to)?;
            }
        }
        Ok(())
    }

    /// `Wᵀ d`.
    pub(super) fn back(&mut self, weight: &Backward, d: Values<'_>) -> Result<Vectors> {
        let mut out = self.zeros(d.len() / weight.rows() * weight.columns())?;
        self.add_back(weight, d, out.values_mut())?;
        Ok(out)
    }

    /// Rotates queries or keys of whole sequences.
    pub(super) fn rotate(
        &mut self,
        layer: usize,
        sequences: &[Range<usize>],
        (heads, back): (usize, bool),
        x: &mut Vectors,
    ) -> Result<()> {
        let Self { model, executor, angles, .. } = self;
        let (config, pairs) = (&model.config, model.rotation.pairs());
        if pairs == 0 || !config.rotates(layer) {
            return Ok(());
        }
        let width = heads * config.head_dim;
        for tokens in sequences {
            let (cos, sin) = angles.of(config.window(layer).is_some(), tokens.len() * pairs);
            let turn = Turn { style: rope_style(config), pairs, cos, sin, back };
            let x = x.values_mut().slice(tokens.start * width..tokens.end * width);
            executor.rotate(turn, (heads, config.head_dim), x)?;
        }
        Ok(())
    }
}

/// A pass over whole sequences.
fn whole(tokens: usize) -> PassKey {
    PassKey { segment: 0, tokens, first: 0, keep: 0, recordable: false }
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
