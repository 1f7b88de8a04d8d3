//! The end of the forward pass: from the residual stream to logits.

use quern_compute::{Input, Output, Values, ValuesMut};

use crate::{Model, Observer, Result};

use super::phases::Watch;
use super::{Batch, Workspace, phases};

/// Where the logits of a batch go.
#[derive(Debug)]
pub(crate) enum LogitsTo<'l> {
    /// To RAM: `[tokens - keep][vocab]`, empty if there are none.
    Ram(&'l mut [f32]),
    /// They stay in the buffer of the GPU that has the head, from this value on; there is room for them.
    Gpu(usize),
}

impl LogitsTo<'_> {
    /// The value of a GPU's buffer from which on they are written.
    pub(super) fn start(&self) -> usize {
        match self {
            Self::Ram(_) => 0,
            Self::Gpu(start) => *start,
        }
    }
}

/// What the head, or the projection in front of it, makes of the residual stream.
fn head_input<'a>(model: &'a Model, x: Values<'a>) -> Input<'a> {
    match &model.weights.output_norm {
        Some(norm) => Input::Norm(norm, x),
        None => Input::Values(x),
    }
}

/// From the residual stream to logits.
pub(super) fn head(
    model: &Model,
    work: &mut Workspace,
    observer: Option<&mut dyn Observer>,
    batch: Batch<'_>,
    logits: &mut LogitsTo<'_>,
) -> Result<()> {
    let (config, weights) = (&model.config, &model.weights);
    let Batch { n, keep, .. } = batch;
    let (hidden, vocabulary) = (config.hidden_size, config.vocab_size);
    let Workspace { executor, x, projected, logits: buffer, seen, .. } = work;
    if config.streams > 1 {
        super::streams::merge(model, executor, x.front_mut(n * config.stream_width()).host()?)?;
    }
    let watch = &mut observer.map(|observer| Watch { observer, seen });
    let x = x.front(n * hidden).slice(keep * hidden..n * hidden);
    let mut input = head_input(model, x);
    if let Some(out) = &weights.embedding_out {
        let values = (n - keep) * config.embedding_size;
        phases::linear(executor, watch, [out], input, Output::Store([projected.front_mut(values)]))?;
        input = Input::Values(projected.front(values));
    }
    // On the CPU straight to where they are wanted.
    let mut out = match logits {
        LogitsTo::Ram(logits) if executor.pool().is_some() => ValuesMut::Host(logits),
        LogitsTo::Ram(_) | LogitsTo::Gpu(_) => {
            let (start, length) = (logits.start(), (n - keep) * vocabulary);
            buffer.front_mut(start + length).slice(start..start + length)
        }
    };
    phases::linear(executor, watch, [&weights.output], input, Output::Store([out.reborrow()]))?;
    if let Some(cap) = config.final_softcap {
        executor.softcap(out.reborrow(), vocabulary, cap)?;
    }
    Ok(())
}
