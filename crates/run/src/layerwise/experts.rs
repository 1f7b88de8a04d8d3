//! The second half of a block that is a mixture: its experts, one after the other, each over the tokens that chose it.

use quern_compute::{Buffer, Executor, Input, Uploader, Values, ValuesMut};

use crate::forward::{BeforeGroup, ExpertInputs, Phases, run_experts};
use crate::observer::observe;
use crate::weights::{Block, Experts, Linear};
use crate::{Error, Model, Observer, Result};

use super::calibrator::{replaced, replacements};
use super::lane::{Mixed, moved};
use super::steps::Steps;
use super::stream::Stream;
use super::{Calibrator, Layerwise};

impl Layerwise<'_> {
    /// The experts of a block. The reference chooses by itself, so observers see the current stream alone.
    pub(super) fn experts(
        &mut self,
        layer: usize,
        originals: &Experts,
        calibrator: &mut dyn Calibrator,
    ) -> Result<()> {
        self.each(|lane, _, tokens| lane.project(layer, tokens))?;
        self.mixture(originals, calibrator)
    }

    /// The same, once their inputs are computed.
    pub(super) fn mixture(&mut self, originals: &Experts, calibrator: &mut dyn Calibrator) -> Result<()> {
        let model = self.model;
        let all = 0..self.tokens();
        // A mixture is computed by one lane: what an expert is replaced by depends on all tokens that chose it.
        let Some(Mixed { own, block, current, reference, steps, uploader, made }) =
            self.lanes.first_mut().and_then(|lane| lane.mixture())
        else {
            return Ok(());
        };
        let hook = &mut Calibrated { calibrator, originals, uploader };
        mixture(model, steps, hook, (block, current), &all, made)?;
        if let Some(reference) = reference {
            let nobody = &mut None::<&mut dyn Observer>;
            mixture(model, steps, nobody, (own, reference), &all, made)?;
        }
        Ok(())
    }
}

/// Adds what a mixture of experts makes of its inputs to the residual stream, for all tokens at once.
fn mixture<H: BeforeGroup>(
    model: &Model,
    steps: &mut Steps<'_>,
    hook: &mut H,
    (block, stream): (&Block, &mut Stream),
    all: &std::ops::Range<usize>,
    made: &mut Buffer,
) -> Result<()> {
    let Some(experts) = block.mixture() else { return Ok(()) };
    let width = model.config.hidden_size;
    let values = all.len() * width;
    let Stream { hidden, network, inputs, .. } = stream;
    if !inputs.stay() {
        made.reserve(values)?;
    }
    let executor = &mut steps.executor;
    let mut out = if inputs.stay() { inputs.of_mut(width, all) } else { made.front_mut(values) };
    let Some(own) = &block.beside else {
        run_experts(model, executor, hook, experts, network.of(width, all).into(), out.reborrow())?;
        let mut phases = Phases { model, block, executor, observer: None };
        return phases.finish(out, hidden.of_mut(width, all));
    };
    // What the dense network made is where its inputs were.
    let mut normed = vec![0.0; values];
    executor.norm(&own.norm, hidden.of(width, all), ValuesMut::Host(&mut normed))?;
    let router = Input::Norm(&own.router_norm, hidden.of(width, all));
    let inputs = ExpertInputs { router, experts: normed[..].into() };
    run_experts(model, executor, hook, experts, inputs, out.reborrow())?;
    let mut phases = Phases { model, block, executor, observer: None };
    phases.finish_beside(own, out, network.of(width, all), hidden.of_mut(width, all))
}

/// What happens before an expert's layers run under calibration.
struct Calibrated<'c> {
    calibrator: &'c mut dyn Calibrator,
    /// The experts in RAM.
    originals: &'c Experts,
    uploader: &'c mut Uploader,
}

impl<'c> Calibrated<'c> {
    /// These layers in RAM.
    fn originals<const N: usize>(&self, linears: [&Linear; N]) -> Result<Vec<&'c Linear>> {
        let originals = self.originals;
        let same = |own: &&Linear, l: &Linear| own.name == l.name && own.expert == l.expert;
        let own = linears.iter().map(|l| originals.linears().find(|own| same(own, l)));
        own.collect::<Option<_>>().ok_or(Error::Compute(quern_compute::Error::Device))
    }
}

impl BeforeGroup for Calibrated<'_> {
    /// Their weights are replaced all the same.
    const UNCHOSEN: bool = true;

    fn observe<const N: usize>(
        &mut self,
        executor: &mut Executor,
        linears: [&Linear; N],
        input: Values<'_>,
    ) -> Result<()> {
        let originals = self.originals(linears)?;
        observe(self.calibrator, executor, &originals, input)
    }

    fn replace<const N: usize>(
        &mut self,
        executor: &mut Executor,
        linears: [&Linear; N],
    ) -> Result<Option<[Linear; N]>> {
        let originals = self.originals(linears)?;
        let mut own = linears.map(Linear::clone);
        // Their sums are complete.
        executor.end(None)?;
        let given = replacements(self.calibrator, &originals)?;
        for ((own, original), replacement) in own.iter_mut().zip(originals).zip(given) {
            if let Some(replacement) = replacement {
                *own = moved(self.uploader, executor, &replaced(original, replacement)?)?;
            }
        }
        Ok(Some(own))
    }
}
