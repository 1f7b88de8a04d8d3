//! Attention and Mamba-2 side by side: both read the block's normed input, and what their output layers give is added.
//!
//! ```text
//! mixed = attention's heads [tokens][query] | Mamba-2's output layer [tokens][hidden]
//! x += attention's output layer(heads) + the rest
//! ```

use quern_compute::{Input, Output, Values, ValuesMut};

use crate::Result;
use crate::weights::Beside;

use super::super::phases::Phases;
use super::StateRoom;
use super::attention::{AttentionBuffers, KvTarget};

impl Phases<'_, '_> {
    pub(super) fn beside(
        &mut self,
        both: &Beside,
        (x, keep): (Values<'_>, usize),
        room: (KvTarget<'_>, AttentionBuffers<'_>, StateRoom<'_>),
        mixed: ValuesMut<'_>,
    ) -> Result<()> {
        let hidden = self.model.config.hidden_size;
        let rows = x.len() / hidden - keep;
        let (target, buffers, StateRoom { state, mut scratch }) = room;
        let (heads, added) = mixed.host()?.split_at_mut(rows * both.attention.output.op.weight.columns());
        let memory = scratch.reborrow();
        self.attend(&both.attention, (x, keep), target, buffers, memory, ValuesMut::Host(&mut *heads))?;
        heads.iter_mut().for_each(|value| *value *= both.factors[0]);

        let inner = rows * both.mamba.output.op.weight.columns();
        let (inner, rest) = scratch.host()?.split_at_mut(inner);
        let states = StateRoom { state, scratch: ValuesMut::Host(rest) };
        self.beside_state(both, (x, keep), states, inner)?;
        let output = Output::Store([ValuesMut::Host(&mut added[..rows * hidden])]);
        self.linear([&both.mamba.output], Input::Values(Values::Host(inner)), output)
    }

    /// What Mamba-2's output layer reads.
    pub(crate) fn beside_state(
        &mut self,
        both: &Beside,
        input: (Values<'_>, usize),
        states: StateRoom<'_>,
        inner: &mut [f32],
    ) -> Result<()> {
        self.mamba2(&both.mamba, input, states, ValuesMut::Host(&mut *inner))?;
        inner.iter_mut().for_each(|value| *value *= both.factors[1]);
        Ok(())
    }

    /// `x += output(mixed)`, where `mixed` is what [`Phases::beside`] gives.
    pub(crate) fn project_both(
        &mut self,
        both: &Beside,
        mixed: Values<'_>,
        mut x: ValuesMut<'_>,
    ) -> Result<()> {
        let output = &both.attention.output;
        let rows = mixed.len() / both.width().max(1);
        let heads = rows * output.op.weight.columns();
        let added = mixed.slice(heads..heads + rows * output.op.weight.rows());
        self.linear([output], Input::Values(mixed.slice(0..heads)), Output::Add(x.reborrow()))?;
        Ok(self.executor.add(x, added)?)
    }
}
