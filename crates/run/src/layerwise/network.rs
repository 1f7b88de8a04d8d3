//! The second half of a block: the feed-forward network, from its inputs to the residual stream.

use quern_compute::{Executor, Values, ValuesMut};

use crate::forward::{BeforeGroup, Phases, run_experts};
use crate::matrix::{values_of, values_of_mut};
use crate::observer::{Inputs, observe};
use crate::weights::{Block, Experts, Ffn, Linear};
use crate::{Model, Observer, Result};

use super::calibrator::replace;
use super::stream::Stream;
use super::{Calibrator, Layerwise};

impl Layerwise<'_> {
    pub(super) fn dense(
        &mut self,
        layer: usize,
        block: &mut Block,
        calibrator: &mut dyn Calibrator,
    ) -> Result<()> {
        let ffn = self.model.config.ffn_size;
        let original = &self.model.weights.blocks[layer];
        let Ffn::Dense { widen: own_widen, down: own_down } = &original.ffn else { return Ok(()) };
        let directly = original.ffn_post_norm.is_none();
        let Self { sequences, current, reference, steps, views, .. } = self;

        for tokens in &*sequences {
            let inputs = Inputs {
                values: Values::Host(current.network_of(tokens)),
                reference: reference.as_ref().map(|stream| Values::Host(stream.network_of(tokens))),
                drift: None,
            };
            observe(calibrator, &mut steps.executor, &own_widen.linears(), inputs)?;
        }
        if let Ffn::Dense { widen, .. } = &mut block.ffn {
            replace(calibrator, &mut widen.linears_mut())?;
        }

        for tokens in &*sequences {
            steps.widen(block, current, tokens)?;
            let mut inputs = Inputs::from(Values::Host(current.inputs_of(ffn, tokens)));
            if let Some(reference) = reference {
                steps.widen(original, reference, tokens)?;
                inputs.reference = Some(Values::Host(reference.inputs_of(ffn, tokens)));
                inputs.drift = directly.then(|| Values::Host(views.drift(current, reference, tokens)));
            }
            observe(calibrator, &mut steps.executor, &[own_down], inputs)?;
        }
        if let Ffn::Dense { down, .. } = &mut block.ffn {
            replace(calibrator, &mut [down])?;
        }

        for tokens in &*sequences {
            steps.narrow(block, current, tokens)?;
            if let Some(reference) = reference {
                steps.narrow(original, reference, tokens)?;
            }
        }
        Ok(())
    }

    /// The experts of a block, one after the other, each over the tokens that chose it. The reference chooses by itself,
    /// so observers see the current stream alone.
    pub(super) fn experts(
        &mut self,
        layer: usize,
        block: &Block,
        experts: &Experts,
        calibrator: &mut dyn Calibrator,
    ) -> Result<()> {
        let model = self.model;
        let executor = &mut self.steps.executor;
        mixture(model, executor, &mut Calibrated(calibrator), (block, experts), &mut self.current)?;
        if let Some(reference) = &mut self.reference {
            let original = &model.weights.blocks[layer];
            let nobody = &mut None::<&mut dyn Observer>;
            mixture(model, executor, nobody, (original, experts), reference)?;
        }
        Ok(())
    }
}

/// Adds what a mixture of experts makes of its inputs to the residual stream, for all tokens at once.
fn mixture<H: BeforeGroup>(
    model: &Model,
    executor: &mut Executor,
    hook: &mut H,
    (block, experts): (&Block, &Experts),
    stream: &mut Stream,
) -> Result<()> {
    let all = 0..stream.tokens();
    let made = &mut stream.inputs[..stream.hidden.len()];
    let normed = values_of(stream.network.view(), &all).into();
    run_experts(model, executor, hook, experts, normed, ValuesMut::Host(&mut *made))?;
    let mut phases = Phases { model, block, executor, observer: None };
    let x = values_of_mut(stream.hidden.view_mut(), &all);
    phases.finish(ValuesMut::Host(made), ValuesMut::Host(x))
}

/// What happens before an expert's layers run under calibration.
struct Calibrated<'c>(&'c mut dyn Calibrator);

impl BeforeGroup for Calibrated<'_> {
    /// Their weights are replaced all the same.
    const UNCHOSEN: bool = true;

    fn before<const N: usize>(
        &mut self,
        executor: &mut Executor,
        linears: [&Linear; N],
        input: Values<'_>,
    ) -> Result<Option<[Linear; N]>> {
        if !input.is_empty() {
            observe(self.0, executor, &linears, input)?;
        }
        let mut own = linears.map(Linear::clone);
        replace(self.0, &mut own.each_mut())?;
        Ok(Some(own))
    }
}
