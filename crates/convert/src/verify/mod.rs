//! Reads again what was written and compares it with the source.
//!
//! The output is opened as any checkpoint and read in the *source's* convention: what became GGUF is looked at as
//! Hugging Face would have it, and the other way round. So the comparison goes the way back, not the same way
//! twice, and packed layers are compared by the values that their own decoder gives.
//!
//! | stored as before | stored otherwise |
//! |---|---|
//! | the same bytes | the same values, or within half a step of the type they were rounded to |

mod compare;
mod order;
mod tokenizer;

use std::collections::{HashMap, HashSet};
use std::path::Path;

use quern_model::{Packed, Pair, TensorRole, View};
use quern_tensor_io::{Checkpoint, Container, Metadata, Progress, Result, pipeline};

use crate::plan::{Around, ConvertPlan, ConvertRow, Fidelity};
use compare::{Found, Rounded};
use order::Order;

/// What the comparison found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Verification {
    /// Tensors of the source that were compared.
    pub tensors: usize,
    /// Those of them whose values are all the same.
    pub exact: usize,
    /// The largest difference, and the tensor it is in; `None` if there is none at all.
    pub largest: Option<(f32, String)>,
    /// What is not as it should be; empty if the output is right.
    pub mismatches: Vec<Mismatch>,
    /// What the output's format has no place for, and so cannot be otherwise.
    pub notes: Vec<String>,
}

/// Something in the output that is not what the source has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// The source's tensor; `None` for what is about the whole file.
    pub tensor: Option<String>,
    /// What is wrong.
    pub what: String,
}

impl Verification {
    /// Whether the output is right.
    pub fn passed(&self) -> bool {
        self.mismatches.is_empty()
    }

    fn wrong(&mut self, tensor: Option<&str>, what: impl Into<String>) {
        self.mismatches.push(Mismatch { tensor: tensor.map(str::to_owned), what: what.into() });
    }
}

/// Compares `output`, which [`crate::run`] wrote for `plan`, with the source.
///
/// Progress is counted in bytes of the output's tensors, as the job's.
///
/// # Errors
/// The threads cannot be started, or the source can no longer be read. Whatever is wrong with the output is a
/// [`Mismatch`].
pub fn verify(plan: &ConvertPlan<'_>, output: &Path, progress: &dyn Progress) -> Result<Verification> {
    let pool = pipeline::pool(plan.options.threads, output)?;
    let mut found = Verification::default();
    // Any part leads to all.
    let file = plan.files(output)?.swap_remove(0).0;
    let written = match Checkpoint::open(&file) {
        Ok(mut written) => {
            // A folder names the architecture that its source names.
            if let Some(name) = plan.source().stated_architecture() {
                written.state_architecture(name);
            }
            written
        }
        Err(e) => {
            found.wrong(None, format!("it cannot be opened again: {e}"));
            return Ok(found);
        }
    };
    let source = source_view(plan)?;
    let back = match back_view(&written, &source) {
        Ok(back) => back,
        Err(e) => {
            found.wrong(None, format!("it cannot be read as a model: {e}"));
            return Ok(found);
        }
    };
    if let Around::Gguf(metadata) = &plan.around {
        compare_metadata(metadata, written.metadata(), &mut found);
    }
    if let (Around::Directory(_), Container::Gguf) = (&plan.around, plan.source().container()) {
        tokenizer::compare(plan.source().metadata(), back.metadata(), &mut found);
    }
    let pairs = pairs(plan, &source, &back, &mut found);
    let orders = order::orders(plan);
    for ((pair, _), one) in pairs.iter().zip(compare::all(&source, &back, &pairs, &orders, &pool, progress)) {
        let name = &source.tensors()[pair.a].name;
        found.tensors += 1;
        match one {
            Found::Exact => found.exact += 1,
            Found::Near(error) => {
                if found.largest.as_ref().is_none_or(|(largest, _)| error > *largest) {
                    found.largest = Some((error, name.clone()));
                }
            }
            Found::Wrong(what) => found.wrong(Some(name), what),
        }
    }
    [plan.source(), &written].into_iter().try_for_each(Checkpoint::check_files)?;
    Ok(found)
}

/// The source as it is stored, packed layers decoded. What becomes a GGUF file goes by the architecture's names,
/// whatever prefix the source has, as the output does on the way back.
fn source_view<'a>(plan: &ConvertPlan<'a>) -> Result<View<'a>> {
    let source = plan.source();
    match (source.container(), &plan.around) {
        (Container::Gguf, _) => View::gguf(source, Packed::Refused),
        (Container::Safetensors | Container::PyTorch, Around::Gguf(_)) => View::for_files(source),
        (Container::Safetensors | Container::PyTorch, Around::Directory(_)) => {
            View::hugging_face(source, Packed::Decoded)
        }
    }
}

/// The output, read in the source's convention.
fn back_view<'a>(written: &'a Checkpoint, source: &View<'_>) -> Result<View<'a>> {
    match (source.checkpoint().container(), source.config()) {
        (Container::Gguf, _) => View::gguf(written, Packed::Refused),
        (Container::Safetensors | Container::PyTorch, Some(config)) => {
            View::hugging_face_as(written, Packed::Decoded, config.architecture)
        }
        (Container::Safetensors | Container::PyTorch, None) => View::hugging_face(written, Packed::Decoded),
    }
}

/// Tensors of the same name; what one side alone has is wrong, unless every reader computes it.
fn pairs(
    plan: &ConvertPlan<'_>,
    source: &View<'_>,
    back: &View<'_>,
    found: &mut Verification,
) -> Vec<Rounded> {
    let numbers: HashMap<&str, usize> =
        back.tensors().iter().enumerate().map(|(i, t)| (t.name.as_str(), i)).collect();
    let rows = plan.rows().iter().flat_map(|r| r.sources.iter().map(move |name| (name.as_str(), r)));
    let rows: HashMap<&str, &ConvertRow> = rows.collect();
    let mut pairs = Vec::with_capacity(source.tensors().len());
    let mut met = HashSet::new();
    for (index, tensor) in source.tensors().iter().enumerate() {
        let name = tensor.name.as_str();
        met.insert(name);
        match numbers.get(name) {
            Some(&number) if back.tensors()[number].shape == tensor.shape => {
                let row = tensor.sources.iter().find_map(|source| rows.get(source.as_str()));
                let rounded = row.or(rows.get(name)).filter(|row| row.fidelity == Fidelity::Lossy);
                pairs.push((Pair { a: index, b: number }, rounded.map(|row| row.to)));
            }
            Some(&number) => {
                let (was, is) = (&tensor.shape, &back.tensors()[number].shape);
                found.wrong(Some(name), format!("its shape was {was:?} and is {is:?}"));
            }
            None => found.wrong(Some(name), "it is missing"),
        }
    }
    for tensor in back.tensors().iter().filter(|t| !met.contains(t.name.as_str())) {
        // Found in the configuration where the source has them in a tensor, or the other way round.
        let computed = [TensorRole::RopeFactors, TensorRole::RopeFactorsLong, TensorRole::RopeFactorsShort];
        if !tensor.role.is_some_and(|role| computed.contains(&role)) {
            found.wrong(Some(&tensor.name), "the source has no such tensor");
        }
    }
    pairs
}

fn compare_metadata(planned: &Metadata, written: &Metadata, found: &mut Verification) {
    for (key, value) in planned.iter() {
        if written.get(key) != Some(value) {
            found.wrong(None, format!("the metadata key {key:?} has another value"));
        }
    }
    for (key, _) in written.iter().filter(|(key, _)| !key.starts_with("split.")) {
        if planned.get(key).is_none() {
            found.wrong(None, format!("the metadata key {key:?} was not to be written"));
        }
    }
}

/// The orders of rows and columns, by the name of the source's tensor.
type Orders = HashMap<String, Order>;
