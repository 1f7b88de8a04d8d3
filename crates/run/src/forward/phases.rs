//! The phases of one block: each ends where the input of the next group of linear layers is computed.

use quern_compute::{Buffer, Device, Executor, Input, Output, Values, ValuesMut};
use quern_model::architecture::Block as BlockKind;

use crate::observer::observe;
use crate::weights::{Block, Experts, Ffn, Linear, Mixer};
use crate::{Model, Observer, Result};

use super::experts;

/// One block and what its phases need.
pub(crate) struct Phases<'p, 'o> {
    pub(crate) model: &'p Model,
    pub(crate) block: &'p Block,
    pub(crate) executor: &'p mut Executor,
    pub(crate) observer: Option<Watch<'o>>,
}

/// An observer, and memory that is needed only because it looks.
pub(crate) struct Watch<'o> {
    pub(crate) observer: &'o mut dyn Observer,
    pub(crate) seen: &'o mut Seen,
}

/// Inputs of layers that only an observer asks for, on one device. Grows when there is one.
#[derive(Debug)]
pub(crate) struct Seen {
    /// The input of a group behind its norm.
    pub(crate) normed: Buffer,
    pub(crate) experts: experts::Buffers,
}

impl Seen {
    pub(crate) fn new(device: &Device) -> Self {
        Self { normed: Buffer::new(device), experts: experts::Buffers::new(device) }
    }
}

impl Phases<'_, '_> {
    pub(crate) fn kind(&self) -> BlockKind {
        self.model.config.block
    }

    /// Linear layers, seen by the observer.
    pub(super) fn linear<const N: usize>(
        &mut self,
        linears: [&Linear; N],
        input: Input<'_>,
        output: Output<'_, N>,
    ) -> Result<()> {
        linear(self.executor, &mut self.observer, linears, input, output)
    }

    /// The mixer's input, written to `normed`.
    pub(crate) fn mixer_input(&mut self, x: Values<'_>, normed: ValuesMut<'_>) -> Result<()> {
        match mixer_input(self.model, self.block, x) {
            Input::Values(x) => Ok(self.executor.copy(x, normed)?),
            Input::Norm(norm, x) => Ok(self.executor.norm(norm, x, normed)?),
        }
    }

    /// The network's input where it is computed before attention's result is added: both halves of a parallel block
    /// see the same `x`.
    pub(crate) fn before_project(&mut self, x: Values<'_>, normed: ValuesMut<'_>) -> Result<()> {
        match self.kind() {
            BlockKind::Parallel => self.norm_or_copy(self.block.network_norm(), x, normed),
            BlockKind::PostNorm | BlockKind::OutputNorm | BlockKind::Sequential => Ok(()),
        }
    }

    /// `x += output(mixed)`.
    pub(crate) fn project(
        &mut self,
        mixed: Values<'_>,
        projected: ValuesMut<'_>,
        mut x: ValuesMut<'_>,
    ) -> Result<()> {
        let block = self.block;
        let post = block.attention_post_norm.as_ref();
        if let Mixer::Beside(both) = &block.mixer {
            return self.project_both(both, mixed, x);
        }
        // A block that is a mixture of experts alone.
        let Some(output) = block.mixer.output() else { return Ok(()) };
        self.add(output, Input::Values(mixed), post, projected, x.reborrow())?;
        match (self.kind(), &block.attention_norm) {
            (BlockKind::PostNorm, Some(norm)) => Ok(self.executor.norm_in_place(norm, x)?),
            _ => Ok(()),
        }
    }

    /// `x += linear(input)`, which is first normalized where a norm is given.
    pub(super) fn add(
        &mut self,
        linear: &Linear,
        input: Input<'_>,
        post: Option<&quern_compute::Norm>,
        mut projected: ValuesMut<'_>,
        x: ValuesMut<'_>,
    ) -> Result<()> {
        let Some(norm) = post else { return self.linear([linear], input, Output::Add(x)) };
        self.linear([linear], input, Output::Store([projected.reborrow()]))?;
        Ok(self.executor.add_normed(x, norm, projected)?)
    }

    /// The network's input, written to `normed` unless [`Phases::before_project`] did so.
    pub(crate) fn normed_input(&mut self, x: Values<'_>, normed: ValuesMut<'_>) -> Result<()> {
        match self.kind() {
            BlockKind::Parallel => Ok(()),
            BlockKind::PostNorm | BlockKind::OutputNorm => Ok(self.executor.copy(x, normed)?),
            BlockKind::Sequential => self.norm_or_copy(self.block.network_norm(), x, normed),
        }
    }

    /// `normed = norm(x)`, or `x` where there is no norm.
    fn norm_or_copy(
        &mut self,
        norm: Option<&quern_compute::Norm>,
        x: Values<'_>,
        normed: ValuesMut<'_>,
    ) -> Result<()> {
        match norm {
            Some(norm) => Ok(self.executor.norm(norm, x, normed)?),
            None => Ok(self.executor.copy(x, normed)?),
        }
    }

    /// `x += down(wide)`.
    pub(crate) fn narrow(
        &mut self,
        wide: Values<'_>,
        projected: ValuesMut<'_>,
        mut x: ValuesMut<'_>,
    ) -> Result<()> {
        let block = self.block;
        let Ffn::Dense { down, .. } = &block.ffn else { return Ok(()) };
        if let Some(own) = &block.beside {
            return self.narrow_beside(own, wide, projected, x);
        }
        self.add(down, Input::Values(wide), block.ffn_post_norm.as_ref(), projected, x.reborrow())?;
        self.end(x)
    }

    /// `x +=` what the chosen experts make of `normed`.
    pub(crate) fn experts(
        &mut self,
        experts: &Experts,
        normed: Values<'_>,
        mut projected: ValuesMut<'_>,
        x: ValuesMut<'_>,
    ) -> Result<()> {
        self.run_mixture(experts, normed.into(), projected.reborrow())?;
        self.finish(projected, x)
    }

    /// Adds what the experts made to the residual stream: the block's end.
    pub(crate) fn finish(&mut self, projected: ValuesMut<'_>, mut x: ValuesMut<'_>) -> Result<()> {
        match &self.block.ffn_post_norm {
            Some(norm) => self.executor.add_normed(x.reborrow(), norm, projected)?,
            None => self.executor.add(x.reborrow(), projected.as_values())?,
        }
        self.end(x)
    }

    /// The norm behind a block whose norms stand behind its parts.
    fn end(&mut self, x: ValuesMut<'_>) -> Result<()> {
        match self.kind() {
            BlockKind::PostNorm => match self.block.network_norm() {
                Some(norm) => Ok(self.executor.norm_in_place(norm, x)?),
                None => Ok(()),
            },
            BlockKind::Parallel | BlockKind::OutputNorm | BlockKind::Sequential => Ok(()),
        }
    }
}

/// The mixer's input: `norm(x)`, or `x` itself where norms are behind.
pub(super) fn mixer_input<'a>(model: &Model, block: &'a Block, x: Values<'a>) -> Input<'a> {
    match block.norm_of_attention(model.config.block) {
        Some(norm) => Input::Norm(norm, x),
        None => Input::Values(x),
    }
}

/// The input of the network, once attention's result is in `x`.
pub(super) fn network_input<'a>(
    model: &Model,
    block: &'a Block,
    x: Values<'a>,
    normed: Values<'a>,
) -> Input<'a> {
    match model.config.block {
        BlockKind::Parallel => Input::Values(normed),
        BlockKind::PostNorm | BlockKind::OutputNorm => Input::Values(x),
        BlockKind::Sequential => block.network_norm().map_or(Input::Values(x), |norm| Input::Norm(norm, x)),
    }
}

/// Linear layers that share their input, seen by an observer if there is one.
pub(super) fn linear<const N: usize>(
    executor: &mut Executor,
    watch: &mut Option<Watch<'_>>,
    linears: [&Linear; N],
    input: Input<'_>,
    output: Output<'_, N>,
) -> Result<()> {
    let ops = linears.map(|l| &l.op);
    let Some(Watch { observer, seen }) = watch else { return Ok(executor.linear(ops, input, output)?) };
    let values = match input {
        Input::Values(values) => values,
        Input::Norm(norm, x) => {
            seen.normed.reserve(x.len())?;
            executor.norm(norm, x, seen.normed.front_mut(x.len()))?;
            seen.normed.front(x.len())
        }
    };
    observe(*observer, executor, &linears, values)?;
    Ok(executor.linear(ops, Input::Values(values), output)?)
}
