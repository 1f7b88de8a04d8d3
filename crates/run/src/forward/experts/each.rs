//! Experts one after the other, each with the tokens that chose it.

use quern_compute::ops::Activation;
use quern_compute::{Buffer, Choice, Device, Executor, Input, Output, Values, ValuesMut};

use crate::weights::{Expert, Linear, Widen};
use crate::{Model, Result};

use super::super::activation;
use super::BeforeGroup;

/// Memory for one of them: its input, what is inside it, and what it makes.
#[derive(Debug)]
pub(super) struct Each {
    input: Buffer,
    wide: Buffer,
    made: Buffer,
}

impl Each {
    pub(super) fn new(device: &Device) -> Self {
        Self { input: Buffer::new(device), wide: Buffer::new(device), made: Buffer::new(device) }
    }

    /// Room for this many tokens.
    pub(super) fn reserve(&mut self, tokens: usize, hidden: usize, inner: usize) -> Result<()> {
        self.input.reserve(tokens * hidden)?;
        self.made.reserve(tokens * hidden)?;
        Ok(self.wide.reserve(tokens * inner)?)
    }
}

/// What becomes of a gate's results and those that it multiplies, of two layers or of one.
fn gate_by<const N: usize>(act: Activation, values: ValuesMut<'_>) -> Output<'_, N> {
    Output::Gate(act, values)
}

/// What becomes of results without a gate.
fn activate_by(act: Activation, values: ValuesMut<'_>) -> Output<'_, 1> {
    Output::Activate(act, values)
}

/// Experts of a mixture, one after the other, each with the tokens that chose it.
pub(super) struct Pass<'p> {
    pub(super) model: &'p Model,
    pub(super) executor: &'p mut Executor,
    /// Shares are of what is read: what is made is added as it is.
    pub(super) scaled: bool,
    /// Tokens that are computed at once, at most.
    pub(super) at_once: usize,
    /// Numbers of a token that experts read and make.
    pub(super) width: usize,
    pub(super) each: &'p mut Each,
}

impl Pass<'_> {
    /// Adds to `out` what each of `experts` makes of its tokens of `x`, both `[tokens][width]`.
    pub(super) fn all<'e, H: BeforeGroup>(
        &mut self,
        hook: &mut H,
        experts: impl Iterator<Item = (&'e Expert, &'e Vec<Choice>)>,
        x: Values<'_>,
        mut out: ValuesMut<'_>,
    ) -> Result<()> {
        for (Expert { widen, down }, choices) in experts {
            if choices.is_empty() && !H::UNCHOSEN {
                continue;
            }
            let (read, out) = ((x, &choices[..]), out.reborrow());
            match widen {
                Widen::Gated { gate, up } => self.expert(hook, ([gate, up], down), gate_by, read, out)?,
                Widen::Fused(both) => self.expert(hook, ([both], down), gate_by, read, out)?,
                Widen::Plain(up) => self.expert(hook, ([up], down), activate_by, read, out)?,
            }
        }
        Ok(())
    }

    /// `out = linear(x)` for all tokens.
    pub(super) fn linear<H: BeforeGroup>(
        &mut self,
        hook: &mut H,
        linear: &Linear,
        x: Values<'_>,
        out: ValuesMut<'_>,
    ) -> Result<()> {
        hook.observe(self.executor, [linear], x)?;
        let replaced = hook.replace(self.executor, [linear])?;
        let own = replaced.as_ref().map_or(linear, |[own]| own);
        Ok(self.executor.linear([&own.op], Input::Values(x), Output::Store([out]))?)
    }

    /// `out += share * down(widened)`; `output` says what becomes of the results of the widening layers.
    fn expert<H: BeforeGroup, const N: usize>(
        &mut self,
        hook: &mut H,
        (own_widening, down): ([&Linear; N], &Linear),
        output: for<'v> fn(Activation, ValuesMut<'v>) -> Output<'v, N>,
        (x, choices): (Values<'_>, &[Choice]),
        mut out: ValuesMut<'_>,
    ) -> Result<()> {
        let Self { model, executor, scaled, at_once, width: hidden, each: Each { input, wide, made } } = self;
        let (scaled, at_once, hidden) = (*scaled, *at_once, *hidden);
        let act = activation(&model.config);
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
