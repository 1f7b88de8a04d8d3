//! From tokens to the residual stream, on the CPU.

use std::sync::{Mutex, PoisonError};

use quern_compute::parallel::share;
use quern_compute::{Executor, Input, Output, ValuesMut, get_row, ops};
use quern_model::architecture::Position;

use crate::weights::Weight;
use crate::{Model, Result};

/// What the first block receives, computed on the CPU: `out` is `[tokens][hidden]`.
pub(crate) fn embed(model: &Model, tokens: &[u32], first: usize, out: &mut [f32]) -> Result<()> {
    embed_from(model, &model.weights.embedding, tokens, first, out)
}

/// The same with another table of embeddings.
pub(crate) fn embed_from(
    model: &Model,
    embedding: &Weight,
    tokens: &[u32],
    first: usize,
    out: &mut [f32],
) -> Result<()> {
    let (config, weights) = (&model.config, &model.weights);
    let embedding = embedding.host()?;
    match &weights.embedding_in {
        None => {
            let rows = tokens.iter().zip(out.chunks_exact_mut(config.hidden_size));
            let failure = Mutex::new(None);
            let row = |(&token, x): (&u32, &mut [f32])| {
                if let Err(error) = get_row(&embedding, token as usize, x) {
                    *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                }
            };
            match tokens.len() {
                0..=16 => rows.for_each(row),
                _ => share(&model.pool, rows, row),
            }
            if let Some(error) = failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
                return Err(error.into());
            }
        }
        Some(projection) => {
            let mut narrow = vec![0.0; tokens.len() * config.embedding_size];
            for (&token, x) in tokens.iter().zip(narrow.chunks_exact_mut(config.embedding_size)) {
                get_row(&embedding, token as usize, x)?;
            }
            let mut executor = Executor::new(&model.cpu())?;
            let output = Output::Store([ValuesMut::Host(&mut *out)]);
            executor.linear([&projection.op], Input::Values(narrow[..].into()), output)?;
        }
    }
    // The residual stream is kept divided by the multiplier of what is added to it (`Lookup::stream_norm`).
    let scale = config.embedding_scale() / config.residual_multiplier;
    if scale != 1.0 {
        out.iter_mut().for_each(|x| *x *= scale);
    }
    if let (Some(positions), Position::Learned { offset }) =
        (&weights.positions, config.architecture.position)
    {
        let table = positions.host()?;
        let mut row = vec![0.0; config.hidden_size];
        for (at, x) in out.chunks_exact_mut(config.hidden_size).enumerate() {
            get_row(&table, first + at + offset, &mut row)?;
            ops::add(model.pool.level(), x, &row);
        }
    }
    Ok(())
}
