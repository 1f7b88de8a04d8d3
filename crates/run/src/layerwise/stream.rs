//! A residual stream of all tokens with what is kept between the groups of a block; and what observers see of one
//! sequence beside that.

use std::ops::Range;

use ndarray::Array2;
use quern_model::Config;

use crate::forward::wide;
use crate::matrix::{rows_of, rows_of_mut, values_of, values_of_mut};

/// What is kept of all tokens.
#[derive(Debug)]
pub(super) struct Stream {
    /// The residual stream, `[all tokens][hidden]`.
    pub(super) hidden: Array2<f32>,
    /// Inputs of the feed-forward network, `[all tokens][hidden]`.
    pub(super) network: Array2<f32>,
    /// Room for the inputs of the output or the down projection, `[all tokens][width]`.
    pub(super) inputs: Vec<f32>,
}

impl Stream {
    /// A stream that begins with these embeddings.
    pub(super) fn new(config: &Config, hidden: Array2<f32>) -> Self {
        let width = (config.heads * config.head_dim).max(wide(config)).max(config.hidden_size);
        let (network, inputs) = (Array2::zeros(hidden.dim()), vec![0f32; hidden.nrows() * width]);
        Self { hidden, network, inputs }
    }

    /// All tokens.
    pub(super) fn tokens(&self) -> usize {
        self.hidden.nrows()
    }

    pub(super) fn set_hidden(&mut self, hidden: &[f32]) {
        let all = 0..self.tokens();
        values_of_mut(self.hidden.view_mut(), &all).copy_from_slice(hidden);
    }

    /// The residual stream of some tokens.
    pub(super) fn hidden_of(&self, tokens: &Range<usize>) -> &[f32] {
        values_of(self.hidden.view(), tokens)
    }

    /// The network's inputs of some tokens.
    pub(super) fn network_of(&self, tokens: &Range<usize>) -> &[f32] {
        values_of(self.network.view(), tokens)
    }

    /// The inputs of the next group, of this width, of some tokens.
    pub(super) fn inputs_of(&self, width: usize, tokens: &Range<usize>) -> &[f32] {
        values_of(rows_of(&self.inputs, width), tokens)
    }

    /// The same, to be written, with the residual stream and the network's inputs beside them.
    pub(super) fn parts(&mut self, width: usize, tokens: &Range<usize>) -> Parts<'_> {
        Parts {
            hidden: values_of_mut(self.hidden.view_mut(), tokens),
            network: values_of_mut(self.network.view_mut(), tokens),
            inputs: values_of_mut(rows_of_mut(&mut self.inputs, width), tokens),
        }
    }
}

/// A stream's numbers of one sequence.
pub(super) struct Parts<'a> {
    pub(super) hidden: &'a mut [f32],
    pub(super) network: &'a mut [f32],
    pub(super) inputs: &'a mut [f32],
}

/// Memory for one sequence: what is given to observers and belongs to no stream. All `[tokens][hidden]`.
#[derive(Debug)]
pub(super) struct Views {
    /// Outputs of a norm.
    pub(super) normed: Vec<f32>,
    /// The same in the reference; empty without one, as is the next.
    pub(super) reference: Vec<f32>,
    /// The reference's residual stream less the current one.
    pub(super) drift: Vec<f32>,
}

impl Views {
    pub(super) fn new(config: &Config, longest: usize, with_reference: bool) -> Self {
        let values = longest * config.hidden_size.max(config.embedding_size);
        let beside = if with_reference { values } else { 0 };
        Self { normed: vec![0.0; values], reference: vec![0.0; beside], drift: vec![0.0; beside] }
    }

    /// How far the current stream is from the reference in these tokens.
    pub(super) fn drift(&mut self, current: &Stream, reference: &Stream, tokens: &Range<usize>) -> &[f32] {
        let (current, reference) = (current.hidden_of(tokens), reference.hidden_of(tokens));
        let drift = &mut self.drift[..current.len()];
        for ((drift, reference), current) in drift.iter_mut().zip(reference).zip(current) {
            *drift = reference - current;
        }
        drift
    }
}
