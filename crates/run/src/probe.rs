//! What a changed weight does to a model's predictions: the Kullback-Leibler divergence from the unchanged model over
//! fixed token sequences, with everything else unchanged.
//!
//! The unchanged residual stream is kept in front of and behind one block, which is moved from the first to the last:
//!
//! ```text
//! embedding ── block 0 ── … ── block l-1 ──│ before │── block l ──│ after │── … ── head ── logits, once
//!                                              └── block l with other weights ── … ── head ── compared
//! ```
//!
//! so a change in block `l` costs the blocks from `l` on. Memory beside the model: three residual streams of all tokens,
//! what [`Layerwise`] needs, and the logits of the scored positions; on a GPU ([`Probe::on`]) its own residual stream and
//! logits are there ([`probe_memory`]), and weights are moved to it block by block, every time.

mod tail;

use quern_compute::{Device, Executor, Linear, Matrix, bytes_of_linear};

use crate::forward::embed_from;
use crate::observer::describe;
use crate::weights::Weight;
use crate::{
    Calibrator, Error, Layerwise, LayerwiseMemory, LinearGroup, LinearInfo, Model, Observer, ObserverError,
    Replacement, Result,
};

use tail::{ROWS, Tail};

/// What a change did.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Effect {
    /// Mean Kullback-Leibler divergence of the predictions from those of the unchanged model, in nats.
    pub kl: f64,
    /// The squared change of the block's output, as a share of the squared output; 0 for what is in no block.
    pub block: f64,
}

/// A model on fixed token sequences, and the block that can be changed.
#[derive(Debug)]
pub struct Probe<'m> {
    model: &'m Model,
    layerwise: Layerwise<'m>,
    texts: Vec<Vec<u32>>,
    /// The block that can be changed, and the unchanged residual stream in front of it and behind it.
    layer: usize,
    before: Vec<f32>,
    after: Vec<f32>,
    /// The tokens whose predictions are compared.
    scored: Vec<usize>,
    /// The unchanged residual stream behind the last block, `[scored][hidden]`.
    last: Vec<f32>,
    tail: Tail<'m>,
}

impl<'m> Probe<'m> {
    /// Runs the model once over `texts`, each a sequence of its own. The predictions after every `stride`th token are
    /// compared.
    ///
    /// # Errors
    /// As [`Layerwise::new`] and the forward pass; [`Error::NotFinite`] if the model's output is.
    pub fn new(model: &'m Model, texts: &[Vec<u32>], stride: usize) -> Result<Self> {
        Self::on(model, &model.cpu(), texts, stride)
    }

    /// As [`Probe::new`], on this device.
    ///
    /// # Errors
    /// As [`Probe::new`]; a GPU without enough memory.
    pub fn on(model: &'m Model, device: &Device, texts: &[Vec<u32>], stride: usize) -> Result<Self> {
        if model.config.streams > 1 {
            let what =
                "types are not chosen by measurement for models with several residual streams; name a type";
            return Err(Error::Option(what.into()));
        }
        let mut layerwise = Layerwise::on(model, std::slice::from_ref(device), texts, false, false)?;
        let before = layerwise.hidden()?.into_owned();
        for layer in 0..layerwise.layers() {
            layerwise.block(layer, &mut Changed(&|_| None))?;
        }
        let stride = stride.max(1);
        // The first prediction of a stretch is left out: it has the least to go by.
        let scored: Vec<usize> = (stride - 1..layerwise.tokens()).step_by(stride).collect();
        let mut probe = Self {
            model,
            last: rows(&layerwise.hidden()?, &scored, model.config.hidden_size),
            tail: Tail::new(model, device, scored.len())?,
            layerwise,
            texts: texts.to_vec(),
            layer: 0,
            after: Vec::new(),
            before,
            scored,
        };
        if !probe.tail.keep(&probe.last)? {
            return Err(Error::NotFinite);
        }
        probe.layerwise.set_hidden(&probe.before)?;
        probe.unchanged()?;
        Ok(probe)
    }

    /// Number of positions whose predictions are compared.
    pub fn scored(&self) -> usize {
        self.scored.len()
    }

    /// The block that can be changed now: the first at the beginning.
    pub fn layer(&self) -> usize {
        self.layer
    }

    /// Moves on to the next block. `false` if there is none.
    ///
    /// # Errors
    /// Those of the forward pass.
    pub fn next_block(&mut self) -> Result<bool> {
        if self.layer + 1 >= self.layerwise.layers() {
            return Ok(false);
        }
        if self.model.config.lends_keys(self.layer) {
            // Later layers use its keys and values: those that it has without a change.
            self.layerwise.set_hidden(&self.before)?;
            self.unchanged()?;
        }
        self.layer += 1;
        self.before.copy_from_slice(&self.after);
        self.layerwise.set_hidden(&self.before)?;
        self.unchanged()?;
        Ok(true)
    }

    /// The effect of other weights in the block: of those linear layers for which `change` gives one.
    ///
    /// # Errors
    /// Those of the forward pass; weights of another shape.
    pub fn block(&mut self, change: &dyn Fn(&LinearInfo<'_>) -> Option<Replacement>) -> Result<Effect> {
        self.layerwise.set_hidden(&self.before)?;
        self.layerwise.block(self.layer, &mut Changed(change))?;
        let (mut difference, mut whole) = (0.0, 0.0);
        let hidden = self.layerwise.hidden()?;
        for (changed, unchanged) in hidden.chunks(ROWS).zip(self.after.chunks(ROWS)) {
            let squares = changed.iter().zip(unchanged).map(|(a, b)| ((a - b) * (a - b), b * b));
            let (d, w) = squares.fold((0f32, 0f32), |sum, x| (sum.0 + x.0, sum.1 + x.1));
            difference += f64::from(d);
            whole += f64::from(w);
        }
        let kl = self.onwards(self.layer + 1, None)?;
        Ok(Effect { kl, block: if whole > 0.0 { difference / whole } else { 0.0 } })
    }

    /// The effect of another token embedding, which is the head too if the model ties them.
    ///
    /// # Errors
    /// Those of the forward pass; a matrix of another shape.
    pub fn embedding(&mut self, embedding: Replacement) -> Result<Effect> {
        let model = self.model;
        let own = &model.weights.embedding;
        let weight = Weight::owned(embedding.element_type, own.rows(), own.columns(), embedding.data)?;
        let mut hidden = vec![0.0; self.before.len()];
        let mut at = 0;
        for text in &self.texts {
            let end = at + text.len() * model.config.hidden_size;
            embed_from(model, &weight, text, 0, &mut hidden[at..end])?;
            at = end;
        }
        self.layerwise.set_hidden(&hidden)?;
        let head =
            model.weights.tied.then(|| Linear { weight: weight.matrix, ..model.weights.output.op.clone() });
        Ok(Effect { kl: self.onwards(0, head.as_ref())?, block: 0.0 })
    }

    /// The effect of another output head.
    ///
    /// # Errors
    /// Those of the forward pass; a matrix of another shape.
    pub fn head(&mut self, head: Replacement) -> Result<Effect> {
        let own = &self.model.weights.output.op;
        let weight = Weight::owned(head.element_type, own.weight.rows(), own.weight.columns(), head.data)?;
        let head = Linear { weight: weight.matrix, ..own.clone() };
        let last = std::mem::take(&mut self.last);
        let kl = self.divergence(&last, Some(&head));
        self.last = last;
        Ok(Effect { kl: kl?, block: 0.0 })
    }

    /// Runs the block as it is, from the residual stream in front of it.
    fn unchanged(&mut self) -> Result<()> {
        self.layerwise.block(self.layer, &mut Changed(&|_| None))?;
        self.after.clear();
        self.after.extend_from_slice(&self.layerwise.hidden()?);
        Ok(())
    }

    /// The divergence at the end, once the blocks from `layer` on were run as they are.
    fn onwards(&mut self, layer: usize, head: Option<&Linear>) -> Result<f64> {
        for layer in layer..self.layerwise.layers() {
            self.layerwise.block(layer, &mut Changed(&|_| None))?;
        }
        let last = rows(&self.layerwise.hidden()?, &self.scored, self.model.config.hidden_size);
        self.divergence(&last, head)
    }

    /// The mean divergence; `head` is in RAM.
    fn divergence(&mut self, last: &[f32], head: Option<&Linear>) -> Result<f64> {
        let head = head.map(|head| self.tail.moved(head)).transpose()?;
        let sum = self.tail.divergence(last, head.as_ref())?;
        match sum.is_finite() {
            true => Ok(sum / self.scored.len().max(1) as f64),
            false => Err(Error::NotFinite),
        }
    }
}

/// Bytes on a GPU for a probe of so many tokens in all and in the longest sequence, of which so many are compared.
pub fn probe_memory(model: &Model, tokens: u64, longest: u64, scored: u64) -> u64 {
    let LayerwiseMemory { streams, work, .. } = LayerwiseMemory::new(model, tokens, longest, 1);
    let config = &model.config;
    let (vocabulary, width) =
        (model.vocabulary() as u64, (config.hidden_size + config.embedding_size) as u64);
    let rows = scored.min(ROWS as u64);
    // The head, and another one beside it; pieces of weights on their way.
    let heads = 2 * bytes_of_linear(&model.weights.output.op) as u64;
    // Inputs of products in f16, too.
    streams + work + heads + 4 * (scored * vocabulary + rows * (vocabulary + 2 * width)) + (64 << 20)
}

/// Some rows of `width` values.
fn rows(all: &[f32], wanted: &[usize], width: usize) -> Vec<f32> {
    wanted.iter().flat_map(|&row| &all[row * width..][..width]).copied().collect()
}

/// Replaces the weights for which it gives others.
struct Changed<'c>(&'c dyn Fn(&LinearInfo<'_>) -> Option<Replacement>);

impl Observer for Changed<'_> {
    fn observe(&mut self, _: &mut Executor, _: &LinearGroup<'_>) -> std::result::Result<(), ObserverError> {
        Ok(())
    }
}

impl Calibrator for Changed<'_> {
    fn replace(
        &mut self,
        linears: &[LinearInfo<'_>],
    ) -> std::result::Result<Vec<Option<Replacement>>, ObserverError> {
        Ok(linears.iter().map(self.0).collect())
    }
}

impl Model {
    /// The table of token embeddings, `[vocabulary][width]`.
    ///
    /// # Errors
    /// It is not in RAM.
    pub fn embedding(&self) -> Result<Matrix<'_>> {
        Ok(self.weights.embedding.host()?)
    }

    /// The output head; `None` where it is the token embedding.
    pub fn head(&self) -> Option<LinearInfo<'_>> {
        match self.weights.tied {
            true => None,
            false => describe(&[&self.weights.output]).pop(),
        }
    }
}
