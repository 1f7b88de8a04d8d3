//! A mixture of experts: a router chooses for every token which few of many networks compute for it.
//!
//! ```text
//! probabilities = softmax(router(x)); the `used` largest are chosen, and made to sum to one if so configured
//! y = Σ probability * down(act(gate(x)) * up(x))     over the chosen
//! ```
//!
//! Tokens are taken expert by expert: each weight is read once for all tokens that chose it. A token's sum goes
//! in the order of the experts' numbers, whatever the batch. On a GPU the executor does all of it, unless an observer asks
//! for the input of each expert.

use std::ops::Range;

use quern_compute::{Buffer, Device, Executor, Input, Mixture, Output, Routing, Rows, Values, ValuesMut};
use quern_model::architecture::Block as BlockKind;

use crate::observer::observe;
use crate::weights::{Experts, Linear};
use crate::{Model, Observer, Result};

use super::activation;
use super::phases::{Phases, network_input};

/// What happens before a group of an expert's layers runs: an ordinary pass calls its observer, calibration also
/// replaces the weights.
pub(crate) trait BeforeGroup {
    /// Whether it is called for experts that no token chose, too; their input is empty.
    const UNCHOSEN: bool;

    /// Called with the input of the group. Returns the layers to compute with in place of the model's, if there are
    /// any.
    fn before<const N: usize>(
        &mut self,
        executor: &mut Executor,
        linears: [&Linear; N],
        input: Values<'_>,
    ) -> Result<Option<[Linear; N]>>;
}

impl BeforeGroup for Option<&mut dyn Observer> {
    const UNCHOSEN: bool = false;

    fn before<const N: usize>(
        &mut self,
        executor: &mut Executor,
        linears: [&Linear; N],
        input: Values<'_>,
    ) -> Result<Option<[Linear; N]>> {
        if let Some(observer) = self.as_deref_mut() {
            observe(observer, executor, &linears, input)?;
        }
        Ok(None)
    }
}

/// Memory for experts one by one: the router's outputs, an expert's input, what is inside it, and what it makes.
#[derive(Debug)]
pub(crate) struct Buffers([Buffer; 4]);

impl Buffers {
    pub(crate) fn new(device: &Device) -> Self {
        Self(std::array::from_fn(|_| Buffer::new(device)))
    }
}

/// `out = experts(x)`, both `[tokens][hidden]`.
pub(crate) fn run<H: BeforeGroup>(
    model: &Model,
    executor: &mut Executor,
    hook: &mut H,
    experts: &Experts,
    x: Values<'_>,
    out: ValuesMut<'_>,
) -> Result<()> {
    let buffers = &mut Buffers::new(&executor.device());
    run_with(model, executor, hook, experts, x, out, buffers)
}

/// [`run`] in memory that is kept.
pub(crate) fn run_with<H: BeforeGroup>(
    model: &Model,
    executor: &mut Executor,
    hook: &mut H,
    experts: &Experts,
    x: Values<'_>,
    mut out: ValuesMut<'_>,
    Buffers(buffers): &mut Buffers,
) -> Result<()> {
    let config = &model.config;
    let Some(mixture) = config.experts else { return Ok(()) };
    let (hidden, width) = (config.hidden_size, mixture.ffn_size);
    let act = activation(config);
    let [logits, input, wide, made] = buffers;
    let count = x.len() / hidden * mixture.count;
    logits.reserve(count)?;
    executor.linear([&experts.router.op], Input::Values(x), Output::Store([logits.front_mut(count)]))?;
    executor.clear(out.reborrow())?;
    let routing = Routing { count: mixture.count, used: mixture.used, normalized: mixture.normalized };
    let chosen = executor.route(logits.front_mut(count), routing)?;
    let most = chosen.iter().map(Vec::len).max().unwrap_or(0);
    input.reserve(most * hidden)?;
    made.reserve(most * hidden)?;
    wide.reserve(most * width)?;
    for (expert, choices) in experts.experts.iter().zip(chosen) {
        if choices.is_empty() && !H::UNCHOSEN {
            continue;
        }
        let (narrow, inner) = (choices.len() * hidden, choices.len() * width);
        executor.gather(x, hidden, &choices, input.front_mut(narrow))?;
        let widening = [&expert.gate, &expert.up];
        let replaced = hook.before(executor, widening, input.front(narrow))?;
        if !choices.is_empty() {
            let widening = replaced.as_ref().map_or(widening, <[Linear; 2]>::each_ref).map(|l| &l.op);
            let output = Output::Gate(act, wide.front_mut(inner));
            executor.linear(widening, Input::Values(input.front(narrow)), output)?;
        }
        let replaced = hook.before(executor, [&expert.down], wide.front(inner))?;
        if !choices.is_empty() {
            let narrowing = replaced.as_ref().map_or([&expert.down], <[Linear; 1]>::each_ref).map(|l| &l.op);
            let output = Output::Store([made.front_mut(narrow)]);
            executor.linear(narrowing, Input::Values(wide.front(inner)), output)?;
            executor.scatter(made.front(narrow), hidden, &choices, out.reborrow())?;
        }
    }
    Ok(())
}

impl Phases<'_, '_> {
    /// Whether the executor does all of a mixture: on a GPU, where nobody asks for the inputs of layers.
    pub(super) fn on_gpu(&self) -> bool {
        self.executor.pool().is_none() && self.observer.is_none()
    }

    /// The last two phases of a block with a mixture on a GPU, for the rows `tail` of the residual stream `x`. `normed`
    /// is the network's input in a parallel block; `out` is overwritten.
    pub(super) fn experts_on_gpu(
        &mut self,
        experts: &Experts,
        (x, tail): (&mut Buffer, Range<usize>),
        normed: Values<'_>,
        mut out: ValuesMut<'_>,
    ) -> Result<()> {
        let (config, block) = (&self.model.config, self.block);
        let Some(mixture) = config.experts else { return Ok(()) };
        let mixture = Mixture {
            router: &experts.router.op,
            experts: &experts.ops(),
            stacks: experts.stacks.as_ref(),
            routing: Routing { count: mixture.count, used: mixture.used, normalized: mixture.normalized },
            activation: activation(config),
        };
        if self.kind() == BlockKind::Sequential && block.ffn_post_norm.is_none() {
            let x = x.front_mut(tail.end).slice(tail);
            return Ok(self.executor.experts(&mixture, Rows::InPlace { norm: block.network_norm(), x })?);
        }
        let input = network_input(self.model, block, x.front(tail.end).slice(tail.clone()), normed);
        self.executor.experts(&mixture, Rows::Apart { input, out: out.reborrow() })?;
        self.finish(out, x.front_mut(tail.end).slice(tail))
    }
}
