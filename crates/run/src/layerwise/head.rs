//! The output head behind the last block: its inputs in both streams.

use std::ops::Range;

use quern_compute::{Executor, Input, Norm, Output, Values, ValuesMut};

use crate::forward::streams;
use crate::observer::{Inputs, describe, observe};
use crate::weights::{Linear, Weights};
use crate::{LinearInfo, Model, Result};

use super::calibrator::{replaced, replacements};
use super::lane::Lane;
use super::stream::Stream;
use super::{Calibrator, Layerwise};

impl<'m> Layerwise<'m> {
    /// Shows the inputs of the output head (the final norm's outputs), sequence by sequence; to be called after the last
    /// block. A tied head has the embedding's name and role. Where the embedding is of another width than the residual
    /// stream (OPT-350m), the projection to it is a group of its own before. The residual streams stay as they are; a
    /// replacement of the head has no effect, for nothing is behind it.
    ///
    /// # Errors
    /// Those of the forward pass and of `calibrator`.
    pub fn head(&mut self, calibrator: &mut dyn Calibrator) -> Result<()> {
        let model = self.model;
        let unit = self.layers();
        model.placement.enter(unit, self.tokens());
        let done = self.output(calibrator);
        model.placement.leave(unit);
        model.checkpoint().check_read()?;
        done
    }

    fn output(&mut self, calibrator: &mut dyn Calibrator) -> Result<()> {
        let weights = &self.model.weights;
        let mut ends = Vec::with_capacity(self.lanes.len());
        for lane in &mut self.lanes {
            let norm = weights.output_norm.as_ref().map(|norm| lane.norm(norm)).transpose()?;
            ends.push(End { norm, narrow: None });
            lane.steps.begin()?;
        }
        if let Some(narrow) = &weights.embedding_out {
            self.show(&ends, narrow, calibrator)?;
            let replacement = replacements(calibrator, &[narrow])?.pop().flatten();
            let current = replacement.map(|r| replaced(narrow, r)).transpose()?;
            for (lane, end) in self.lanes.iter_mut().zip(&mut ends) {
                let own = lane.moved(narrow)?;
                let current = current.as_ref().map(|linear| lane.moved(linear)).transpose()?;
                end.narrow = Some([current.unwrap_or_else(|| own.clone()), own]);
                lane.steps.begin()?;
            }
        }
        self.show(&ends, &weights.output, calibrator)?;
        replacements(calibrator, &[&weights.output])?;
        Ok(())
    }

    /// Lets `calibrator` see the inputs of `linear`: what `ends` make of the streams.
    fn show(&mut self, ends: &[End], linear: &Linear, calibrator: &mut dyn Calibrator) -> Result<()> {
        let columns = linear.op.weight.columns();
        let model = self.model;
        self.each(|lane, at, tokens| {
            let end = &ends[at];
            let Lane { current, reference, steps, views, .. } = lane;
            let values = tokens.len() * columns;
            let x = merged(model, &mut steps.executor, current, tokens)?;
            end.run(&mut steps.executor, 0, x, views.normed.front_mut(values))?;
            let mut inputs = Inputs::from(views.normed.front(values));
            if let Some(reference) = reference {
                let normed = views.reference.front_mut(values);
                let x = merged(model, &mut steps.executor, reference, tokens)?;
                end.run(&mut steps.executor, 1, x, normed)?;
                inputs.reference = Some(views.reference.front(values));
            }
            observe(calibrator, &mut steps.executor, &[linear], inputs)
        })?;
        for lane in &mut self.lanes {
            lane.steps.end()?;
        }
        Ok(())
    }
}

/// What the head's norm receives: the residual stream; several are brought together where the network's inputs were.
fn merged<'s>(
    model: &Model,
    executor: &mut Executor,
    stream: &'s mut Stream,
    tokens: &Range<usize>,
) -> Result<Values<'s>> {
    if model.config.streams == 1 {
        return Ok(stream.hidden_of(tokens));
    }
    let [all, _, network] = stream.all_of(tokens);
    let mut all = all.host()?.to_vec();
    streams::merge(model, executor, &mut all)?;
    let network = network.host()?;
    network.copy_from_slice(&all[..network.len()]);
    Ok(stream.network_of(tokens))
}

impl Model {
    /// Names, roles and weights of the layers behind the last block, in the order in which [`Layerwise::head`] shows them;
    /// the last is the head.
    pub fn head_linears(&self) -> Vec<LinearInfo<'_>> {
        let Weights { embedding_out, output, .. } = &self.weights;
        describe(&embedding_out.iter().chain([output]).collect::<Vec<_>>())
    }
}

/// What is between the residual stream and a linear layer behind the last block, on one device.
struct End {
    norm: Option<Norm>,
    /// With replaced weights, and with the model's.
    narrow: Option<[Linear; 2]>,
}

impl End {
    /// `stream`: 0 for the current stream, 1 for the reference.
    fn run(&self, executor: &mut Executor, stream: usize, x: Values<'_>, out: ValuesMut<'_>) -> Result<()> {
        let input = match &self.norm {
            Some(norm) => Input::Norm(norm, x),
            None => Input::Values(x),
        };
        match (&self.narrow, input) {
            (Some(narrow), input) => executor.linear([&narrow[stream].op], input, Output::Store([out]))?,
            (None, Input::Norm(norm, x)) => executor.norm(norm, x, out)?,
            (None, Input::Values(x)) => executor.copy(x, out)?,
        }
        Ok(())
    }
}
