//! What a checkpoint holds, matched once against what its configuration demands: the one list that `inspect`,
//! `convert`, `run` and every quantizer read.
//!
//! ```text
//! tensors of the file ──names.rs──> names of the architecture ──┬─ demanded ──> HeldTensor (where its rows are)
//!                                                               ├─ harmless ──> LeftOut    (masks, buffers, zeros)
//!                                                               └─ neither  ──> Problem
//! demanded, but not in the file, or of another shape ─────────────────────────> Problem
//! ```
//!
//! A tensor is never dropped in silence: it is used, left out because it changes no result (with a note), or
//! refused.

mod extras;
mod matcher;
mod names;
mod place;
mod problem;

use std::collections::HashSet;
use std::path::Path;

use quern_tensor_io::scheme::Packing;
use quern_tensor_io::{Checkpoint, Error, Remedy, Result};

use crate::Config;
use crate::config::ExpectedTensor;

pub use extras::{Extra, LeftOut};
pub use place::{Place, Span, Woven};
pub use problem::{Problem, ProblemKind};

use extras::Extras;
use matcher::{Found, Item, Matcher};
use names::Names;

/// A checkpoint, matched against its configuration.
#[derive(Debug)]
pub struct Contents<'a> {
    checkpoint: &'a Checkpoint,
    config: Config,
    packing: Option<Packing>,
    tensors: Vec<HeldTensor>,
    left_out: Vec<LeftOut>,
    problems: Vec<Problem>,
}

/// A tensor that the configuration demands or allows, and where the checkpoint has it.
#[derive(Clone, Debug)]
pub struct HeldTensor {
    /// What was asked for; its name is the architecture's, which the file may spell with another prefix.
    pub expected: ExpectedTensor,
    /// Where it is.
    pub place: Place,
}

impl<'a> Contents<'a> {
    /// Reads the configuration and the packed layers of `checkpoint` and matches its tensors.
    ///
    /// # Errors
    /// A configuration or a quantization that cannot be read. Tensors that are missing, unknown or of a wrong shape
    /// are no error here: see [`Contents::problems`] and [`Contents::require_sound`].
    pub fn read(checkpoint: &'a Checkpoint) -> Result<Self> {
        let config = Config::from_checkpoint(checkpoint)?;
        let packing = Packing::read(checkpoint)?;
        if let (Some(method), None) = (&config.quantization, &packing) {
            let what = format!(
                "config.json says the weights are quantized with {method}, but no quantized layer is there that \
                 quern reads; start from the original weights"
            );
            return Err(Error::unsupported(checkpoint.path(), what));
        }
        Ok(Self::matched(checkpoint, config, packing))
    }

    /// As [`Contents::read`], with a configuration and packed layers that were read before.
    pub fn matched(checkpoint: &'a Checkpoint, config: Config, packing: Option<Packing>) -> Self {
        let expected = config.expected_tensors(config.convention);
        let names = Names::new(&config, &expected);
        let found = Found::new(checkpoint, packing.as_ref(), &names);
        let mut matcher =
            Matcher { checkpoint, config: &config, packing: packing.as_ref(), found, used: HashSet::new() };
        let (mut tensors, mut problems) = (Vec::with_capacity(expected.len()), Vec::new());
        for want in expected {
            match matcher.place(&want) {
                Ok(Some(place)) => tensors.push(HeldTensor { expected: want, place }),
                Ok(None) if want.optional => {}
                Ok(None) => problems.push(Problem::missing(checkpoint, &want)),
                Err(problem) => problems.push(problem),
            }
        }
        let used = matcher.used;
        let extras = Extras::new(checkpoint, &config, packing.as_ref(), &names, &tensors);
        let left_out = extras.classify(&used, &mut problems);
        Self { checkpoint, config, packing, tensors, left_out, problems }
    }

    /// The checkpoint.
    pub fn checkpoint(&self) -> &'a Checkpoint {
        self.checkpoint
    }

    /// Its configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Its packed layers, where it has such.
    pub fn packing(&self) -> Option<&Packing> {
        self.packing.as_ref()
    }

    /// The tensors found, in the architecture's order.
    pub fn tensors(&self) -> &[HeldTensor] {
        &self.tensors
    }

    /// Number of values in them; of packed layers, of the weights they stand for.
    pub fn parameters(&self) -> u64 {
        let values = |t: &HeldTensor| t.expected.shape.iter().map(|&d| d as u64).product::<u64>();
        self.tensors.iter().map(values).sum()
    }

    /// What the file holds beyond them that changes no result.
    pub fn left_out(&self) -> &[LeftOut] {
        &self.left_out
    }

    /// What is missing, misshapen or not part of such a model.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// One sentence on what is left out; `None` if nothing is.
    pub fn note(&self) -> Option<String> {
        extras::note(self.checkpoint, &self.left_out)
    }

    /// Refuses a checkpoint with [`Contents::problems`].
    ///
    /// # Errors
    /// The first problem, with the number of others.
    pub fn require_sound(&self) -> Result<()> {
        problem::first(self.checkpoint, &self.problems)
    }

    /// How the weights are quantized (`gptq`, `nf4`, `q4_K` …); `None` where they are plain numbers, or as the model was
    /// released (FP8).
    pub fn quantized_with(&self) -> Option<String> {
        quantized_with(self.checkpoint, &self.config, self.packing.as_ref())
    }

    /// Refuses a checkpoint whose weights are quantized.
    ///
    /// # Errors
    /// It is, with the method.
    pub fn refuse_quantized(&self) -> Result<()> {
        match self.quantized_with() {
            None => Ok(()),
            Some(method) => Err(already_quantized(self.checkpoint.path(), &method)),
        }
    }

    /// The packed layers, where the checkpoint has such.
    pub fn into_packing(self) -> Option<Packing> {
        self.packing
    }

    /// Takes it apart.
    pub(crate) fn into_parts(self) -> (Config, Option<Packing>, Vec<HeldTensor>) {
        (self.config, self.packing, self.tensors)
    }
}

/// The refusal to quantize once more what is quantized with `method`.
pub fn already_quantized(file: &Path, method: &str) -> Error {
    let what = format!(
        "the weights are already quantized with {method}, and quantizing them again would lose more quality"
    );
    Error::refused(file, what).with_remedy(Remedy::AllowRequantize)
}

/// How a checkpoint's weights are quantized; `None` where they are as the model was released.
fn quantized_with(checkpoint: &Checkpoint, config: &Config, packing: Option<&Packing>) -> Option<String> {
    if packing.is_some_and(Packing::is_as_released) {
        return None;
    }
    // MLX's configurations name no method.
    if let Some(method) = config.quantization.as_ref().filter(|method| *method != "unknown") {
        return Some(method.clone());
    }
    if let Some(packing) = packing.filter(|p| !p.layers().is_empty()) {
        return Some(packing.scheme().name().to_owned());
    }
    let block = checkpoint.tensors().iter().map(|t| t.element_type).find(|t| t.is_block());
    block.map(|t| t.name().to_owned())
}
