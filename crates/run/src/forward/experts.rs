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

use std::ops::Range;

use quern_compute::ops::Activation;
use quern_compute::{
    Buffer, Choice, Device, Executor, GroupRank, Groups, Input, Mixture, Output, Routing, Rows, Scores,
    Values, ValuesMut,
};
use quern_model::architecture::{self, Block as BlockKind};

use crate::observer::observe;
use crate::weights::{Expert, Experts, Linear, SharedExpert};
use crate::{Model, Observer, Result};

use super::activation;
use super::phases::{Phases, network_input};

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

/// Memory for experts one by one: the router's outputs, an expert's input, what is inside it, and what it makes.
#[derive(Debug)]
pub(crate) struct Buffers {
    buffers: [Buffer; 4],
    /// Tokens of an expert that are computed at once, at most.
    at_once: usize,
}

impl Buffers {
    pub(crate) fn new(device: &Device) -> Self {
        let at_once = if device.is_gpu() { GPU_ROWS } else { usize::MAX };
        Self { buffers: std::array::from_fn(|_| Buffer::new(device)), at_once }
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
    Buffers { buffers, at_once }: &mut Buffers,
) -> Result<()> {
    let config = &model.config;
    let Some(mixture) = config.experts else { return Ok(()) };
    let hidden = config.hidden_size;
    let [logits, input, wide, made] = buffers;
    let tokens = x.len() / hidden;
    let count = tokens * mixture.count;
    executor.clear(out.reborrow())?;
    let shared = experts.shared.as_ref();
    let shared = shared.map(|shared| shares(executor, shared, x, tokens, logits)).transpose()?;
    logits.reserve(count)?;
    executor.linear([&experts.router.op], Input::Values(x), Output::Store([logits.front_mut(count)]))?;
    let bias = experts.choice_bias.as_ref();
    let mut chosen = executor.route(logits.front_mut(count), routing(&mixture), bias)?;
    // The shared expert is one more, which all tokens chose.
    chosen.extend(shared);
    let all = experts.experts.iter().chain(experts.shared.as_ref().map(|shared| &shared.expert));
    let at_once = *at_once;
    let most = chosen.iter().map(Vec::len).max().unwrap_or(0).min(at_once);
    input.reserve(most * hidden)?;
    made.reserve(most * hidden)?;
    wide.reserve(most * config.widest())?;
    for (index, (expert, choices)) in all.zip(chosen).enumerate() {
        if choices.is_empty() && !H::UNCHOSEN {
            continue;
        }
        let mut pass = Pass {
            model,
            executor: &mut *executor,
            x,
            choices: &choices,
            scaled: mixture.scaled_inputs && index < mixture.count,
            at_once,
            buffers: [&mut *input, &mut *wide, &mut *made],
        };
        match &expert.gate {
            Some(gate) => {
                let layers = ([gate, &expert.up], &expert.down);
                pass.expert(hook, layers, gated, out.reborrow())?;
            }
            None => {
                let layers = ([&expert.up], &expert.down);
                pass.expert(hook, layers, activated, out.reborrow())?;
            }
        }
    }
    Ok(())
}

/// `act(gate) * up`.
fn gated(act: Activation, values: ValuesMut<'_>) -> Output<'_, 2> {
    Output::Gate(act, values)
}

/// `act(up)`.
fn activated(act: Activation, values: ValuesMut<'_>) -> Output<'_, 1> {
    Output::Activate(act, values)
}

/// One expert with the tokens that chose it.
struct Pass<'p> {
    model: &'p Model,
    executor: &'p mut Executor,
    /// The inputs of all tokens.
    x: Values<'p>,
    choices: &'p [Choice],
    /// Shares are of what is read: what is made is added as it is.
    scaled: bool,
    /// Tokens that are computed at once, at most.
    at_once: usize,
    /// The expert's input, what is inside it, and what it makes.
    buffers: [&'p mut Buffer; 3],
}

impl Pass<'_> {
    /// `out += share * down(widened)`; `output` says what becomes of the results of the widening layers.
    fn expert<H: BeforeGroup, const N: usize>(
        &mut self,
        hook: &mut H,
        (own_widening, down): ([&Linear; N], &Linear),
        output: for<'v> fn(Activation, ValuesMut<'v>) -> Output<'v, N>,
        mut out: ValuesMut<'_>,
    ) -> Result<()> {
        let Self { model, executor, x, choices, scaled, at_once, buffers: [input, wide, made] } = self;
        let (x, choices, scaled, at_once) = (*x, *choices, *scaled, *at_once);
        let (hidden, act) = (model.config.hidden_size, activation(&model.config));
        let width = down.op.weight.columns();
        let whole: Vec<Choice> = match scaled {
            true => choices.iter().map(|&Choice { token, .. }| Choice { token, share: 1.0 }).collect(),
            false => Vec::new(),
        };
        let gather = |executor: &mut Executor, part: &[Choice], input: &mut Buffer| {
            executor.gather(x, hidden, (part, scaled), input.front_mut(part.len() * hidden))
        };
        let own_narrowing = [down];
        // Where an expert has more tokens than are computed at once, each part is computed again for the next layers.
        let again = choices.len() > at_once;
        let parts = || choices.chunks(at_once).enumerate().map(|(index, part)| (index * at_once, part));
        for (_, part) in parts() {
            gather(executor, part, input)?;
            hook.observe(executor, own_widening, input.front(part.len() * hidden))?;
        }
        let replaced = hook.replace(executor, own_widening)?;
        let widening = replaced.as_ref().map_or(own_widening, <[Linear; N]>::each_ref).map(|l| &l.op);
        let mut widen = |executor: &mut Executor, part: &[Choice], wide: &mut Buffer| -> Result<()> {
            if again {
                gather(executor, part, input)?;
            }
            let output = output(act, wide.front_mut(part.len() * width));
            Ok(executor.linear(widening, Input::Values(input.front(part.len() * hidden)), output)?)
        };
        for (_, part) in parts() {
            widen(executor, part, wide)?;
            hook.observe(executor, own_narrowing, wide.front(part.len() * width))?;
        }
        let replaced = hook.replace(executor, own_narrowing)?;
        let narrowing = replaced.as_ref().map_or(own_narrowing, <[Linear; 1]>::each_ref).map(|l| &l.op);
        for (at, part) in parts() {
            let (narrow, inner) = (part.len() * hidden, part.len() * width);
            if again {
                widen(executor, part, wide)?;
            }
            let output = Output::Store([made.front_mut(narrow)]);
            executor.linear(narrowing, Input::Values(wide.front(inner)), output)?;
            let part = whole.get(at..at + part.len()).unwrap_or(part);
            executor.scatter(made.front(narrow), hidden, part, out.reborrow())?;
        }
        Ok(())
    }
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
        if let Some(SharedExpert { expert: Expert { gate, up, down }, router }) = &experts.shared {
            let (tokens, width) = (tail.len() / config.hidden_size, up.op.weight.rows());
            let inner = tokens * width;
            let (act, inside) = (activation(config), wide.front_mut(inner));
            match gate {
                Some(gate) => {
                    self.executor.linear([&gate.op, &up.op], input, Output::Gate(act, inside))?;
                }
                None => self.executor.linear([&up.op], input, Output::Activate(act, inside))?,
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
            run_with(&model, &mut executor, hook, experts, x, made, &mut buffers).unwrap();
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
