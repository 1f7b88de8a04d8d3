//! The one naming in which two checkpoints are compared.
//!
//! | A and B | naming |
//! |---|---|
//! | both GGUF | GGUF's, which needs no description of the architecture |
//! | both Hugging Face | Hugging Face's; GGUF's where one keeps its matrices transposed (GPT-2) and the other does not |
//! | one of each | GGUF's: a converter computes in that direction, so its numbers are met bit for bit |
//! | one of each or both Hugging Face, architecture unknown | the names in the files |

use std::collections::HashMap;

use quern_model::architecture::{Convention, Layout};
use quern_model::contents::{Extra, Place};
use quern_model::{Config, Contents, Packed, TensorRole, View};
use quern_tensor_io::scheme::{Packing, Scheme};
use quern_tensor_io::{Checkpoint, Container, Result};
use serde::Serialize;

/// Whose names, shapes and layouts are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Naming {
    /// Hugging Face's.
    HuggingFace,
    /// GGUF's.
    Gguf,
    /// Those in the files, without a description of the architecture.
    Files,
}

/// One of the two checkpoints.
pub(super) struct Side<'a> {
    pub view: View<'a>,
    /// The tensors that change no result, by their names in the file.
    pub extras: HashMap<String, Extra>,
}

/// Both checkpoints in one naming.
pub(super) struct Views<'a, 'b> {
    pub a: Side<'a>,
    pub b: Side<'b>,
    pub naming: Naming,
    pub notes: Vec<String>,
}

impl<'a, 'b> Views<'a, 'b> {
    pub fn new(a: &'a Checkpoint, b: &'b Checkpoint) -> Result<Self> {
        let mut notes = Vec::new();
        let (of_a, of_b) = (contents(a, "A", &mut notes)?, contents(b, "B", &mut notes)?);
        let gguf = |checkpoint: &Checkpoint| checkpoint.container() == Container::Gguf;
        let naming = match (&of_a, &of_b) {
            _ if gguf(a) && gguf(b) => Naming::Gguf,
            (Some(_), Some(_)) if gguf(a) || gguf(b) => Naming::Gguf,
            (Some(of_a), Some(of_b)) if packed_transposed(of_a) != packed_transposed(of_b) => Naming::Gguf,
            (Some(_), Some(_)) => Naming::HuggingFace,
            (None, _) | (_, None) => Naming::Files,
        };
        if naming == Naming::Files && gguf(a) != gguf(b) {
            notes.push(
                "one model has GGUF's names, the other Hugging Face's, and quern has no description of the \
                 architecture: tensors are matched by the names they have in the files"
                    .into(),
            );
        }
        let (a, b) = (Side::new(a, of_a, naming)?, Side::new(b, of_b, naming)?);
        let a = a.sorted_like(&b.view)?;
        let b = b.sorted_like(&a.view)?;
        for (name, side) in [("A", &a), ("B", &b)] {
            notes.extend(side.view.notes().iter().map(|note| format!("{name}: {note}")));
        }
        Ok(Self { a, b, naming, notes })
    }
}

impl<'a> Side<'a> {
    fn new(checkpoint: &'a Checkpoint, contents: Option<Contents<'a>>, naming: Naming) -> Result<Self> {
        let Some(contents) = contents.filter(|_| naming != Naming::Files) else {
            let view = match checkpoint.container() {
                Container::Gguf => View::gguf(checkpoint, Packed::Refused)?,
                Container::Safetensors | Container::PyTorch => {
                    View::hugging_face(checkpoint, Packed::Decoded)?
                }
            };
            return Ok(Self { view, extras: HashMap::new() });
        };
        let extras = contents.left_out().iter();
        let extras =
            extras.map(|left| (checkpoint.tensors()[left.tensor].name.clone(), left.reason)).collect();
        let view = match (naming, contents.config().convention) {
            (Naming::Gguf, Convention::HuggingFace) => View::everything_as_gguf(contents, Packed::Decoded)?,
            (Naming::Gguf | Naming::HuggingFace | Naming::Files, _) => View::everything(contents),
        };
        Ok(Self { view, extras })
    }
}

impl<'a> Side<'a> {
    /// The same side with the columns of act-order layers sorted by group, if the other has them so.
    ///
    /// GGUF has no place for an order of columns: a converter sorts those of a down projection, and the rows of what
    /// comes before it with them. A file that was made of the decoded layers has them as they were. A few rows of the
    /// first such layer show which it is.
    fn sorted_like(self, other: &View<'_>) -> Result<Self> {
        let checkpoint = self.view.checkpoint();
        let scheme = self.view.packing().map(Packing::scheme);
        let act_order = matches!(
            scheme,
            Some(Scheme::Gptq { act_order: true, .. } | Scheme::CompressedTensors { act_order: true, .. })
        );
        let translated =
            self.view.convention() == Convention::Gguf && checkpoint.container() != Container::Gguf;
        let config = self.view.config().filter(|_| act_order && translated).cloned();
        let Some(config) = config else { return Ok(self) };
        let contents = Contents::matched(checkpoint, config, Packing::read(checkpoint)?);
        let Ok(sorted) = View::everything_as_gguf(contents, Packed::Exact) else { return Ok(self) };
        let nearer = match (sampled_error(&sorted, other), sampled_error(&self.view, other)) {
            (Some(sorted), Some(stored)) => sorted < stored,
            _ => false,
        };
        Ok(if nearer { Self { view: sorted, ..self } } else { self })
    }
}

/// The sum of squared errors over the first rows of the first packed down projection.
fn sampled_error(view: &View<'_>, other: &View<'_>) -> Option<f64> {
    const ROWS: usize = 8;
    let of_view = view.tensors().iter().position(|t| t.packed && t.role == Some(TensorRole::FfnDown))?;
    let tensor = &view.tensors()[of_view];
    let of_other = other.tensors().iter().position(|t| t.name == tensor.name && t.shape == tensor.shape)?;
    let rows = tensor.rows().min(ROWS);
    let mut a = vec![0.0f32; rows * tensor.columns()];
    let mut b = a.clone();
    let decoded = view.decode(of_view, 0..rows, &mut a) && other.decode(of_other, 0..rows, &mut b);
    let error = |(a, b): (&f32, &f32)| (f64::from(*a) - f64::from(*b)).powi(2);
    decoded.then(|| a.iter().zip(&b).map(error).sum())
}

/// The checkpoint matched with its configuration; `None`, with a note, if quern has no description of it.
fn contents<'a>(
    checkpoint: &'a Checkpoint,
    side: &str,
    notes: &mut Vec<String>,
) -> Result<Option<Contents<'a>>> {
    let config = match Config::from_checkpoint(checkpoint) {
        Ok(config) => config,
        Err(e) => {
            notes.push(format!("{side}: {e}; tensors are matched by name"));
            return Ok(None);
        }
    };
    Ok(Some(Contents::matched(checkpoint, config, Packing::read(checkpoint)?)))
}

/// Whether packed layers are stored the usual way round where the architecture has them transposed.
fn packed_transposed(contents: &Contents<'_>) -> bool {
    let is = |place: &Place| place.packed_layer().is_some();
    contents.tensors().iter().any(|t| is(&t.place) && t.expected.template.layout == Layout::Transposed)
}
