//! A model run block by block over many sequences, so that its weights can be replaced in between: how calibrated
//! quantization runs a model.
//!
//! In each block, for each group of linear layers that share an input, in the order of the computation:
//!
//! ```text
//! every sequence's inputs    ->  Observer::observe      collects what it needs (Hessians)
//! all sequences were seen    ->  Calibrator::replace    gives the weights to continue with
//! the layers run, once, with the new weights; what follows sees their outputs
//! ```
//!
//! so each linear layer runs once in all. With a reference ([`Layerwise::with_reference`]) a second residual stream
//! goes through the weights as they are in the model, beside the first: observers then see what the same tokens would
//! have been without any replacement, and each layer runs twice.
//!
//! Memory, for each stream: the residual stream of all tokens, and the inputs of the next group of layers
//! (`[tokens][heads * head_dim]` or `[tokens][ffn]`) and of the network, in f32.

mod attention;
mod calibrator;
mod head;
mod network;
mod norms;
mod steps;
mod stream;

use std::ops::Range;

use ndarray::Array2;

use crate::forward::embed;
use crate::matrix::{values_of, values_of_mut};
use crate::observer::describe;
use crate::weights::Ffn;
use crate::{Error, LinearInfo, Model, Result};

pub use calibrator::{Calibrator, NormGroup, NormInfo, Replacement};
use steps::Steps;
use stream::{Stream, Views};

/// Many sequences that are run through a model block by block.
#[derive(Debug)]
pub struct Layerwise<'m> {
    model: &'m Model,
    /// The tokens of each sequence among all tokens.
    sequences: Vec<Range<usize>>,
    /// Goes through replaced weights.
    current: Stream,
    /// Goes through the model's own.
    reference: Option<Stream>,
    steps: Steps<'m>,
    /// What observers see of one sequence and no stream keeps.
    views: Views,
}

impl<'m> Layerwise<'m> {
    /// Looks up the embeddings of `texts`, each a sequence of its own that begins at position 0.
    ///
    /// # Errors
    /// No sequence, an empty one or one beyond what the model was trained for, a token outside the vocabulary.
    pub fn new(model: &'m Model, texts: &[Vec<u32>]) -> Result<Self> {
        Self::start(model, texts, false)
    }

    /// As [`Layerwise::new`], with a second residual stream that is never touched by replacements: observers see it as
    /// [`LinearGroup::reference`](crate::LinearGroup::reference) and, where it is defined,
    /// [`LinearGroup::drift`](crate::LinearGroup::drift). It takes as much memory and time as the first.
    ///
    /// # Errors
    /// As [`Layerwise::new`].
    pub fn with_reference(model: &'m Model, texts: &[Vec<u32>]) -> Result<Self> {
        Self::start(model, texts, true)
    }

    fn start(model: &'m Model, texts: &[Vec<u32>], with_reference: bool) -> Result<Self> {
        let longest = texts.iter().map(Vec::len).max().unwrap_or(0);
        model.check_context(longest)?;
        if texts.iter().any(Vec::is_empty) {
            return Err(Error::Option("an empty sequence cannot be run".into()));
        }
        let vocabulary = model.vocabulary();
        if let Some(&token) = texts.iter().flatten().find(|&&t| t as usize >= vocabulary) {
            return Err(Error::Token { token, vocabulary });
        }
        let config = &model.config;
        let mut total = 0;
        let mut next = |text: &Vec<u32>| {
            let start = total;
            total += text.len();
            start..total
        };
        let sequences: Vec<Range<usize>> = texts.iter().map(&mut next).collect();
        let mut hidden = Array2::zeros((total, config.hidden_size));
        for (text, tokens) in texts.iter().zip(&sequences) {
            embed(model, text, 0, values_of_mut(hidden.view_mut(), tokens))?;
        }
        let reference = with_reference.then(|| Stream::new(config, hidden.clone()));
        Ok(Self {
            model,
            sequences,
            current: Stream::new(config, hidden),
            reference,
            steps: Steps::new(model, longest)?,
            views: Views::new(config, longest, with_reference),
        })
    }

    /// Number of blocks.
    pub fn layers(&self) -> usize {
        self.model.config.layers
    }

    /// All tokens.
    pub fn tokens(&self) -> usize {
        self.current.tokens()
    }

    /// The residual stream, `[tokens][hidden]`: what the next block receives.
    pub fn hidden(&self) -> &[f32] {
        values_of(self.current.hidden.view(), &(0..self.tokens()))
    }

    /// Sets the residual stream to what [`Layerwise::hidden`] once returned: continues another run.
    ///
    /// # Panics
    /// If it has another length.
    pub fn set_hidden(&mut self, hidden: &[f32]) {
        self.current.set_hidden(hidden);
    }

    /// The residual stream of the unquantized model, as [`Layerwise::hidden`]; `None` without a reference.
    pub fn reference_hidden(&self) -> Option<&[f32]> {
        self.reference.as_ref().map(|stream| values_of(stream.hidden.view(), &(0..stream.tokens())))
    }

    /// Sets the reference's residual stream to what [`Layerwise::reference_hidden`] once returned. Nothing happens
    /// without a reference.
    ///
    /// # Panics
    /// If it has another length.
    pub fn set_reference_hidden(&mut self, hidden: &[f32]) {
        if let Some(reference) = &mut self.reference {
            reference.set_hidden(hidden);
        }
    }

    /// Runs block `layer` over all sequences, in both streams.
    ///
    /// # Errors
    /// Those of the forward pass and of `calibrator`. The residual streams are then of no use any more.
    ///
    /// # Panics
    /// If there is no such block.
    pub fn block(&mut self, layer: usize, calibrator: &mut dyn Calibrator) -> Result<()> {
        let model = self.model;
        let original = &model.weights.blocks[layer];
        model.placement.enter(layer, self.tokens());
        let mut block = original.clone();
        let attended = self.attention(layer, &mut block, calibrator);
        let done = attended.and_then(|()| match &original.ffn {
            Ffn::Dense { .. } => self.dense(layer, &mut block, calibrator),
            Ffn::Experts(experts) => self.experts(layer, &block, experts, calibrator),
        });
        model.placement.leave(layer);
        model.checkpoint().check_read()?;
        done
    }
}

impl Model {
    /// Names, roles and weights of a block's linear layers, in the order of the computation.
    ///
    /// # Panics
    /// If there is no such block.
    pub fn linears(&self, layer: usize) -> Vec<LinearInfo<'_>> {
        describe(&self.weights.blocks[layer].linears())
    }
}
