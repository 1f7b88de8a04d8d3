//! Gradients of a model's loss: what each linear layer's outputs and the residual stream are worth, for calibration that
//! weights errors by what they cost.
//!
//! The loss is the cross entropy of the next tokens, in nats, summed over all tokens: of the text's own, or of tokens
//! drawn from the model's distribution ([`Target`]). With drawn tokens the expected products of gradients are the Fisher
//! information, the curvature of the Kullback-Leibler divergence from this model.
//!
//! ```text
//! Gradients::new     embeddings -> block 0 -> … -> last block      keeps the residual stream in front of each
//! Gradients::run     loss -> head -> last block -> … -> block 0    each block computes its activations once more
//! ```
//!
//! Memory: `[blocks + 1][tokens][hidden]` in f32, the weights of one block transposed in f32, and the activations of one
//! batch of sequences (about 2048 tokens). Time: about four forward passes. Rounding is that of the forward pass: with
//! weights in block types that is of activations in 8 bits, so plain weights should be used.

mod block;
mod loss;
mod products;
mod tape;

use std::ops::Range;

use quern_compute::Executor;

use crate::layerwise::{Calibrator, Layerwise, Replacement};
use crate::observer::describe;
use crate::weights::{Attention, Block, Linear};
use crate::{Error, LinearGroup, LinearInfo, Model, Observer, ObserverError, Result};

use block::Transposed;
pub use loss::{Loss, Target};
use products::Machine;

/// Most tokens of a batch, unless one sequence has more.
const BATCH: usize = 2048;

/// A linear layer with the inputs it had and the gradient of the loss by its outputs, for some tokens.
#[derive(Clone, Debug)]
pub struct LinearGradient<'a> {
    /// The layer.
    pub linear: LinearInfo<'a>,
    /// Which of all tokens, those of the first sequence first.
    pub tokens: Range<usize>,
    /// Its inputs, `[tokens][columns]`.
    pub inputs: &'a [f32],
    /// Gradient by its outputs, `[tokens][rows]`.
    pub gradients: &'a [f32],
}

/// Sees gradients as they are computed.
pub trait GradientObserver {
    /// Called for each linear layer and batch of tokens: first the head, then the layers of each block against the order
    /// of the computation, the last block first.
    ///
    /// # Errors
    /// Any: the run stops, and its error is [`Error::Observer`] with this one.
    fn linear(&mut self, gradient: &LinearGradient<'_>) -> Result<(), ObserverError>;

    /// Called for each block once the gradient by the residual stream in front of it is known, `[tokens][hidden]` for all
    /// tokens: for block 0, by what was looked up in the embedding.
    ///
    /// # Errors
    /// As [`GradientObserver::linear`].
    fn residual(&mut self, layer: usize, gradients: &[f32]) -> Result<(), ObserverError> {
        let _ = (layer, gradients);
        Ok(())
    }
}

/// Sequences that were run through a model, with what their gradients need.
#[derive(Debug)]
pub struct Gradients<'m> {
    model: &'m Model,
    texts: Vec<Vec<u32>>,
    /// Sequences that are taken together.
    batches: Vec<Batch>,
    /// The residual stream in front of each block and behind the last, `[tokens][hidden]`.
    kept: Vec<Vec<f32>>,
    machine: Machine<'m>,
}

/// Sequences that are taken together.
#[derive(Clone, Debug)]
struct Batch {
    /// Which of all tokens.
    tokens: Range<usize>,
    /// The tokens of each sequence among those of the batch.
    sequences: Vec<Range<usize>>,
}

impl<'m> Gradients<'m> {
    /// Runs `texts`, each a sequence of its own that begins at position 0, and keeps what their gradients need.
    ///
    /// # Errors
    /// As [`Layerwise::new`]; [`Error::NoGradients`] for models whose gradients are not known.
    pub fn new(model: &'m Model, texts: &[Vec<u32>]) -> Result<Self> {
        if model.is_mixture() {
            return Err(Error::NoGradients { what: "its blocks are mixtures of experts" });
        }
        for block in &model.weights.blocks {
            attention_of(block)?;
        }
        let mut run = Layerwise::new(model, texts)?;
        let mut kept = vec![run.hidden()?.into_owned()];
        for layer in 0..run.layers() {
            run.block(layer, &mut Nothing)?;
            kept.push(run.hidden()?.into_owned());
        }
        let longest = texts.iter().map(Vec::len).max().unwrap_or(0);
        let batches = batches(texts);
        Ok(Self { model, texts: texts.to_vec(), batches, kept, machine: Machine::new(model, longest)? })
    }

    /// All tokens.
    pub fn tokens(&self) -> usize {
        self.texts.iter().map(Vec::len).sum()
    }

    /// Computes all gradients of one loss. May be called again, for other drawn tokens.
    ///
    /// # Errors
    /// Those of the forward pass and of `observer`; [`Error::NotFinite`] if a loss is not finite.
    pub fn run(&mut self, target: Target, observer: &mut dyn GradientObserver) -> Result<Loss> {
        let Self { model, texts, batches, kept, machine } = self;
        let hidden = model.config.hidden_size;
        let mut gradients = vec![0f32; kept[0].len()];
        let unit = model.weights.blocks.len();
        model.placement.enter(unit, gradients.len() / hidden);
        let loss = machine.head(texts, target, &kept[unit], &mut gradients, observer);
        model.placement.leave(unit);
        let loss = loss?;
        for layer in (0..unit).rev() {
            model.placement.enter(layer, gradients.len() / hidden);
            let transposed = Transposed::new(&model.pool, &model.weights.blocks[layer])?;
            for batch in &*batches {
                let values = batch.tokens.start * hidden..batch.tokens.end * hidden;
                let tape = machine.record(layer, &batch.sequences, &kept[layer][values.clone()])?;
                machine.block(layer, batch, tape, &transposed, &mut gradients[values], observer)?;
            }
            model.placement.leave(layer);
            observer.residual(layer, &gradients).map_err(Error::Observer)?;
        }
        model.checkpoint().check_read()?;
        Ok(loss)
    }
}

/// The attention of a block: the only mixer whose gradients are known.
fn attention_of(block: &Block) -> Result<&Attention> {
    let what = "its blocks have other mixers than attention";
    block.mixer.attention().ok_or(Error::NoGradients { what })
}

/// Sequences in batches of about [`BATCH`] tokens.
fn batches(texts: &[Vec<u32>]) -> Vec<Batch> {
    let mut batches: Vec<Batch> = Vec::new();
    let mut start = 0;
    for text in texts {
        let end = start + text.len();
        if batches.last().is_none_or(|batch| end - batch.tokens.start > BATCH) {
            batches.push(Batch { tokens: start..start, sequences: Vec::new() });
        }
        if let Some(batch) = batches.last_mut() {
            let first = batch.tokens.start;
            batch.sequences.push(start - first..end - first);
            batch.tokens.end = end;
        }
        start = end;
    }
    batches
}

/// Shows a layer with its inputs and gradients.
fn show(
    observer: &mut dyn GradientObserver,
    linear: &Linear,
    tokens: &Range<usize>,
    inputs: &[f32],
    gradients: &[f32],
) -> Result<()> {
    let infos = describe(&[linear]);
    for linear in infos {
        let gradient = LinearGradient { linear, tokens: tokens.clone(), inputs, gradients };
        observer.linear(&gradient).map_err(Error::Observer)?;
    }
    Ok(())
}

/// Replaces nothing and looks at nothing.
struct Nothing;

impl Observer for Nothing {
    fn observe(&mut self, _: &mut Executor, _: &LinearGroup<'_>) -> Result<(), ObserverError> {
        Ok(())
    }
}

impl Calibrator for Nothing {
    fn replace(&mut self, linears: &[LinearInfo<'_>]) -> Result<Vec<Option<Replacement>>, ObserverError> {
        Ok(vec![None; linears.len()])
    }
}
