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
//! Memory: `[blocks + 1][tokens][hidden]` in f32 in RAM, the weights of one block transposed in f32, and the activations of
//! one batch of sequences (about 2048 tokens). Time: about four forward passes. Rounding is that of the forward pass: with
//! weights in block types that is of activations in 8 bits, so plain weights should be used.
//!
//! On a GPU ([`Gradients::on`]) everything but the loss is computed there, with one block's weights and one batch's
//! activations in its memory ([`gradients_memory`]). Products of the forward pass read f16, as always on a GPU; those of the
//! way back read pairs of bf16, whose range is that of f32; attention is in f32.

mod block;
mod loss;
mod memory;
mod products;
mod tape;
mod vectors;

use std::ops::Range;

use quern_compute::{Device, Executor, Values};
use quern_model::architecture::Activation;

use crate::layerwise::{Calibrator, Layerwise, Replacement};
use crate::observer::describe;
use crate::weights::{Attention, Block, Linear};
use crate::{Error, LinearGroup, LinearInfo, Model, Observer, ObserverError, Result};

use loss::Choice;
pub use loss::{Loss, Target};
pub use memory::gradients_memory;
use products::Machine;
use vectors::Vectors;

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

    /// Whether [`GradientObserver::linear`] is to be called for this layer: what is not wanted stays on the GPU.
    fn wants(&self, linear: &LinearInfo<'_>) -> bool {
        let _ = linear;
        true
    }

    /// Called for each block once the gradient by the residual stream in front of it is known, `[tokens][hidden]` for all
    /// tokens: for block 0, by what was looked up in the embedding.
    ///
    /// # Errors
    /// As [`GradientObserver::linear`].
    fn residual(&mut self, layer: usize, gradients: &[f32]) -> Result<(), ObserverError> {
        let _ = (layer, gradients);
        Ok(())
    }

    /// Whether [`GradientObserver::residual`] is to be called for this block.
    fn wants_residual(&self, layer: usize) -> bool {
        let _ = layer;
        true
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
        Self::on(model, &model.cpu(), texts)
    }

    /// As [`Gradients::new`], on this device. The weights are in RAM or in the map, and are moved block by block.
    ///
    /// # Errors
    /// As [`Gradients::new`]; a GPU without enough memory; [`Error::NoGradients`] for heads that a GPU cannot hold.
    pub fn on(model: &'m Model, device: &Device, texts: &[Vec<u32>]) -> Result<Self> {
        if model.is_mixture() {
            return Err(Error::NoGradients { what: "its blocks are mixtures of experts" });
        }
        if model.config.windowed_heads.is_some() || model.config.per_layer.is_some() {
            return Err(Error::NoGradients {
                what: "its layers have heads of different sizes, or receive something of each token",
            });
        }
        if model.config.qkv_limit.is_some() {
            return Err(Error::NoGradients { what: "its queries, keys and values are cut off" });
        }
        if model.config.activation == Activation::Xielu {
            return Err(Error::NoGradients { what: "its activation is xIELU" });
        }
        if model.config.architecture.norms_after_rotation {
            return Err(Error::NoGradients {
                what: "norms of its queries and keys are behind their rotation",
            });
        }
        for block in &model.weights.blocks {
            attention_of(block)?;
        }
        let mut run = Layerwise::on(model, std::slice::from_ref(device), texts, false, false)?;
        let mut kept = vec![run.hidden()?.into_owned()];
        for layer in 0..run.layers() {
            run.block(layer, &mut Nothing)?;
            kept.push(run.hidden()?.into_owned());
        }
        drop(run);
        let longest = texts.iter().map(Vec::len).max().unwrap_or(0);
        let machine = Machine::new(model, device, longest)?;
        if model.config.head_dim > machine.executor.most_gradient_head() {
            return Err(Error::NoGradients {
                what: "its heads are too long for attention's gradients on this GPU",
            });
        }
        Ok(Self { model, texts: texts.to_vec(), batches: batches(texts), kept, machine })
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
        let targets: Vec<Choice> = match target {
            Target::Text => {
                let next =
                    |text: &Vec<u32>, at| text.get(at).map_or(Choice::None, |&next| Choice::Token(next));
                self.texts.iter().flat_map(|text| (1..=text.len()).map(move |at| next(text, at))).collect()
            }
            Target::Drawn { seed } => (0..self.tokens()).map(|place| Choice::Drawn { seed, place }).collect(),
        };
        self.run_targets(&targets, observer)
    }

    /// As [`Gradients::run`] with drawn tokens, those of each of `parts`, some sequences that follow each other, as if it
    /// were run alone with its own seed.
    ///
    /// # Errors
    /// As [`Gradients::run`].
    ///
    /// # Panics
    /// If the parts have other numbers of sequences than there are.
    pub fn run_parts(&mut self, parts: &[(usize, u64)], observer: &mut dyn GradientObserver) -> Result<Loss> {
        let mut targets = Vec::with_capacity(self.tokens());
        let mut rest = &self.texts[..];
        for &(sequences, seed) in parts {
            let (own, others) = rest.split_at(sequences);
            let tokens: usize = own.iter().map(Vec::len).sum();
            targets.extend((0..tokens).map(|place| Choice::Drawn { seed, place }));
            rest = others;
        }
        assert!(rest.is_empty(), "every sequence is in a part");
        self.run_targets(&targets, observer)
    }

    fn run_targets(&mut self, targets: &[Choice], observer: &mut dyn GradientObserver) -> Result<Loss> {
        let Self { model, batches, kept, machine, .. } = self;
        let hidden = model.config.hidden_size;
        let unit = model.weights.blocks.len();
        let values = kept[0].len();
        let mut gradients = machine.vectors(values)?;
        model.placement.enter(unit, values / hidden);
        let loss = machine.head(targets, &kept[unit], &mut gradients, observer);
        model.placement.leave(unit);
        let loss = loss?;
        for layer in (0..unit).rev() {
            model.placement.enter(layer, values / hidden);
            let held = machine.hold(layer)?;
            for batch in &*batches {
                let range = batch.tokens.start * hidden..batch.tokens.end * hidden;
                machine.begin()?;
                let x = machine.uploaded(&kept[layer][range.clone()])?;
                let tape = machine.record((layer, &held.block), &batch.sequences, x)?;
                let mut d = machine.copy(gradients.values().slice(range.clone()))?;
                machine.block((layer, &held), batch, tape, &mut d, observer)?;
                machine.executor.copy(d.values(), gradients.values_mut().slice(range))?;
                machine.end()?;
            }
            model.placement.leave(layer);
            if observer.wants_residual(layer) {
                let shown = machine.in_ram(gradients.values())?;
                observer.residual(layer, &shown).map_err(Error::Observer)?;
            }
        }
        model.checkpoint().check_read()?;
        Ok(loss)
    }
}

impl Machine<'_> {
    /// These numbers in RAM.
    fn in_ram<'v>(&mut self, x: Values<'v>) -> Result<std::borrow::Cow<'v, [f32]>> {
        if self.on_cpu() {
            return Ok(std::borrow::Cow::Borrowed(x.host()?));
        }
        let mut copy = vec![0f32; x.len()];
        self.executor.download(x, &mut copy)?;
        Ok(std::borrow::Cow::Owned(copy))
    }

    /// Shows a layer with its inputs and gradients.
    fn show(
        &mut self,
        observer: &mut dyn GradientObserver,
        linear: &Linear,
        tokens: &Range<usize>,
        (inputs, gradients): (&Vectors, &Vectors),
    ) -> Result<()> {
        for linear in describe(&[linear]) {
            if !observer.wants(&linear) {
                continue;
            }
            let (inputs, gradients) = (self.in_ram(inputs.values())?, self.in_ram(gradients.values())?);
            let (inputs, gradients) = (&inputs[..], &gradients[..]);
            let gradient = LinearGradient { linear, tokens: tokens.clone(), inputs, gradients };
            observer.linear(&gradient).map_err(Error::Observer)?;
        }
        Ok(())
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
