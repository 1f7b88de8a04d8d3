//! From the residual stream behind the last block to logits, and their divergence from those of the unchanged model, on one
//! device.

use quern_compute::{
    Buffer, Device, Executor, Input, Linear, Norm, Output, PassKey, Uploader, bytes_of_linear, bytes_of_norm,
};

use crate::{Model, Result};

/// Positions whose logits are computed at once.
pub(super) const ROWS: usize = 128;

/// What is behind the last block.
#[derive(Debug)]
pub(super) struct Tail<'m> {
    model: &'m Model,
    executor: Executor,
    uploader: Uploader,
    norm: Option<Norm>,
    narrow: Option<Linear>,
    head: Linear,
    x: Buffer,
    narrowed: Buffer,
    logits: Buffer,
    /// The unchanged logits, `[scored][vocabulary]`.
    reference: Buffer,
}

impl<'m> Tail<'m> {
    /// For so many positions.
    pub(super) fn new(model: &'m Model, device: &Device, scored: usize) -> Result<Self> {
        let (config, weights) = (&model.config, &model.weights);
        let executor = Executor::new(device)?;
        let mut uploader = Uploader::new(device, &model.pool)?;
        let mut norm = None;
        if let Some(own) = &weights.output_norm {
            uploader.begin(bytes_of_norm(own))?;
            norm = Some(uploader.norm(own)?);
        }
        let mut narrow = None;
        if let Some(own) = &weights.embedding_out {
            narrow = Some(moved(&mut uploader, &executor, &own.op)?);
        }
        let head = moved(&mut uploader, &executor, &weights.output.op)?;
        let [mut x, mut narrowed, mut logits, mut reference] = [(); 4].map(|()| Buffer::new(device));
        let rows = ROWS.min(scored);
        x.reserve(rows * config.hidden_size)?;
        narrowed.reserve(if narrow.is_some() { rows * config.embedding_size } else { 0 })?;
        logits.reserve(rows * model.vocabulary())?;
        reference.reserve(scored * model.vocabulary())?;
        Ok(Self { model, executor, uploader, norm, narrow, head, x, narrowed, logits, reference })
    }

    /// Another head on this device.
    pub(super) fn moved(&mut self, head: &Linear) -> Result<Linear> {
        moved(&mut self.uploader, &self.executor, head)
    }

    /// Keeps the logits of all positions as those of the unchanged model. Whether all are finite.
    pub(super) fn keep(&mut self, last: &[f32]) -> Result<bool> {
        let vocabulary = self.model.vocabulary();
        let mut finite = true;
        for (at, x) in last.chunks(ROWS * self.model.config.hidden_size).enumerate() {
            let values = self.run(x, None)?;
            let range = at * ROWS * vocabulary..at * ROWS * vocabulary + values;
            let all = self.reference.len();
            let to = self.reference.front_mut(all).slice(range);
            self.executor.copy(self.logits.front(values), to)?;
            let mut copy = vec![0.0; values];
            self.executor.download(self.logits.front(values), &mut copy)?;
            finite &= copy.iter().all(|logit| logit.is_finite());
        }
        Ok(finite)
    }

    /// The divergences of all positions, added; with another head than the model's if there is one.
    pub(super) fn divergence(&mut self, last: &[f32], head: Option<&Linear>) -> Result<f64> {
        let vocabulary = self.model.vocabulary();
        let mut sum = 0.0;
        for (at, x) in last.chunks(ROWS * self.model.config.hidden_size).enumerate() {
            let values = self.run(x, head)?;
            let range = at * ROWS * vocabulary..at * ROWS * vocabulary + values;
            let reference = self.reference.front(self.reference.len()).slice(range);
            let rows = self.executor.divergence(reference, self.logits.front(values), vocabulary)?;
            // In order, so the sum does not depend on the threads.
            sum += rows.iter().sum::<f64>();
        }
        Ok(sum)
    }

    /// The logits of some positions, and how many numbers they are.
    fn run(&mut self, x: &[f32], head: Option<&Linear>) -> Result<usize> {
        let Self { model, executor, norm, narrow, x: moved, narrowed, logits, .. } = self;
        let config = &model.config;
        let rows = x.len() / config.hidden_size;
        let values = rows * model.vocabulary();
        executor.begin(PassKey { segment: 0, tokens: rows, first: 0, keep: 0, recordable: false })?;
        executor.upload(x, moved.front_mut(x.len()))?;
        let mut input = match norm {
            Some(norm) => Input::Norm(norm, moved.front(x.len())),
            None => Input::Values(moved.front(x.len())),
        };
        if let Some(projection) = narrow {
            let narrow = rows * config.embedding_size;
            executor.linear([&*projection], input, Output::Store([narrowed.front_mut(narrow)]))?;
            input = Input::Values(narrowed.front(narrow));
        }
        let head = head.unwrap_or(&self.head);
        executor.linear([head], input, Output::Store([logits.front_mut(values)]))?;
        if let Some(cap) = config.final_softcap {
            executor.softcap(logits.front_mut(values), config.vocab_size, cap)?;
        }
        executor.end(None)?;
        Ok(values)
    }
}

/// A layer in RAM on the device of `executor`.
fn moved(uploader: &mut Uploader, executor: &Executor, linear: &Linear) -> Result<Linear> {
    uploader.begin(bytes_of_linear(linear))?;
    let moved = uploader.linear(linear)?;
    uploader.before(executor)?;
    Ok(moved)
}
