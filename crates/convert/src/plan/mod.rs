//! The plan: what becomes of every tensor, before anything is written.

mod directory;
mod gguf;
mod labels;
mod packed;

use std::path::{Path, PathBuf};

use quern_model::{View, ViewTensor};
use quern_tensor_io::gguf::Writer;
use quern_tensor_io::scheme::{CodeFormat, Inexact, Packing};
use quern_tensor_io::{Checkpoint, ElementType, Error, Metadata, Remedy, Result, TensorPlan, decode};

use crate::cast;
use crate::{Options, Target};

/// Whether numbers change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fidelity {
    /// Every value stays what it is.
    Exact,
    /// Values are rounded to the new type.
    Lossy,
}

/// What becomes of one tensor: a row of the dry-run table.
#[derive(Clone, Debug)]
pub struct ConvertRow {
    /// Its name in the output.
    pub name: String,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// How the source stores it: an element type, or a scheme and its bits (`gptq 4-bit`).
    pub from: String,
    /// How the output stores it.
    pub to: ElementType,
    /// Whether numbers change.
    pub fidelity: Fidelity,
    /// What the target's convention does to the numbers themselves (`plus one`); `None` if nothing.
    pub changed: Option<&'static str>,
    /// The source's tensors it is made of; none for what is computed from the configuration.
    pub sources: Vec<String>,
    /// Bytes in the output.
    pub bytes: u64,
    pub(crate) content: Content,
}

/// Where a row's bytes come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// The view's tensor of this number.
    View(usize),
    /// One of the tensors of the packed layer of this number.
    Packed { layer: usize, part: usize },
}

/// What stands around the tensors.
#[derive(Debug)]
pub(crate) enum Around {
    Gguf(Metadata),
    Directory(Directory),
}

/// The files beside the tensors of a Hugging Face directory.
#[derive(Debug)]
pub(crate) struct Directory {
    /// The text of `config.json`.
    pub config: String,
    /// Other files: name and content.
    pub files: Vec<(String, Vec<u8>)>,
    /// Whether the source's other small files are copied.
    pub companions: bool,
}

/// A conversion, ready to run.
#[derive(Debug)]
pub struct ConvertPlan<'a> {
    pub(crate) view: View<'a>,
    /// The packed layers that are repacked.
    pub(crate) packing: Option<Packing>,
    pub(crate) around: Around,
    pub(crate) options: Options,
    rows: Vec<ConvertRow>,
    notes: Vec<String>,
}

impl<'a> ConvertPlan<'a> {
    /// One row a tensor, in the order they are written.
    pub fn rows(&self) -> &[ConvertRow] {
        &self.rows
    }

    /// What the user should know.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// What is converted.
    pub fn source(&self) -> &'a Checkpoint {
        self.view.checkpoint()
    }

    /// The metadata the output will carry, where it is a GGUF file.
    pub fn metadata(&self) -> Option<&Metadata> {
        match &self.around {
            Around::Gguf(metadata) => Some(metadata),
            Around::Directory(_) => None,
        }
    }

    /// Bytes of all tensors in the output: the total of the job's progress.
    pub fn tensor_bytes(&self) -> u64 {
        self.rows.iter().map(|r| r.bytes).sum()
    }

    /// Rows whose numbers are rounded.
    pub fn lossy(&self) -> usize {
        self.rows.iter().filter(|r| r.fidelity == Fidelity::Lossy).count()
    }

    /// The files that tensors will be in, with their sizes where they are known beforehand: of a directory only
    /// the directory and the bytes of its tensors.
    ///
    /// # Errors
    /// The output cannot be written as asked (names of parts, sizes).
    pub fn files(&self, output: &Path) -> Result<Vec<(PathBuf, u64)>> {
        match (&self.around, &self.options.split) {
            (Around::Directory(_), _) => Ok(vec![(output.to_path_buf(), self.tensor_bytes())]),
            (Around::Gguf(metadata), None) => {
                let named = |e: Error| Error { file: output.to_path_buf(), ..e };
                let size = Writer::file_size(metadata, &self.tensors()).map_err(named)?;
                Ok(vec![(output.to_path_buf(), size)])
            }
            (Around::Gguf(metadata), Some(split)) => {
                let parts = split.parts(&prefix(output), metadata, &self.tensors())?;
                Ok(parts.into_iter().map(|p| (p.path, p.file_size)).collect())
            }
        }
    }

    /// The format that packed layers are written in, if they are.
    pub(crate) fn code_format(&self) -> Option<CodeFormat> {
        match self.options.target {
            Target::Packed(format) => Some(format),
            Target::Gguf | Target::Safetensors => None,
        }
    }

    pub(crate) fn tensors(&self) -> Vec<TensorPlan> {
        let planned =
            |r: &ConvertRow| TensorPlan { name: r.name.clone(), element_type: r.to, shape: r.shape.clone() };
        self.rows.iter().map(planned).collect()
    }
}

/// What a plan says of its output: for provenance.
pub(crate) fn figures(view: &View<'_>, rows: &[ConvertRow]) -> [(&'static str, f64); 2] {
    let bytes = rows.iter().map(|r| r.bytes).sum::<u64>() as f64;
    let weights = view.tensors().iter().map(|t| (t.rows() * t.columns()) as f64).sum::<f64>();
    [("bits_per_weight", if weights > 0.0 { bytes * 8.0 / weights } else { 0.0 }), ("tensor_bytes", bytes)]
}

/// The path of a split file less what the parts' names end with.
pub(crate) fn prefix(output: &Path) -> PathBuf {
    match output.extension() {
        Some(end) if end.eq_ignore_ascii_case("gguf") => output.with_extension(""),
        _ => output.to_path_buf(),
    }
}

/// Plans a conversion. Reads headers, small tensors and what decides whether packed layers have an exact form.
///
/// # Errors
/// The source cannot become the target, with the reason and what to do instead; metadata that cannot be edited as
/// asked.
pub fn plan(checkpoint: &Checkpoint, options: Options) -> Result<ConvertPlan<'_>> {
    match options.target {
        Target::Gguf => gguf::plan(checkpoint, options),
        Target::Safetensors => directory::plan(checkpoint, options),
        Target::Packed(format) => packed::plan(checkpoint, options, format),
    }
}

/// The row of the view's tensor `index`, stored as `to`.
fn row(view: &View<'_>, index: usize, to: ElementType) -> Result<ConvertRow> {
    let tensor = &view.tensors()[index];
    let from = tensor.element_type;
    if from != to && !decode::can_decode(from) {
        let what = format!("{from} cannot be decoded, so it cannot become {to}");
        let error = Error::unsupported(view.checkpoint().path(), what).with_remedy(Remedy::KeepDtype);
        return Err(about(view, tensor, error));
    }
    let Some(row_bytes) = to.row_bytes(tensor.columns()) else {
        let what = format!("its rows of {} values are not whole blocks of {to}", tensor.columns());
        return Err(about(view, tensor, Error::unsupported(view.checkpoint().path(), what)));
    };
    let packed = view.packed_layers(tensor);
    let fits = !packed.is_empty() && packed.iter().all(|layer| layer.always_fits(to));
    Ok(ConvertRow {
        name: tensor.name.clone(),
        shape: tensor.shape.clone(),
        from: view.stored_as(tensor),
        to,
        fidelity: if fits || cast::holds(from, to) { Fidelity::Exact } else { Fidelity::Lossy },
        changed: tensor.changed,
        sources: tensor.sources.clone(),
        bytes: row_bytes as u64 * tensor.rows() as u64,
        content: Content::View(index),
    })
}

/// The error, naming the source's tensor and its file.
pub(crate) fn about(view: &View<'_>, tensor: &ViewTensor, error: Error) -> Error {
    let checkpoint = view.checkpoint();
    let name = tensor.sources.first().unwrap_or(&tensor.name);
    let file = checkpoint.tensor(name).map(|t| checkpoint.file_of(t.info).to_path_buf());
    let file = file.unwrap_or_else(|| error.file.clone());
    Error { file, ..error }.with_tensor(name)
}

/// The error for a packed layer that the target cannot hold.
pub(crate) fn inexact(checkpoint: &Checkpoint, e: &Inexact) -> Error {
    Error::unsupported(checkpoint.path(), format!("{}; {}", e.why, e.remedy)).with_tensor(&e.layer)
}

/// The type that most bytes of some rows have.
fn most<'r>(rows: impl Iterator<Item = &'r ConvertRow>) -> Option<ElementType> {
    let mut sums: Vec<(ElementType, u64)> = Vec::new();
    for row in rows {
        match sums.iter_mut().find(|(t, _)| *t == row.to) {
            Some((_, sum)) => *sum += row.bytes,
            None => sums.push((row.to, row.bytes)),
        }
    }
    // The first of equals.
    let largest = sums.iter().map(|(_, sum)| *sum).max()?;
    sums.into_iter().find(|(_, sum)| *sum == largest).map(|(t, _)| t)
}
