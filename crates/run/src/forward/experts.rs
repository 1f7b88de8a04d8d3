//! A mixture of experts: a router chooses for every token which few of many networks compute for it.
//!
//! ```text
//! probabilities = softmax(router(x)); the `used` largest are chosen, and made to sum to one if so configured
//! y = Σ probability * down(act(gate(x)) * up(x))     over the chosen
//! ```
//!
//! Families differ in how the router's outputs choose ([`Routing`]); some have a shared expert, which computes for all
//! tokens, its result multiplied with a number of its own router's or with one.
//!
//! Tokens are taken expert by expert: each weight is read once for all tokens that chose it. A token's sum goes
//! in the order of the experts' numbers, whatever the batch. On a GPU the executor does all of it, unless an observer asks
//! for the input of each expert.

mod beside;
mod each;

use std::ops::Range;

use quern_compute::{
    Buffer, Choice, Device, Executor, GroupRank, Groups, Input, Mixture, Output, Routing, Rows, Scores,
    Values, ValuesMut,
};
use quern_model::architecture::{self, Block as BlockKind};

use crate::observer::observe;
use crate::weights::{Expert, Experts, Linear, SharedExpert, Widen};
use crate::{Model, Observer, Result};

use super::activation;
use super::phases::{Phases, Watch, network_input};
use each::{Each, Pass};

/// What happens before a group of an expert's layers runs: an ordinary pass calls its observer, calibration also
/// replaces the weights.
pub(crate) trait BeforeGroup {
    /// Whether it is called for experts that no token chose, too; their input is empty.
    const UNCHOSEN: bool;

    /// Called with the input of the group, or with parts of it one after the other.
    fn observe<const N: usize>(
        &mut self,
        executor: &mut Executor,
        linears: [&Linear; N],
        input: Values<'_>,
    ) -> Result<()>;

    /// Called when the whole input was seen. Returns the layers to compute with in place of the model's, if there are
    /// any.
    fn replace<const N: usize>(
        &mut self,
        executor: &mut Executor,
        linears: [&Linear; N],
    ) -> Result<Option<[Linear; N]>>;
}

/// Tokens of an expert that a GPU computes at once, at most.
pub(crate) const GPU_ROWS: usize = 16384;

impl BeforeGroup for Option<&mut dyn Observer> {
    const UNCHOSEN: bool = false;

    fn observe<const N: usize>(
        &mut self,
        executor: &mut Executor,
        linears: [&Linear; N],
        input: Values<'_>,
    ) -> Result<()> {
        self.as_deref_mut().map_or(Ok(()), |observer| observe(observer, executor, &linears, input))
    }

    fn replace<const N: usize>(&mut self, _: &mut Executor, _: [&Linear; N]) -> Result<Option<[Linear; N]>> {
        Ok(None)
    }
}

/// Memory for experts one by one.
#[derive(Debug)]
pub(crate) struct Buffers {
    /// The router's outputs.
    logits: Buffer,
    each: Each,
    /// What experts read and make together, where that is narrower than the residual stream.
    latent: [Buffer; 2],
    /// Tokens of an expert that are computed at once, at most.
    at_once: usize,
}

impl Buffers {
    pub(crate) fn new(device: &Device) -> Self {
        let at_once = if device.is_gpu() { GPU_ROWS } else { usize::MAX };
        let buffer = || Buffer::new(device);
        Self { logits: buffer(), each: Each::new(device), latent: [buffer(), buffer()], at_once }
    }
}

/// What a mixture reads, `[tokens][hidden]`.
#[derive(Clone, Copy)]
pub(crate) struct Inputs<'a> {
    /// The router alone.
    pub(crate) router: Input<'a>,
    /// The experts.
    pub(crate) experts: Values<'a>,
}

impl<'a> From<Values<'a>> for Inputs<'a> {
    fn from(x: Values<'a>) -> Self {
        Self { router: Input::Values(x), experts: x }
    }
}

/// `out = experts(x)`, both `[tokens][hidden]`.
pub(crate) fn run<H: BeforeGroup>(
    model: &Model,
    executor: &mut Executor,
    hook: &mut H,
    experts: &Experts,
    inputs: Inputs<'_>,
    out: ValuesMut<'_>,
) -> Result<()> {
    let buffers = &mut Buffers::new(&executor.device());
    run_with(model, executor, hook, experts, inputs, out, buffers)
}

/// [`run`] in memory that is kept.
pub(crate) fn run_with<H: BeforeGroup>(
    model: &Model,
    executor: &mut Executor,
    hook: &mut H,
    experts: &Experts,
    Inputs { router, experts: x }: Inputs<'_>,
    mut out: ValuesMut<'_>,
    buffers: &mut Buffers,
) -> Result<()> {
    let config = &model.config;
    let Some(mixture) = config.experts else { return Ok(()) };
    let hidden = config.hidden_size;
    let tokens = x.len() / hidden;
    let count = tokens * mixture.count;
    executor.clear(out.reborrow())?;
    let logits = &mut buffers.logits;
    let shared = experts.shared.as_ref();
    let of_shared = shared.map(|shared| shares(executor, shared, x, tokens, logits)).transpose()?;
    logits.reserve(count)?;
    executor.linear([&experts.router.op], router, Output::Store([logits.front_mut(count)]))?;
    let bias = experts.choice_bias.as_ref();
    let mut chosen = executor.route(logits.front_mut(count), routing(&mixture), bias)?;
    for (choices, scale) in chosen.iter_mut().zip(&experts.scales) {
        choices.iter_mut().for_each(|choice| choice.share *= scale);
    }
    let at_once = buffers.at_once;
    let most = chosen.iter().chain(&of_shared).map(Vec::len).max().unwrap_or(0).min(at_once);
    buffers.each.reserve(most, hidden, config.widest())?;
    let each = &mut buffers.each;
    let width = mixture.latent.unwrap_or(hidden);
    let mut pass = Pass { model, executor, at_once, each, scaled: mixture.scaled_inputs, width };
    match &experts.latent {
        None => pass.all(hook, experts.experts.iter().zip(&chosen), x, out.reborrow())?,
        Some(latent) => {
            let values = tokens * width;
            let [read, made] = &mut buffers.latent;
            read.reserve(values)?;
            made.reserve(values)?;
            pass.linear(hook, &latent.inward, x, read.front_mut(values))?;
            pass.executor.clear(made.front_mut(values))?;
            let all = experts.experts.iter().zip(&chosen);
            pass.all(hook, all, read.front(values), made.front_mut(values))?;
            pass.linear(hook, &latent.outward, made.front(values), out.reborrow())?;
        }
    }
    // The shared expert is one more, which all tokens chose.
    let shared = shared.map(|shared| &shared.expert);
    let mut pass = Pass { scaled: false, width: hidden, ..pass };
    pass.all(hook, shared.into_iter().zip(&of_shared), x, out)
}

/// How a router's outputs choose.
pub(crate) fn routing(mixture: &quern_model::Experts) -> Routing {
    let scores = match mixture.scores {
        architecture::Scores::Softmax => Scores::Softmax,
        architecture::Scores::Sigmoid => Scores::Sigmoid,
        architecture::Scores::SparseMixer { jitter } => Scores::SparseMixer { jitter },
    };
    let groups = mixture.groups.map(|groups| {
        let rank = match groups.rank {
            architecture::GroupRank::Largest => GroupRank::Largest,
            architecture::GroupRank::TwoLargest => GroupRank::TwoLargest,
        };
        Groups { count: groups.count, used: groups.used, rank }
    });
    let (count, used, normalized, scale) = (mixture.count, mixture.used, mixture.normalized, mixture.scale);
    Routing { count, used, scores, normalized, scale, groups }
}

/// All tokens, each with its share of the shared expert's result.
fn shares(
    executor: &mut Executor,
    shared: &SharedExpert,
    x: Values<'_>,
    tokens: usize,
    logits: &mut Buffer,
) -> Result<Vec<Choice>> {
    let Some(router) = &shared.router else {
        return Ok((0..tokens as u32).map(|token| Choice { token, share: 1.0 }).collect());
    };
    logits.reserve(tokens)?;
    executor.linear([&router.op], Input::Values(x), Output::Store([logits.front_mut(tokens)]))?;
    let mut all = executor.route(logits.front_mut(tokens), Routing::gate(), None)?;
    Ok(all.pop().unwrap_or_default())
}

impl Phases<'_, '_> {
    /// What the chosen experts make of `inputs`, seen by the observer.
    pub(super) fn run_mixture(
        &mut self,
        experts: &Experts,
        inputs: Inputs<'_>,
        out: ValuesMut<'_>,
    ) -> Result<()> {
        let (model, executor) = (self.model, &mut *self.executor);
        match &mut self.observer {
            Some(Watch { observer, seen }) => {
                let hook = &mut Some(&mut **observer as &mut dyn Observer);
                run_with(model, executor, hook, experts, inputs, out, &mut seen.experts)
            }
            None => run(model, executor, &mut None::<&mut dyn Observer>, experts, inputs, out),
        }
    }

    /// Whether the executor does all of a mixture: on a GPU, where nobody asks for the inputs of layers.
    pub(super) fn on_gpu(&self) -> bool {
        self.executor.pool().is_none() && self.observer.is_none()
    }

    /// The last two phases of a block with a mixture on a GPU, for the rows `tail` of the residual stream `x`. `normed`
    /// is the network's input in a parallel block; `wide`, `gates` (a number for each token) and `out` are overwritten.
    pub(super) fn experts_on_gpu(
        &mut self,
        experts: &Experts,
        (x, tail): (&mut Buffer, Range<usize>),
        (normed, wide, gates): (Values<'_>, &mut Buffer, &mut Buffer),
        mut out: ValuesMut<'_>,
    ) -> Result<()> {
        let (config, block) = (&self.model.config, self.block);
        let Some(mixture) = config.experts else { return Ok(()) };
        let mixture = Mixture {
            router: &experts.router.op,
            experts: &experts.ops(),
            stacks: experts.stacks.as_ref(),
            routing: routing(&mixture),
            choice_bias: experts.choice_bias.as_ref(),
            scaled_inputs: mixture.scaled_inputs,
            activation: activation(config),
        };
        if let (BlockKind::Sequential, None, Some(norm), None) =
            (self.kind(), &block.ffn_post_norm, block.network_norm(), &experts.shared)
        {
            let x = x.front_mut(tail.end).slice(tail);
            return Ok(self.executor.experts(&mixture, Rows::InPlace { norm, x })?);
        }
        let input = network_input(self.model, block, x.front(tail.end).slice(tail.clone()), normed);
        self.executor.experts(&mixture, Rows::Apart { input, out: out.reborrow() })?;
        if let Some(SharedExpert { expert: Expert { widen, down }, router }) = &experts.shared {
            let (tokens, width) = (tail.len() / config.hidden_size, down.op.weight.columns());
            let inner = tokens * width;
            let (act, inside) = (activation(config), wide.front_mut(inner));
            match widen {
                Widen::Gated { gate, up } => {
                    self.executor.linear([&gate.op, &up.op], input, Output::Gate(act, inside))?;
                }
                Widen::Fused(both) => {
                    self.executor.linear([&both.op], input, Output::Gate(act, inside))?;
                }
                Widen::Plain(up) => self.executor.linear([&up.op], input, Output::Activate(act, inside))?,
            }
            if let Some(router) = router {
                let mut gates = gates.front_mut(tokens);
                self.executor.linear([&router.op], input, Output::Store([gates.reborrow()]))?;
                self.executor.gate_rows(wide.front_mut(inner), width, gates.as_values())?;
            }
            let input = Input::Values(wide.front(inner));
            self.executor.linear([&down.op], input, Output::Add(out.reborrow()))?;
        }
        self.finish(out, x.front_mut(tail.end).slice(tail))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::Ffn;
    use crate::{LinearGroup, LoadOptions, ObserverError};

    /// How many tokens each group saw, and the sum of their values.
    #[derive(Default)]
    struct Seen(Vec<(String, usize, f64)>);

    impl Observer for Seen {
        fn observe(&mut self, _: &mut Executor, group: &LinearGroup<'_>) -> Result<(), ObserverError> {
            let name = format!("{} {:?}", group.linears[0].name, group.linears[0].expert);
            let sum = group.values.host()?.iter().map(|&v| f64::from(v)).sum::<f64>();
            match self.0.iter_mut().find(|(known, ..)| *known == name) {
                Some((_, rows, total)) => (*rows, *total) = (*rows + group.rows, *total + sum),
                None => self.0.push((name, group.rows, sum)),
            }
            Ok(())
        }
    }

    #[test]
    fn an_experts_tokens_may_be_computed_in_parts() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/architectures/mixtral");
        let options = LoadOptions { threads: 2, ..LoadOptions::default() };
        let model = Model::open(folder.as_ref(), options).unwrap();
        let Ffn::Experts(experts) = &model.weights.blocks[0].ffn else { panic!("a mixture") };
        let hidden = model.config.hidden_size;
        let x: Vec<f32> = (0..40 * hidden).map(|i| ((i * 31 % 97) as f32 - 48.0) / 40.0).collect();
        let run = |at_once: usize| {
            let mut executor = Executor::new(&model.cpu()).unwrap();
            let mut buffers = Buffers { at_once, ..Buffers::new(&model.cpu()) };
            let (mut out, mut seen) = (vec![0f32; x.len()], Seen::default());
            let hook = &mut Some(&mut seen as &mut dyn Observer);
            let (x, made) = (Values::Host(&x), ValuesMut::Host(&mut out));
            run_with(&model, &mut executor, hook, experts, x.into(), made, &mut buffers).unwrap();
            (out, seen.0)
        };
        let (whole, all) = run(usize::MAX);
        for at_once in [1, 3] {
            let (parts, seen) = run(at_once);
            let largest = whole.iter().fold(0f32, |m, v| m.max(v.abs()));
            assert!(whole.iter().zip(&parts).all(|(a, b)| (a - b).abs() <= 1e-5 * largest), "{at_once}");
            assert_eq!(all.len(), seen.len());
            for ((name, rows, sum), (other, own_rows, own_sum)) in all.iter().zip(&seen) {
                assert_eq!((name, rows), (other, own_rows));
                assert!((sum - own_sum).abs() < 1e-3, "{name}: {sum} {own_sum}");
            }
        }
    }
}
