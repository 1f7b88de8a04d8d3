//! Watching the inputs of linear layers as they pass: what calibration is built on.

use quern_model::TensorRole;

/// What one linear layer is about to multiply.
#[derive(Clone, Copy, Debug)]
pub struct LinearInput<'a> {
    /// Name of the layer's weight in the checkpoint.
    pub name: &'a str,
    /// What the weight is for: a tied head has the embedding's name and role.
    pub role: TensorRole,
    /// The block, or `None` for the head.
    pub layer: Option<usize>,
    /// Which of a block's experts it belongs to; it then sees the tokens that chose this expert.
    pub expert: Option<usize>,
    /// Number of input vectors: one per token, in the order of the tokens. The head sees only those whose
    /// logits were asked for.
    pub rows: usize,
    /// Length of each vector: the weight's columns.
    pub columns: usize,
    /// `rows * columns` values, row after row.
    pub values: &'a [f32],
}

/// Sees the input of every linear layer: each weight once per batch (at most
/// [`crate::SessionOptions::batch`] tokens), block by block in the order of the computation.
pub trait Observer {
    /// Called before the layer runs. The values live until it returns.
    fn linear_input(&mut self, input: &LinearInput<'_>);
}
