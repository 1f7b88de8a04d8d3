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
//! what [`Layerwise`] needs, and the logits of the scored positions.

use quern_compute::{Executor, Input, Linear, Matrix, Output, Values, ValuesMut};

use crate::forward::{embed_from, head_input};
use crate::observer::describe;
use crate::weights::Weight;
use crate::{
    Calibrator, Error, Layerwise, LinearGroup, LinearInfo, Model, Observer, ObserverError, Replacement,
    Result,
};

/// Positions whose logits are computed at once.
const ROWS: usize = 128;

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
    /// The unchanged logits, `[scored][vocabulary]`.
    reference: Vec<f32>,
    executor: Executor,
}

impl<'m> Probe<'m> {
    /// Runs the model once over `texts`, each a sequence of its own. The predictions after every `stride`th token are
    /// compared.
    ///
    /// # Errors
    /// As [`Layerwise::new`] and the forward pass; [`Error::NotFinite`] if the model's output is.
    pub fn new(model: &'m Model, texts: &[Vec<u32>], stride: usize) -> Result<Self> {
        let mut layerwise = Layerwise::new(model, texts)?;
        let before = layerwise.hidden()?.into_owned();
        for layer in 0..layerwise.layers() {
            layerwise.block(layer, &mut Changed(&|_| None))?;
        }
        let stride = stride.max(1);
        // The first prediction of a stretch is left out: it has the least to go by.
        let scored: Vec<usize> = (stride - 1..layerwise.tokens()).step_by(stride).collect();
        let executor = Executor::new(&model.cpu())?;
        let mut probe = Self {
            model,
            last: rows(&layerwise.hidden()?, &scored, model.config.hidden_size),
            reference: vec![0.0; scored.len() * model.vocabulary()],
            layerwise,
            texts: texts.to_vec(),
            layer: 0,
            after: Vec::new(),
            before,
            scored,
            executor,
        };
        let width = ROWS * model.config.hidden_size;
        let logits = ROWS * model.vocabulary();
        for (x, out) in probe.last.chunks(width).zip(probe.reference.chunks_mut(logits)) {
            logits_of(model, &mut probe.executor, x, &model.weights.output.op, out)?;
        }
        if !probe.reference.iter().all(|logit| logit.is_finite()) {
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
        let kl = self.divergence(&last, &head);
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
        self.divergence(&last, head.unwrap_or(&self.model.weights.output.op))
    }

    fn divergence(&mut self, last: &[f32], head: &Linear) -> Result<f64> {
        let (model, vocabulary) = (self.model, self.model.vocabulary());
        let mut logits = vec![0.0; ROWS.min(self.scored.len()) * vocabulary];
        let mut sum = 0.0;
        let batches = last.chunks(ROWS * model.config.hidden_size);
        for (x, reference) in batches.zip(self.reference.chunks(ROWS * vocabulary)) {
            let logits = &mut logits[..reference.len()];
            logits_of(model, &mut self.executor, x, head, logits)?;
            let rows = self.executor.divergence(Values::Host(reference), Values::Host(logits), vocabulary)?;
            // In order, so the sum does not depend on the threads.
            sum += rows.iter().sum::<f64>();
        }
        match sum.is_finite() {
            true => Ok(sum / self.scored.len().max(1) as f64),
            false => Err(Error::NotFinite),
        }
    }
}

/// Some rows of `width` values.
fn rows(all: &[f32], wanted: &[usize], width: usize) -> Vec<f32> {
    wanted.iter().flat_map(|&row| &all[row * width..][..width]).copied().collect()
}

/// From the residual stream to logits.
fn logits_of(
    model: &Model,
    executor: &mut Executor,
    x: &[f32],
    head: &Linear,
    out: &mut [f32],
) -> Result<()> {
    let (config, weights) = (&model.config, &model.weights);
    let mut input = head_input(model, Values::Host(x));
    let mut projected = Vec::new();
    if let Some(projection) = &weights.embedding_out {
        projected.resize(x.len() / config.hidden_size * config.embedding_size, 0.0);
        executor.linear([&projection.op], input, Output::Store([ValuesMut::Host(&mut projected)]))?;
        input = Input::Values(Values::Host(&projected));
    }
    executor.linear([head], input, Output::Store([ValuesMut::Host(&mut *out)]))?;
    if let Some(cap) = config.final_softcap {
        executor.softcap(ValuesMut::Host(out), config.vocab_size, cap)?;
    }
    Ok(())
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
