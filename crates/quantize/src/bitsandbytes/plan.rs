//! The plan: which tensors are quantized, and what every tensor of the output will be.

use quern_model::{View, ViewTensor};
use quern_tensor_io::{Checkpoint, ElementType, Error, Result, TensorPlan};

use super::nested;
use super::state::State;
use super::{Kind, Options, modules};
use crate::plain_source;

/// What becomes of one tensor: a row of the dry-run table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BitsandbytesRow {
    /// Its name.
    pub name: String,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// How the source stores it.
    pub from: ElementType,
    /// What it becomes; `None` if it stays as it is.
    pub to: Option<Kind>,
    /// Bytes in the source.
    pub source_bytes: u64,
    /// Bytes in the output, scales and descriptions included. (Of a description whose length depends on the
    /// weights, a few characters too many.)
    pub bytes: u64,
}

/// A job, ready to run.
#[derive(Debug)]
pub struct BitsandbytesPlan {
    /// One row for each tensor that the output holds, in the source's order.
    pub rows: Vec<BitsandbytesRow>,
    /// What the user should know before the job runs.
    pub notes: Vec<String>,
    pub(super) tensors: Vec<TensorPlan>,
    pub(super) skip: Option<Vec<String>>,
    pub(super) dtype: Option<ElementType>,
    /// Of each row: its number in the view of the source.
    pub(super) order: Vec<usize>,
    /// Of each row: how many of the tensors it becomes.
    pub(super) parts: Vec<usize>,
}

impl BitsandbytesPlan {
    /// Bytes of all tensors in the source: the total of the job's progress.
    pub fn source_bytes(&self) -> u64 {
        self.rows.iter().map(|r| r.source_bytes).sum()
    }

    /// Bits per value over all tensors of the output.
    pub fn bits_per_weight(&self) -> f64 {
        let values: u64 = self.rows.iter().map(|r| r.shape.iter().product::<usize>() as u64).sum();
        self.bytes() as f64 * 8.0 / values as f64
    }

    /// Bytes of all tensors in the output.
    pub fn bytes(&self) -> u64 {
        self.rows.iter().map(|r| r.bytes).sum()
    }
}

/// Plans a job: which tensors, how many bytes. Reads no weights.
///
/// # Errors
/// A source that is no Hugging Face checkpoint, quantized already or of a kind that cannot be quantized; a tensor
/// that is missing, misshapen or unknown; a block size bitsandbytes does not know; nothing to quantize.
pub fn plan(source: &Checkpoint, options: &Options) -> Result<BitsandbytesPlan> {
    of_view(&plain_source::view(source, "bitsandbytes")?, options)
}

/// The same, for a source that was checked before.
pub(super) fn of_view(view: &View<'_>, options: &Options) -> Result<BitsandbytesPlan> {
    let refused = |what: String| Err(Error::refused(view.checkpoint().path(), what));
    let size = options.block_size;
    if options.scheme != Kind::Int8 && !(size.is_power_of_two() && (32..=4096).contains(&size)) {
        return refused(format!(
            "bitsandbytes has no blocks of {size}; choose 32, 64, 128, 256, 512, 1024, 2048 or 4096"
        ));
    }
    let order = view.file_order();
    let choice = modules::choose(view, &order, &options.skip)?;
    if !choice.quantized.contains(&true) {
        return refused(match options.skip.as_slice() {
            [] => "there are no weights of linear layers in it, so nothing to quantize".into(),
            _ => "all its linear layers are skipped, so there is nothing to quantize".into(),
        });
    }
    let mut notes = view.notes().to_vec();
    if choice.experts > 0 {
        notes.push(format!(
            "{} matrices of experts stay as they are: transformers 5 keeps experts in a form that bitsandbytes \
             does not quantize",
            choice.experts
        ));
    }
    let mut plan = BitsandbytesPlan {
        rows: Vec::new(),
        notes,
        tensors: Vec::new(),
        skip: choice.skip,
        dtype: choice.dtype,
        order: Vec::new(),
        parts: Vec::new(),
    };
    for (&number, quantized) in order.iter().zip(choice.quantized) {
        let info = &view.tensors()[number];
        let to = quantized.then_some(options.scheme);
        let parts = match to {
            None => vec![planned(info.name.clone(), info.element_type, info.shape.clone())],
            Some(Kind::Int8) => int8_parts(info),
            Some(kind) => four_bit_parts(info, kind, options),
        };
        plan.rows.push(BitsandbytesRow {
            name: info.name.clone(),
            shape: info.shape.clone(),
            from: info.element_type,
            to,
            source_bytes: (info.row_bytes * info.rows()) as u64,
            bytes: parts.iter().filter_map(TensorPlan::bytes).map(|b| b as u64).sum(),
        });
        plan.parts.push(parts.len());
        plan.tensors.extend(parts);
    }
    plan.order = order;
    Ok(plan)
}

fn planned(name: String, element_type: ElementType, shape: Vec<usize>) -> TensorPlan {
    TensorPlan { name, element_type, shape }
}

fn int8_parts(info: &ViewTensor) -> Vec<TensorPlan> {
    let module = info.name.strip_suffix(".weight").unwrap_or(&info.name);
    vec![
        planned(info.name.clone(), ElementType::I8, info.shape.clone()),
        planned(format!("{module}.SCB"), ElementType::F32, vec![info.rows()]),
        planned(format!("{module}.weight_format"), ElementType::U8, Vec::new()),
    ]
}

/// In the order they are known in: scales after codes, the text last.
fn four_bit_parts(info: &ViewTensor, kind: Kind, options: &Options) -> Vec<TensorPlan> {
    let n = info.rows() * info.columns();
    let blocks = n.div_ceil(options.block_size);
    let part =
        |name: &str, element_type, shape| planned(format!("{}.{name}", info.name), element_type, shape);
    let mut parts = vec![planned(info.name.clone(), ElementType::U8, vec![n.div_ceil(2), 1])];
    if options.double_quant {
        parts.push(part("absmax", ElementType::U8, vec![blocks]));
        parts.push(part("nested_absmax", ElementType::F32, vec![blocks.div_ceil(nested::BLOCK)]));
        parts.push(part("nested_quant_map", ElementType::F32, vec![256]));
    } else {
        parts.push(part("absmax", ElementType::F32, vec![blocks]));
    }
    parts.push(part("quant_map", ElementType::F32, vec![16]));
    let text = state(info, kind, options).most_chars(options.double_quant);
    parts.push(part(&state_name(kind), ElementType::U8, vec![text]));
    parts
}

pub(super) fn state_name(kind: Kind) -> String {
    format!("quant_state.bitsandbytes__{}", kind.name())
}

pub(super) fn state<'a>(info: &'a ViewTensor, kind: Kind, options: &Options) -> State<'a> {
    State { kind, block_size: options.block_size, dtype: info.element_type, shape: &info.shape }
}
