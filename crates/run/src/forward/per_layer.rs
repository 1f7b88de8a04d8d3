//! What tokens add in each layer behind its network (Gemma 4, the smaller models):
//!
//! ```text
//! context = norm(C e / sqrt(hidden))               e: the token's embedding, as the first block receives it
//! own     = (context + row * sqrt(size)) / sqrt(2)     row: the token's, of this layer
//! x      += norm(P (act(G x) * own))
//! ```
//!
//! On the CPU alone: [`Model::beyond_gpus`](crate::Model::beyond_gpus).

use quern_compute::{Executor, Input, Output, Values, ValuesMut, get_row};

use crate::weights::{PerLayer, PerLayerTable};
use crate::{Model, Result};

use super::{Phases, activation};

/// What `tokens` with these embeddings add in a layer, `[tokens][size]`.
pub(crate) fn own(
    model: &Model,
    executor: &mut Executor,
    (layer, weights): (usize, &PerLayer),
    tokens: &[u32],
    embeds: Values<'_>,
    mut own: ValuesMut<'_>,
) -> Result<()> {
    let Some(PerLayerTable { embedding, norm }) = &model.weights.per_layer else { return Ok(()) };
    executor.linear([&weights.context.op], Input::Values(embeds), Output::Store([own.reborrow()]))?;
    executor.norm_in_place(norm, own.reborrow())?;
    let (table, size) = (embedding.host()?, norm.weight.len());
    let (root, half) = ((size as f32).sqrt(), std::f32::consts::FRAC_1_SQRT_2);
    let mut row = vec![0.0; table.columns()];
    for (&token, own) in tokens.iter().zip(own.host()?.chunks_exact_mut(size)) {
        // Tokens that have no vectors of their own add what the first does.
        let token = if (token as usize) < table.rows() { token as usize } else { 0 };
        get_row(&table, token, &mut row)?;
        let rows = &row[layer * size..][..size];
        own.iter_mut().zip(rows).for_each(|(own, row)| *own = (*own + row * root) * half);
    }
    Ok(())
}

impl Phases<'_, '_> {
    /// `gated = act(G x) * own`, the input of the layer's last projection.
    pub(crate) fn gate_own(
        &mut self,
        x: Values<'_>,
        own: Values<'_>,
        mut gated: ValuesMut<'_>,
    ) -> Result<()> {
        let Some(weights) = &self.block.per_layer else { return Ok(()) };
        let act = activation(&self.model.config);
        self.linear([&weights.gate], Input::Values(x), Output::Activate(act, gated.reborrow()))?;
        gated.host()?.iter_mut().zip(own.host()?).for_each(|(gated, own)| *gated *= own);
        Ok(())
    }

    /// `x += norm(P gated)`.
    pub(crate) fn add_own(
        &mut self,
        gated: Values<'_>,
        projected: ValuesMut<'_>,
        x: ValuesMut<'_>,
    ) -> Result<()> {
        let Some(weights) = &self.block.per_layer else { return Ok(()) };
        self.add(&weights.output, Input::Values(gated), Some(&weights.norm), projected, x)
    }

    /// `made = norm(P gated)`.
    pub(crate) fn make_own(&mut self, gated: Values<'_>, mut made: ValuesMut<'_>) -> Result<()> {
        let Some(weights) = &self.block.per_layer else { return Ok(()) };
        self.linear([&weights.output], Input::Values(gated), Output::Store([made.reborrow()]))?;
        Ok(self.executor.norm_in_place(&weights.norm, made)?)
    }

    /// Multiplies the residual stream with the factor behind the block.
    pub(crate) fn scale(&mut self, x: ValuesMut<'_>) -> Result<()> {
        if let Some(scale) = self.block.scale {
            x.host()?.iter_mut().for_each(|x| *x *= scale);
        }
        Ok(())
    }
}
