//! Observing the inputs of linear layers as they are computed: what calibration is built on.
//!
//! Linear layers that multiply the same vectors (queries, keys and values; gate and up) form a group. An observer
//! sees each group once for each batch of tokens, with all of its layers.

use std::error::Error as StdError;

use ndarray::ArrayView2;
use quern_compute::{Executor, Matrix, Values};
use quern_model::TensorRole;

use crate::matrix::rows_of;
use crate::weights::Linear;
use crate::{Error, Result};

/// One linear layer, as it is in the model.
#[derive(Clone, Copy, Debug)]
pub struct LinearInfo<'a> {
    /// Name of its weight in the checkpoint.
    pub name: &'a str,
    /// What the weight is for: a tied head has the embedding's name and role.
    pub role: TensorRole,
    /// The block, or `None` for the head.
    pub layer: Option<usize>,
    /// Which of a block's experts it belongs to.
    pub expert: Option<usize>,
    /// Outputs: rows of the weight.
    pub rows: usize,
    /// Inputs: its columns.
    pub columns: usize,
    matrix: Option<Matrix<'a>>,
}

impl<'a> LinearInfo<'a> {
    /// The weight, `[outputs][inputs]`.
    ///
    /// # Errors
    /// It is on a GPU.
    pub fn matrix(&self) -> Result<Matrix<'a>> {
        self.matrix.ok_or(quern_compute::Error::Device.into())
    }
}

/// Linear layers that share an input, with that input for some tokens.
#[derive(Clone, Copy, Debug)]
pub struct LinearGroup<'a> {
    /// The layers, in the order of the computation; at least one.
    pub linears: &'a [LinearInfo<'a>],
    /// Number of input vectors: one per token, in the order of the tokens. An expert sees the tokens that chose it,
    /// the head those whose logits were asked for.
    pub rows: usize,
    /// Length of each vector: the columns of each layer's weight.
    pub columns: usize,
    /// `rows * columns` values, row after row, in the memory of the device that computes.
    pub values: Values<'a>,
    /// The same inputs in the unquantized model, where they are kept ([`crate::Layerwise::with_reference`]); never those
    /// of an expert, whose tokens may be others there.
    pub reference: Option<Values<'a>>,
    /// The unquantized model's residual stream less the current one, `[rows][outputs]`, just before this group's output
    /// is added to it. Given with `reference` for a group of one layer whose output is added with nothing in between:
    /// attention's output (except in parallel blocks, where nothing reads the sum before the network's output is added
    /// too) and the down projection.
    pub drift: Option<Values<'a>>,
}

impl<'a> LinearGroup<'a> {
    /// The input vectors as the rows of a matrix in RAM, `[rows][columns]`.
    ///
    /// # Errors
    /// They are on a GPU.
    pub fn inputs(&self) -> Result<ArrayView2<'a, f32>> {
        Ok(rows_of(self.values.host()?, self.columns))
    }
}

/// Why an observer stops a pass.
pub type ObserverError = Box<dyn StdError + Send + Sync>;

/// Sees the inputs of all linear layers, group by group in the order of the computation.
pub trait Observer {
    /// Called before the layers of a group run, for each batch of tokens (at most [`crate::SessionOptions::batch`]).
    /// `executor` computes where the inputs are.
    ///
    /// # Errors
    /// Any: the pass stops, and its error is [`Error::Observer`] with this one.
    fn observe(&mut self, executor: &mut Executor, group: &LinearGroup<'_>) -> Result<(), ObserverError>;
}

/// What observers learn of these layers.
pub(crate) fn describe<'a>(linears: &[&'a Linear]) -> Vec<LinearInfo<'a>> {
    let describe = |&linear: &&'a Linear| {
        let &Linear { ref name, role, layer, expert, .. } = linear;
        let weight = &linear.op.weight;
        let (rows, columns, matrix) = (weight.rows(), weight.columns(), weight.matrix().ok());
        LinearInfo { name, role, layer, expert, rows, columns, matrix }
    };
    linears.iter().map(describe).collect()
}

/// The inputs of a group of layers, as [`LinearGroup`] has them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Inputs<'a> {
    pub(crate) values: Values<'a>,
    pub(crate) reference: Option<Values<'a>>,
    pub(crate) drift: Option<Values<'a>>,
}

impl<'a> From<Values<'a>> for Inputs<'a> {
    fn from(values: Values<'a>) -> Self {
        Self { values, reference: None, drift: None }
    }
}

/// Calls `observer` with the inputs of a group of layers.
pub(crate) fn observe<'a>(
    observer: &mut dyn Observer,
    executor: &mut Executor,
    linears: &[&Linear],
    inputs: impl Into<Inputs<'a>>,
) -> Result<()> {
    let linears = &*describe(linears);
    let Inputs { values, reference, drift } = inputs.into();
    let columns = linears.first().map_or(0, |linear| linear.columns);
    let rows = values.len().checked_div(columns).unwrap_or(0);
    let group = LinearGroup { linears, rows, columns, values, reference, drift };
    observer.observe(executor, &group).map_err(Error::Observer)
}
