//! The output head behind the last block: its inputs in both streams.

use quern_compute::{Executor, Input, Norm, Output, Values, ValuesMut};
use quern_model::TensorRole;

use crate::observer::{Inputs, describe, observe};
use crate::weights::{Linear, Weights};
use crate::{LinearInfo, Model, Result};

use super::calibrator::replace;
use super::{Calibrator, Layerwise};

impl Layerwise<'_> {
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
        let model = self.model;
        let weights = &model.weights;
        let mut norm = weights.output_norm.clone();
        if let (Some(norm), Some(own)) = (&mut norm, &weights.output_norm) {
            self.refit((TensorRole::OutputNorm, None), norm, own, calibrator)?;
        }
        let mut end = End { norm: norm.as_ref(), narrow: None };
        let own = End { norm: weights.output_norm.as_ref(), narrow: None };
        let Some(narrow) = &weights.embedding_out else {
            self.show(&end, &own, &weights.output, calibrator)?;
            return replace(calibrator, &mut [&mut weights.output.clone()]);
        };
        self.show(&end, &own, narrow, calibrator)?;
        let mut replaced = narrow.clone();
        replace(calibrator, &mut [&mut replaced])?;
        end.narrow = Some(&replaced);
        self.show(&end, &End { narrow: Some(narrow), ..own }, &weights.output, calibrator)?;
        replace(calibrator, &mut [&mut weights.output.clone()])
    }

    /// Lets `calibrator` see the inputs of `linear`: what `end` makes of the current stream, and `own` of the reference.
    fn show(
        &mut self,
        end: &End<'_>,
        own: &End<'_>,
        linear: &Linear,
        calibrator: &mut dyn Calibrator,
    ) -> Result<()> {
        let Self { sequences, current, reference, steps, views, .. } = self;
        for tokens in &*sequences {
            let values = tokens.len() * linear.op.weight.columns();
            let normed = &mut views.normed[..values];
            end.run(&mut steps.executor, current.hidden_of(tokens), normed)?;
            let mut inputs = Inputs::from(Values::Host(normed));
            if let Some(reference) = reference {
                let normed = &mut views.reference[..values];
                own.run(&mut steps.executor, reference.hidden_of(tokens), normed)?;
                inputs.reference = Some(Values::Host(normed));
            }
            observe(calibrator, &mut steps.executor, &[linear], inputs)?;
        }
        Ok(())
    }
}

impl Model {
    /// Names, roles and weights of the layers behind the last block, in the order in which [`Layerwise::head`] shows them;
    /// the last is the head.
    pub fn head_linears(&self) -> Vec<LinearInfo<'_>> {
        let Weights { embedding_out, output, .. } = &self.weights;
        describe(&embedding_out.iter().chain([output]).collect::<Vec<_>>())
    }
}

/// What is between the residual stream and a linear layer behind the last block.
#[derive(Clone, Copy)]
struct End<'a> {
    norm: Option<&'a Norm>,
    narrow: Option<&'a Linear>,
}

impl End<'_> {
    fn run(&self, executor: &mut Executor, x: &[f32], out: &mut [f32]) -> Result<()> {
        let (x, out) = (Values::Host(x), ValuesMut::Host(out));
        let input = match self.norm {
            Some(norm) => Input::Norm(norm, x),
            None => Input::Values(x),
        };
        match (self.narrow, input) {
            (Some(narrow), input) => executor.linear([&narrow.op], input, Output::Store([out]))?,
            (None, Input::Norm(norm, x)) => executor.norm(norm, x, out)?,
            (None, Input::Values(x)) => executor.copy(x, out)?,
        }
        Ok(())
    }
}
