//! Experts beside the dense network of a block (Gemma 4), `x` being the residual stream once attention's result is added:
//!
//! ```text
//! dense   = norm(down(act(gate(norm(x))) * up(norm(x))))
//! experts = norm(Σ share * expert(norm(x)))        shares by router(norm(x)), with norms of their own
//! x      += norm(dense + experts)
//! ```
//!
//! On the CPU alone: [`Model::beyond_gpus`](crate::Model::beyond_gpus).

use quern_compute::{Input, Output, Values, ValuesMut};

use crate::Result;
use crate::weights::{ExpertsBeside, Ffn};

use super::super::phases::Phases;
use super::Inputs;

impl Phases<'_, '_> {
    /// `x += norm(norm(down(wide)) + norm(experts(norm(x))))`.
    pub(in crate::forward) fn narrow_beside(
        &mut self,
        own: &ExpertsBeside,
        wide: Values<'_>,
        mut projected: ValuesMut<'_>,
        x: ValuesMut<'_>,
    ) -> Result<()> {
        self.dense_beside(own, wide, projected.reborrow())?;
        let (hidden, mut made) = (x.as_values(), vec![0.0; x.as_values().len()]);
        let mut normed = made.clone();
        self.executor.norm(&own.norm, hidden, ValuesMut::Host(&mut normed))?;
        let router = Input::Norm(&own.router_norm, hidden);
        let inputs = Inputs { router, experts: normed[..].into() };
        self.run_mixture(&own.experts, inputs, ValuesMut::Host(&mut made))?;
        self.finish_beside(own, ValuesMut::Host(&mut made), projected.as_values(), x)
    }

    /// `projected = norm(down(wide))`: what the dense network makes beside experts.
    pub(crate) fn dense_beside(
        &mut self,
        own: &ExpertsBeside,
        wide: Values<'_>,
        mut projected: ValuesMut<'_>,
    ) -> Result<()> {
        let Ffn::Dense { down, .. } = &self.block.ffn else { return Ok(()) };
        self.linear([down], Input::Values(wide), Output::Store([projected.reborrow()]))?;
        Ok(self.executor.norm_in_place(&own.dense_norm, projected)?)
    }

    /// `x += norm(dense + norm(made))`, once the experts have made something; it is overwritten.
    pub(crate) fn finish_beside(
        &mut self,
        own: &ExpertsBeside,
        mut made: ValuesMut<'_>,
        dense: Values<'_>,
        x: ValuesMut<'_>,
    ) -> Result<()> {
        self.executor.norm_in_place(&own.post_norm, made.reborrow())?;
        self.executor.add(made.reborrow(), dense)?;
        self.finish(made, x)
    }
}
