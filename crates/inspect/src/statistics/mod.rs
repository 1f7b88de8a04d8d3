//! Statistics of a model's values, in one pass over them: extremes, moments, histograms, percentiles, input channels that
//! stand out.
//!
//! ```text
//! View ──pass──> Values of each tensor ─┬─> TensorStatistics   the figures of one tensor
//!                                       └─> KindStatistics     joined for all tensors of a kind
//! ```
//!
//! A packed layer is measured as the weight it decodes to. Only figures are kept of a tensor, and histograms of a bounded
//! number of kinds, so memory does not grow with the model.

mod channels;
mod histogram;
mod kinds;
mod magnitudes;
mod moments;
mod pass;
mod select;
mod values;

use quern_model::contents::Place;
use quern_model::{Packed, View, ViewTensor};
use quern_tensor_io::{Checkpoint, Container, Progress, Result};
use serde::Serialize;

pub use channels::{Channel, OUTLIER, Outliers};
pub use histogram::{Bins, Histogram};
pub use select::{Selection, TensorHistogram, select};
pub use values::ValueSummary;

use kinds::{Kind, Kinds};
use pass::Target;
use values::Values;

/// So many kinds are kept apart; all others are one.
const MOST_KINDS: usize = 64;

/// What the kinds beyond [`MOST_KINDS`] are called together.
const OTHER: &str = "other";

/// Statistics of a model.
#[derive(Debug, Serialize)]
pub struct Statistics {
    /// Of every tensor, in file order; a packed layer is one.
    pub tensors: Vec<TensorStatistics>,
    /// Of every kind of tensor, in the architecture's order.
    pub kinds: Vec<KindStatistics>,
    /// What a reader should know: packed layers that could not be read and the like.
    pub notes: Vec<String>,
}

/// Statistics of one tensor.
#[derive(Debug, Serialize)]
pub struct TensorStatistics {
    /// Name in the file; of a packed layer the name its weight would have.
    pub name: String,
    /// Its kind: GGUF's name without layer and ending.
    pub kind: String,
    /// Its layer; `None` outside the blocks.
    pub layer: Option<usize>,
    /// How it is stored: an element type, or the scheme of a packed layer.
    #[serde(rename = "type")]
    pub element_type: String,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// Bytes in the files.
    pub bytes: u64,
    /// Number of values.
    pub parameters: u64,
    /// The figures; `None` for a type that quern does not decode, and for a tensor without finite values.
    pub values: Option<ValueSummary>,
    /// Input channels that stand out, of the matrix of a linear layer.
    pub outliers: Option<Outliers>,
}

/// Statistics of all tensors of a kind.
#[derive(Debug, Serialize)]
pub struct KindStatistics {
    /// The kind.
    pub kind: String,
    /// Number of tensors.
    pub tensors: usize,
    /// Bytes in the files.
    pub bytes: u64,
    /// Number of values.
    pub parameters: u64,
    /// The figures of all of them together.
    pub values: Option<ValueSummary>,
    /// Their histogram.
    #[serde(skip)]
    pub histogram: Histogram,
}

/// Bits per value of so many bytes.
pub fn bits_per_weight(bytes: u64, parameters: u64) -> f64 {
    if parameters == 0 { 0.0 } else { bytes as f64 * 8.0 / parameters as f64 }
}

impl TensorStatistics {
    /// Bits per value.
    pub fn bits_per_weight(&self) -> f64 {
        bits_per_weight(self.bytes, self.parameters)
    }
}

impl KindStatistics {
    /// Bits per value.
    pub fn bits_per_weight(&self) -> f64 {
        bits_per_weight(self.bytes, self.parameters)
    }
}

/// Reads every value of `checkpoint` once, on rayon's current threads, whose number changes no figure. Progress is in
/// bytes of tensor data.
///
/// # Errors
/// The checkpoint cannot be listed: see [`View::hugging_face`]. A file was cut or changed meanwhile.
pub fn statistics(checkpoint: &Checkpoint, progress: &dyn Progress) -> Result<Statistics> {
    let (view, notes) = own_view(checkpoint)?;
    let kinds = Kinds::of(checkpoint);
    let kinds: Vec<Kind> =
        view.tensors().iter().map(|t| kinds.kind(t.place, &t.name, t.shape.len())).collect();
    let target = |tensor: usize| Target {
        tensor,
        input: kinds[tensor].input,
        bytes: stored_bytes(&view, &view.tensors()[tensor]),
    };
    // In the order of the files, so that they are read from front to back.
    let targets: Vec<Target> = view.file_order().into_iter().map(target).collect();
    progress.total(targets.iter().map(|t| t.bytes).sum());
    let mut tensors = Vec::with_capacity(targets.len());
    let mut groups: Vec<(usize, KindStatistics, Values)> = Vec::new();
    pass::measure(&view, &targets, progress, |number, values| {
        let target = &targets[number];
        let (tensor, kind) = (&view.tensors()[target.tensor], &kinds[target.tensor]);
        let found = TensorStatistics {
            name: tensor.name.clone(),
            kind: kind.name.clone(),
            layer: kind.layer,
            element_type: view.stored_as(tensor),
            shape: tensor.shape.clone(),
            bytes: target.bytes,
            parameters: tensor.shape.iter().map(|&d| d as u64).product(),
            values: values.as_ref().and_then(Values::summary),
            outliers: values.as_ref().and_then(|v| v.channels.as_ref()?.outliers()),
        };
        let (group, joined) = group(&mut groups, kind);
        group.tensors += 1;
        group.bytes += found.bytes;
        group.parameters += found.parameters;
        if let Some(values) = values {
            joined.merge(&values, 0);
        }
        tensors.push(found);
    });
    groups.sort_by_key(|(order, ..)| *order);
    let kinds = groups.into_iter().map(|(_, kind, values)| KindStatistics {
        values: values.summary(),
        histogram: values.histogram,
        ..kind
    });
    checkpoint.check_files()?;
    Ok(Statistics { tensors, kinds: kinds.collect(), notes })
}

/// The place where the tensors of a kind are joined.
fn group<'g>(
    groups: &'g mut Vec<(usize, KindStatistics, Values)>,
    kind: &Kind,
) -> (&'g mut KindStatistics, &'g mut Values) {
    let known = groups.iter().position(|(_, group, _)| group.kind == kind.name);
    let full = groups.len() >= MOST_KINDS;
    let at = known.or_else(|| groups.len().checked_sub(1).filter(|_| full)).unwrap_or_else(|| {
        let last = groups.len() + 1 == MOST_KINDS;
        let name = if last { OTHER.to_owned() } else { kind.name.clone() };
        let order = if last { usize::MAX } else { kind.order };
        let empty = KindStatistics {
            kind: name,
            tensors: 0,
            bytes: 0,
            parameters: 0,
            values: None,
            histogram: Histogram::default(),
        };
        groups.push((order, empty, Values::default()));
        groups.len() - 1
    });
    let (_, group, values) = &mut groups[at];
    (group, values)
}

/// The checkpoint under its own names, packed layers decoded where they can be read, with a note where not.
fn own_view(checkpoint: &Checkpoint) -> Result<(View<'_>, Vec<String>)> {
    match checkpoint.container() {
        Container::Gguf => Ok((View::gguf(checkpoint, Packed::Decoded)?, Vec::new())),
        Container::Safetensors | Container::PyTorch => {
            View::hugging_face(checkpoint, Packed::Decoded).map(|view| (view, Vec::new())).or_else(|e| {
                let note = format!("the quantized layers are listed part by part: {e}");
                Ok((View::hugging_face(checkpoint, Packed::Refused)?, vec![note]))
            })
        }
    }
}

/// Bytes that a tensor of a view has in the files.
fn stored_bytes(view: &View<'_>, tensor: &ViewTensor) -> u64 {
    match tensor.place {
        Some(Place::PackedRows { layer, rows, .. }) => {
            let layer = view.packing().and_then(|p| p.layers().get(layer));
            layer.map_or(0, |l| (l.bytes as u64 * rows as u64).checked_div(l.rows as u64).unwrap_or(0))
        }
        _ if tensor.packed => view.packed_layers(tensor).iter().map(|layer| layer.bytes as u64).sum(),
        Some(Place::Plain(span)) => span.bytes as u64,
        Some(Place::Packed(_) | Place::Woven(_)) | None => (tensor.row_bytes * tensor.rows()) as u64,
    }
}
