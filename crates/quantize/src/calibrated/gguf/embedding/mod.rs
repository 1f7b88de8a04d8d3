//! The token embedding as a stage of its own, before the blocks: its rows are rounded for what an error in them costs.
//!
//! A row is what the residual stream begins with. An error `e` in it changes the loss by `½ (e g)²`, `g` the gradient of
//! the loss by the residual stream in front of block 0, so that `Σ g gᵀ` takes the Hessian's place. Where gradients are
//! not known, the weights that read the residual stream say how much of an error they pass on.
//!
//! ```text
//! gradients are known       Σ g gᵀ over some of the calibration's sequences              gradients.rs
//!   and the head is tied    + Σ δ² x xᵀ, x its inputs and δ the gradients by its logits
//! they are not              Σ r rᵀ over the rows r of the blocks' weights, norms in them  readers.rs
//! ```

mod gradients;
mod readers;
#[cfg(test)]
mod tests;

use std::time::Instant;

use quern_model::View;
use quern_run::Model;
use quern_tensor_io::{ElementType, TensorPlan};

use super::importance;
use super::plan::Layer;
use super::report::LayerReport;
use super::solve::{Gguf, Rounding};
use super::{Error, GgufPlan};
use crate::calibrated::state::{BlockRecord, State, group_writer};
use crate::calibrated::target::Work;
use crate::gptq::blocks::has_feedback;
use crate::gptq::{Hessian, Prepared, SolveError};
use crate::job::QuantizeRow;

pub(super) use gradients::{OnGpu, Sample, memory};

/// Its name in GGUF.
pub(super) const NAME: &str = "token_embd.weight";

/// What takes a Hessian's place for the rows of the embedding.
struct Gram {
    sum: Hessian,
    /// Tokens that were run for it; `None` if it is made of weights.
    tokens: Option<u64>,
}

/// The embedding as a layer of the plan, if it is a table with rows as long as the residual stream.
pub(super) fn layer(
    model: &Model,
    rows: &[QuantizeRow],
    wanted: impl Fn(&QuantizeRow) -> bool,
) -> Option<Layer> {
    let index = rows.iter().position(|row| row.name == NAME).filter(|&index| wanted(&rows[index]))?;
    match rows[index].shape[..] {
        [rows, columns] if columns == model.config().hidden_size => {
            Some(Layer { row: index, matrix: 0, rows, columns, key: NAME.to_owned() })
        }
        _ => None,
    }
}

/// Takes the embedding over from an earlier run, or makes it. Returns what was damaged.
pub(super) fn make(
    target: &Gguf<'_>,
    model: &Model,
    state: &State,
    work: Work<'_>,
) -> Result<Option<String>, Error> {
    let Some(layer) = &target.plan.embedding else { return Ok(None) };
    let damage = match state.embedding::<LayerReport>() {
        Ok(Some(_)) => {
            work.progress.resume(1);
            return Ok(None);
        }
        Ok(None) => None,
        Err(file) => Some(format!(
            "{}: this file of the unfinished run is damaged; the token embedding was done again",
            file.display()
        )),
    };
    let on_gpu = target.plan.embedding_on.as_ref();
    let fallback = match solved(target, model, (state, work), layer, on_gpu) {
        // Where the GPU has less memory than was expected.
        Err(error) if on_gpu.is_some() && error.is_gpu_memory() => {
            solved(target, model, (state, work), layer, None)?;
            Some(format!("{error}; the token embedding was done on the CPU"))
        }
        Err(error) => return Err(error),
        Ok(()) => None,
    };
    work.progress.advance(1);
    Ok(match (damage, fallback) {
        (Some(damage), Some(fallback)) => Some(format!("{damage}; {fallback}")),
        (damage, fallback) => damage.or(fallback),
    })
}

/// Makes the embedding and keeps it, with gradients of a GPU or of the CPU.
fn solved(
    target: &Gguf<'_>,
    model: &Model,
    (state, work): (&State, Work<'_>),
    layer: &Layer,
    on_gpu: Option<&OnGpu>,
) -> Result<(), Error> {
    let started = Instant::now();
    work.progress.step(&layer.key);
    let row = &target.plan.rows()[layer.row];
    let gram = gram(target.plan, model, layer, on_gpu)?;
    let tokens = gram.tokens.unwrap_or(0);
    let rounding = rounding(target, row.to, gram, work)?;
    let bytes = row.to.row_bytes(layer.columns).unwrap_or(0);
    let kept =
        TensorPlan { name: layer.key.clone(), element_type: ElementType::U8, shape: vec![layer.rows, bytes] };
    let mut writer = group_writer(work.file, &[kept])?;
    let loss = target.solve_layer(layer, &rounding, None, work, &mut writer)?;
    writer.finish()?;
    let (prepared, fallback) = match rounding {
        Rounding::Feedback(prepared) => (Some(prepared), None),
        Rounding::Encoder { fallback, .. } => (None, fallback),
    };
    let report = LayerReport {
        tensor: row.name.clone(),
        expert: None,
        element_type: row.to.name().to_owned(),
        rows: layer.rows,
        columns: layer.columns,
        loss: prepared.as_ref().map(|_| loss),
        damp: prepared.as_ref().map_or(0.0, |p| p.damp()),
        tokens,
        dead_columns: prepared.as_ref().map_or(0, |p| p.dead()),
        seconds: started.elapsed().as_secs_f64(),
        fallback,
    };
    state.finish_embedding(BlockRecord { modules: vec![report], ..BlockRecord::default() })?;
    Ok(())
}

/// The best that can be known.
fn gram(plan: &GgufPlan<'_>, model: &Model, layer: &Layer, on_gpu: Option<&OnGpu>) -> Result<Gram, Error> {
    let tied = !plan.rows().iter().any(|row| row.name == "output.weight");
    let sample = Sample::of(&plan.calibration, layer.columns);
    let known = match gradients::gram(model, &sample, tied, on_gpu) {
        // The CPU takes longer heads than some GPUs.
        Err(quern_run::Error::NoGradients { .. }) if on_gpu.is_some() => {
            gradients::gram(model, &sample, tied, None)
        }
        known => known,
    };
    match known {
        Ok(gram) => Ok(gram),
        Err(quern_run::Error::NoGradients { .. } | quern_run::Error::NotFinite) => {
            let view: &View<'_> = plan.quantize.view;
            Ok(Gram { sum: readers::gram(model, view, layer.columns), tokens: None })
        }
        Err(other) => Err(other.into()),
    }
}

fn rounding(
    target: &Gguf<'_>,
    element_type: ElementType,
    gram: Gram,
    work: Work<'_>,
) -> Result<Rounding, Error> {
    let Gram { sum, tokens } = gram;
    let importance = importance::of_inputs(&sum, element_type)?;
    if !has_feedback(element_type) {
        return Ok(Rounding::Encoder { importance, fallback: None });
    }
    let damp = match tokens {
        Some(tokens) => target.damp(sum.columns(), tokens),
        None => target.plan.damp,
    };
    match Prepared::for_blocks(work.pool, sum, element_type, damp) {
        Ok(prepared) => Ok(Rounding::Feedback(Box::new(prepared))),
        Err(SolveError::Compute(error)) => Err(error.into()),
        Err(why) => Ok(Rounding::Encoder { importance, fallback: Some(why.to_string()) }),
    }
}
