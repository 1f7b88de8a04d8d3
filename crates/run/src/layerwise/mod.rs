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
//! Sequences are computed by one device or several ([`Layerwise::on`]), each its own; what a GPU is given is queued, so all
//! compute at the same time. Before a group is replaced, all have computed and shown its inputs, those of the first
//! device first.
//!
//! Memory on the CPU, for each stream: the residual stream of all tokens, and the inputs of the next group of layers
//! (`[tokens][heads * head_dim]` or `[tokens][ffn]`) and of the network, in f32. A GPU keeps the residual stream alone,
//! or one sequence of it where its memory is short, and computes the rest again for each sequence.

mod calibrator;
mod experts;
mod head;
mod lane;
mod memory;
mod mixer;
mod network;
mod per_layer;
mod rows;
mod steps;
mod stream;

use std::borrow::Cow;
use std::ops::Range;

use quern_compute::Device;
use quern_model::architecture::Block as BlockKind;

use crate::forward::{embed, streams};
use crate::observer::describe;
use crate::weights::{Block, Ffn, Linear};
use crate::{Error, LinearInfo, Model, Result};

pub use calibrator::{Calibrator, Replacement};
use calibrator::{replaced, replacements};
use lane::Lane;
pub use memory::LayerwiseMemory;
use rows::Keep;
use stream::Keeps;

/// Many sequences that are run through a model block by block.
#[derive(Debug)]
pub struct Layerwise<'m> {
    model: &'m Model,
    lanes: Vec<Lane<'m>>,
    tokens: usize,
}

impl<'m> Layerwise<'m> {
    /// Looks up the embeddings of `texts`, each a sequence of its own that begins at position 0, to be computed on the
    /// CPU.
    ///
    /// # Errors
    /// No sequence, an empty one or one beyond what the model was trained for, a token outside the vocabulary.
    pub fn new(model: &'m Model, texts: &[Vec<u32>]) -> Result<Self> {
        Self::on(model, &[model.cpu()], texts, false, false)
    }

    /// As [`Layerwise::new`], with a second residual stream that is never touched by replacements: observers see it as
    /// [`LinearGroup::reference`](crate::LinearGroup::reference) and, where it is defined,
    /// [`LinearGroup::drift`](crate::LinearGroup::drift). It takes as much memory and time as the first.
    ///
    /// # Errors
    /// As [`Layerwise::new`].
    pub fn with_reference(model: &'m Model, texts: &[Vec<u32>]) -> Result<Self> {
        Self::on(model, &[model.cpu()], texts, true, false)
    }

    /// On these devices, the sequences divided among them in order. The weights are in RAM or in the map, and are moved
    /// block by block. `wait`: the residual streams wait in RAM, and GPUs keep one sequence ([`LayerwiseMemory`] says
    /// what fits).
    ///
    /// # Errors
    /// As [`Layerwise::new`]; a GPU without enough memory; several devices, or streams that wait, for a mixture of
    /// experts.
    pub fn on(
        model: &'m Model,
        devices: &[Device],
        texts: &[Vec<u32>],
        with_reference: bool,
        wait: bool,
    ) -> Result<Self> {
        let longest = texts.iter().map(Vec::len).max().unwrap_or(0);
        model.check_context(longest)?;
        if texts.iter().any(Vec::is_empty) {
            return Err(Error::Option("an empty sequence cannot be run".into()));
        }
        let vocabulary = model.vocabulary();
        if let Some(&token) = texts.iter().flatten().find(|&&t| t as usize >= vocabulary) {
            return Err(Error::Token { token, vocabulary });
        }
        if model.is_mixture() && (devices.len() > 1 || wait) {
            let what = "a mixture of experts is calibrated on one device that holds all tokens";
            return Err(Error::Option(what.into()));
        }
        let used = devices.len().min(texts.len()).max(1);
        let mut lanes = Vec::with_capacity(used);
        let mut rest = texts;
        for (at, device) in devices.iter().take(used).enumerate() {
            let (own, others) = rest.split_at(rest.len().div_ceil(used - at));
            rest = others;
            let keeps = keeps(model, matches!(device, Device::Cpu(_)), wait);
            let mut lane = Lane::new(model, device, ranges(own), keeps, with_reference)?;
            if model.config.per_layer.is_some() {
                lane.texts = own.concat();
            }
            let mut hidden = vec![0.0; longest * model.config.stream_width()];
            for (text, tokens) in own.iter().zip(lane.sequences.clone()) {
                let hidden = &mut hidden[..text.len() * model.config.stream_width()];
                embed(model, text, 0, &mut hidden[..text.len() * model.config.hidden_size])?;
                if model.config.streams > 1 {
                    streams::spread(model, &mut lane.steps.executor, hidden)?;
                }
                lane.write(false, &tokens, hidden)?;
                lane.write(true, &tokens, hidden)?;
            }
            lanes.push(lane);
        }
        Ok(Self { model, lanes, tokens: texts.iter().map(Vec::len).sum() })
    }

    /// Number of blocks.
    pub fn layers(&self) -> usize {
        self.model.config.layers
    }

    /// All tokens.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Numbers of a residual stream.
    pub fn values(&self) -> usize {
        self.tokens * self.model.config.stream_width()
    }

    /// The residual stream, `[tokens][hidden]`: what the next block receives.
    ///
    /// # Errors
    /// A GPU is lost.
    pub fn hidden(&mut self) -> Result<Cow<'_, [f32]>> {
        self.read(false)
    }

    /// Both residual streams, or the one there is.
    ///
    /// # Errors
    /// A GPU is lost.
    pub fn streams(&mut self) -> Result<Vec<Cow<'_, [f32]>>> {
        let which = if self.has_reference() { &[false, true][..] } else { &[false] };
        let mut streams = Vec::with_capacity(which.len());
        for &reference in which {
            if self.in_ram(reference)?.is_none() {
                streams.push(self.copied(reference)?);
            }
        }
        if streams.len() == which.len() {
            return Ok(streams.into_iter().map(Cow::Owned).collect());
        }
        let in_ram =
            which.iter().map(|&reference| Ok(Cow::Borrowed(self.in_ram(reference)?.unwrap_or_default())));
        in_ram.collect()
    }

    /// Sets the residual stream to what [`Layerwise::hidden`] once returned: continues another run.
    ///
    /// # Errors
    /// A GPU is lost.
    ///
    /// # Panics
    /// If it has another length.
    pub fn set_hidden(&mut self, hidden: &[f32]) -> Result<()> {
        self.write(false, hidden)
    }

    /// The residual stream of the unquantized model, as [`Layerwise::hidden`]; `None` without a reference.
    ///
    /// # Errors
    /// A GPU is lost.
    pub fn reference_hidden(&mut self) -> Result<Option<Cow<'_, [f32]>>> {
        match self.has_reference() {
            true => self.read(true).map(Some),
            false => Ok(None),
        }
    }

    /// Sets the reference's residual stream to what [`Layerwise::reference_hidden`] once returned. Nothing happens
    /// without a reference.
    ///
    /// # Errors
    /// A GPU is lost.
    ///
    /// # Panics
    /// If it has another length.
    pub fn set_reference_hidden(&mut self, hidden: &[f32]) -> Result<()> {
        match self.has_reference() {
            true => self.write(true, hidden),
            false => Ok(()),
        }
    }

    /// Whether the unquantized model is run beside the other.
    pub fn has_reference(&self) -> bool {
        self.lanes.iter().any(|lane| lane.reference.is_some())
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
        let done = self.run(layer, original, calibrator);
        model.placement.leave(layer);
        model.checkpoint().check_read()?;
        done
    }

    fn run(&mut self, layer: usize, original: &Block, calibrator: &mut dyn Calibrator) -> Result<()> {
        for lane in &mut self.lanes {
            lane.enter(original)?;
        }
        if original.streams.is_some() {
            self.each(|lane, _, tokens| lane.predict(tokens))?;
        }
        self.mixer(layer, calibrator)?;
        match &original.ffn {
            Ffn::Dense { widen, down } => self.dense(layer, (widen, down), calibrator)?,
            Ffn::Experts(experts) => self.experts(layer, experts, calibrator)?,
            Ffn::None => self.each(|lane, _, tokens| lane.project(layer, tokens))?,
        }
        self.per_layer(layer, original, calibrator)?;
        for lane in &mut self.lanes {
            lane.leave()?;
        }
        Ok(())
    }

    /// Does `work` for each sequence, with the number of its lane; the first of each lane first.
    fn each(
        &mut self,
        mut work: impl FnMut(&mut Lane<'m>, usize, &Range<usize>) -> Result<()>,
    ) -> Result<()> {
        let most = self.lanes.iter().map(|lane| lane.sequences.len()).max().unwrap_or(0);
        for turn in 0..most {
            for (at, lane) in self.lanes.iter_mut().enumerate() {
                if let Some(tokens) = lane.sequences.get(turn).cloned() {
                    lane.load(&tokens)?;
                    work(lane, at, &tokens)?;
                }
            }
        }
        Ok(())
    }

    /// Replaces the weights of a group (`own`, in RAM), whose inputs were shown, by those that `calibrator` gives; `of`
    /// finds the place of the layer with this number in a block.
    fn replace(
        &mut self,
        own: &[&Linear],
        calibrator: &mut dyn Calibrator,
        of: impl Fn(&mut Block, usize) -> Option<&mut Linear>,
    ) -> Result<()> {
        for lane in &mut self.lanes {
            lane.steps.end()?;
        }
        for (index, replacement) in replacements(calibrator, own)?.into_iter().enumerate() {
            let Some(replacement) = replacement else { continue };
            let linear = replaced(own[index], replacement)?;
            for lane in &mut self.lanes {
                lane.put(&linear, |block| of(block, index))?;
            }
        }
        for lane in &mut self.lanes {
            lane.steps.begin()?;
        }
        Ok(())
    }

    fn read(&mut self, of_reference: bool) -> Result<Cow<'_, [f32]>> {
        if self.in_ram(of_reference)?.is_some() {
            return Ok(Cow::Borrowed(self.in_ram(of_reference)?.unwrap_or_default()));
        }
        Ok(Cow::Owned(self.copied(of_reference)?))
    }

    /// A residual stream that is in RAM as a whole.
    fn in_ram(&self, of_reference: bool) -> Result<Option<&[f32]>> {
        let [lane] = &self.lanes[..] else { return Ok(None) };
        let stream = if of_reference { lane.reference.as_ref() } else { Some(&lane.current) };
        stream.map_or(Ok(None), |stream| stream.hidden.in_ram(self.values()))
    }

    /// A copy of a residual stream.
    fn copied(&mut self, of_reference: bool) -> Result<Vec<f32>> {
        let width = self.model.config.stream_width();
        let mut all = vec![0.0; self.values()];
        let mut rest = &mut all[..];
        for lane in &mut self.lanes {
            for tokens in lane.sequences.clone() {
                let (own, others) = std::mem::take(&mut rest).split_at_mut(tokens.len() * width);
                lane.read(of_reference, &tokens, own)?;
                rest = others;
            }
        }
        Ok(all)
    }

    fn write(&mut self, of_reference: bool, hidden: &[f32]) -> Result<()> {
        assert_eq!(hidden.len(), self.values(), "a residual stream of all tokens");
        let width = self.model.config.stream_width();
        let mut rest = hidden;
        for lane in &mut self.lanes {
            for tokens in lane.sequences.clone() {
                let (own, others) = rest.split_at(tokens.len() * width);
                lane.write(of_reference, &tokens, own)?;
                rest = others;
            }
        }
        Ok(())
    }
}

/// What is kept of all tokens on a device.
fn keeps(model: &Model, cpu: bool, wait: bool) -> Keeps {
    if cpu {
        return Keeps { hidden: Keep::All, network: Keep::All, inputs: Keep::All };
    }
    let hidden = if wait { Keep::InRam } else { Keep::All };
    // A parallel block's network reads the residual stream before attention's result is added; experts take the tokens
    // of all sequences together.
    let needed = model.config.block == BlockKind::Parallel || model.is_mixture();
    Keeps { hidden, network: if needed { hidden } else { Keep::One }, inputs: Keep::One }
}

/// The tokens of each text among all.
fn ranges(texts: &[Vec<u32>]) -> Vec<Range<usize>> {
    let mut total = 0;
    let mut next = |text: &Vec<u32>| {
        let start = total;
        total += text.len();
        start..total
    };
    texts.iter().map(&mut next).collect()
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
