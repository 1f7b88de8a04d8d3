//! What follows the blocks, run layer by layer like them: the final norm, where there is one a projection to the
//! embedding's width, and the output head, whose logits nobody needs.

use quern_compute::{Input, Output, Values, ValuesMut};

use super::{Calibrator, Layerwise, replace};
use crate::matrix::{rows_of_mut, values_of, values_of_mut};
use crate::observer::{describe, observe};
use crate::{LinearInfo, Model, Result};

impl Layerwise<'_> {
    /// Observes the inputs of the layers behind the last block, for all tokens of all sequences: each layer is a group.
    /// The head is observed, and `calibrator` may replace it, but it does not run.
    ///
    /// # Errors
    /// As [`Layerwise::block`].
    pub fn head(&mut self, calibrator: &mut dyn Calibrator) -> Result<()> {
        let model = self.model;
        model.placement.enter(model.config.layers, self.tokens());
        let done = self.observe_head(calibrator);
        model.placement.leave(model.config.layers);
        model.checkpoint().check_read()?;
        done
    }

    fn observe_head(&mut self, calibrator: &mut dyn Calibrator) -> Result<()> {
        let model = self.model;
        let weights = &model.weights;
        let Self { sequences, hidden, network, inputs, executor, .. } = self;
        let first = weights.embedding_out.as_ref().unwrap_or(&weights.output);
        for tokens in &*sequences {
            let x = Values::Host(values_of(hidden.view(), tokens));
            let normed = values_of_mut(network.view_mut(), tokens);
            match &weights.output_norm {
                Some(norm) => executor.norm(norm, x, ValuesMut::Host(normed))?,
                None => executor.copy(x, ValuesMut::Host(normed))?,
            }
            observe(calibrator, &[first], normed)?;
        }
        let mut own = first.clone();
        replace(calibrator, &mut [&mut own])?;
        if weights.embedding_out.is_none() {
            return Ok(());
        }
        let width = model.config.embedding_size;
        let projected = inputs.len().max(hidden.nrows() * width);
        inputs.resize(projected, 0.0);
        let mut projected = rows_of_mut(inputs, width);
        for tokens in &*sequences {
            let out = values_of_mut(projected.view_mut(), tokens);
            let input = Input::Values(Values::Host(values_of(network.view(), tokens)));
            executor.linear([&own.op], input, Output::Store([ValuesMut::Host(&mut *out)]))?;
            observe(calibrator, &[&weights.output], out)?;
        }
        replace(calibrator, &mut [&mut weights.output.clone()])
    }
}

impl Model {
    /// Names, roles and weights of the layers that [`Layerwise::head`] runs; the last is the head.
    ///
    /// # Errors
    /// As the forward pass.
    pub fn head_linears(&self) -> Result<Vec<LinearInfo<'_>>> {
        let layers: Vec<_> =
            self.weights.embedding_out.iter().chain(std::iter::once(&self.weights.output)).collect();
        describe(&layers)
    }
}
