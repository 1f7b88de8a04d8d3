//! The plan: which tensors are quantized, and what every tensor of the output will be.

use quern_model::hugging_face::plain_modules;
use quern_model::{View, ViewTensor};
use quern_tensor_io::scheme::{CompressedWeights, block_fp8_config, compressed_tensors_config, pack};
use quern_tensor_io::{Checkpoint, ElementType, Error, ErrorKind, Result, TensorPlan};
use serde_json::Value;

use super::{BLOCK, Kind, Options};
use crate::linears::{Class, Classes, Skipped};
use crate::plain_source;

/// What becomes of one tensor: a row of the dry-run table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoundedRow {
    /// Its name.
    pub name: String,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// How the source stores it.
    pub from: ElementType,
    /// Whether it is quantized; otherwise it stays as it is.
    pub quantized: bool,
    /// Bytes in the source.
    pub source_bytes: u64,
    /// Bytes in the output, scales included.
    pub bytes: u64,
}

/// A job, ready to run.
#[derive(Debug)]
pub struct RoundedPlan {
    /// One row for each tensor that the output holds, in the source's order.
    pub rows: Vec<RoundedRow>,
    /// What the user should know before the job runs.
    pub notes: Vec<String>,
    pub(super) tensors: Vec<TensorPlan>,
    /// Of each row: its number in the view of the source.
    pub(super) order: Vec<usize>,
    /// Of each row: how many of the tensors it becomes.
    pub(super) parts: Vec<usize>,
    pub(super) quantization_config: Value,
}

impl RoundedPlan {
    /// Bytes of all tensors in the source: the total of the job's progress.
    pub fn source_bytes(&self) -> u64 {
        self.rows.iter().map(|r| r.source_bytes).sum()
    }

    /// Bits per value over all tensors of the output.
    pub fn bits_per_weight(&self) -> f64 {
        let values: u64 = self.rows.iter().map(|r| r.shape.iter().product::<usize>() as u64).sum();
        self.bytes() as f64 * 8.0 / values.max(1) as f64
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
/// that is missing, misshapen or unknown; columns that are not whole groups; nothing to quantize.
pub fn plan(source: &Checkpoint, options: &Options) -> Result<RoundedPlan> {
    of_view(&plain_source::view(source, options.kind.name())?, options)
}

/// The same, for a source that was checked before.
pub(super) fn of_view(view: &View<'_>, options: &Options) -> Result<RoundedPlan> {
    let order = view.file_order();
    let tensors = || order.iter().map(|&number| &view.tensors()[number]);
    let skipped = Skipped::new(view.checkpoint(), &options.skip)?;
    let classes = Classes::new(tensors());
    let mut notes = view.notes().to_vec();
    let (mut rows, mut planned, mut parts) = (Vec::new(), Vec::new(), Vec::new());
    let (mut plain, mut quantized_modules) = (Vec::new(), Vec::new());
    let (mut experts, mut partial) = (0, 0);
    for tensor in tensors() {
        // Queries, keys and values in one matrix are read as plain numbers alone.
        let class = classes.of(tensor).filter(|_| !view.is_together(tensor));
        let quantized = class.is_some_and(|(module, class)| {
            matches!(class, Class::Linear | Class::Expert) && !skipped.matches(module)
        });
        let of_tensor = match quantized {
            true => {
                check(view, tensor, options.kind)?;
                parts_of(tensor, options.kind)
            }
            false => vec![part(tensor.name.clone(), tensor.element_type, &tensor.shape)],
        };
        if let Some((module, class)) = class {
            experts += usize::from(quantized && class == Class::Expert);
            let whole = tensor.rows().is_multiple_of(BLOCK) && tensor.columns().is_multiple_of(BLOCK);
            partial += usize::from(quantized && !whole);
            if quantized {
                quantized_modules.push(module.to_owned());
            }
        }
        if !quantized {
            plain.push(tensor);
        }
        rows.push(RoundedRow {
            name: tensor.name.clone(),
            shape: tensor.shape.clone(),
            from: tensor.element_type,
            quantized,
            source_bytes: (tensor.row_bytes * tensor.rows()) as u64,
            bytes: of_tensor.iter().filter_map(TensorPlan::bytes).map(|b| b as u64).sum(),
        });
        parts.push(of_tensor.len());
        planned.extend(of_tensor);
    }
    if quantized_modules.is_empty() {
        let what = match options.skip.as_slice() {
            [] => "there are no weights of linear layers in it, so nothing to quantize",
            _ => "all its linear layers are skipped, so there is nothing to quantize",
        };
        return Err(Error::refused(view.checkpoint().path(), what));
    }
    if matches!(options.kind, Kind::Integers { bits: 8, symmetric: false, .. }) {
        notes.push("vLLM's kernels for GPUs take 8 bits without zero points only".to_owned());
    }
    if options.kind == Kind::BlockFloat8 && partial > 0 {
        notes.push(format!(
            "{partial} of {} layers are not whole blocks of {BLOCK} x {BLOCK}: their last blocks are smaller, which \
             transformers reads; vLLM refuses it where it joins layers (query, key and value; gate and up)",
            quantized_modules.len()
        ));
    }
    if options.kind != Kind::BlockFloat8 && experts > 0 {
        notes.push(format!(
            "{experts} matrices of experts are quantized each by itself, as vLLM reads them; transformers 5 keeps \
             experts in a form that compressed-tensors does not quantize"
        ));
    }
    let quantization_config = config(options.kind, &quantized_modules, plain_modules(plain.into_iter()));
    Ok(RoundedPlan { rows, notes, tensors: planned, order, parts, quantization_config })
}

/// Refuses what cannot be quantized.
fn check(view: &View<'_>, tensor: &ViewTensor, kind: Kind) -> Result<()> {
    if !matches!(tensor.element_type, ElementType::F32 | ElementType::F16 | ElementType::BF16) {
        let what = format!(
            "the weights of a linear layer are {}; only f32, f16 and bf16 are quantized: start from such weights, or \
             skip the layer",
            tensor.element_type
        );
        return Err(view.error(tensor, ErrorKind::Unsupported(what)));
    }
    let Kind::Integers { bits, group_size, .. } = kind else { return Ok(()) };
    let refused = |what: String| Err(view.error(tensor, ErrorKind::Unsupported(what)));
    let columns = tensor.columns();
    if !matches!(bits, 4 | 8) {
        return refused(format!("{bits} bits, and vLLM reads compressed-tensors of 4 and 8: choose 4 or 8"));
    }
    let per_word = 32 / bits as usize;
    if !columns.is_multiple_of(per_word) {
        return refused(format!(
            "its {columns} input columns do not fill 32-bit words with {bits}-bit codes; skip the layer"
        ));
    }
    match group_size {
        Some(size) if size == 0 || !columns.is_multiple_of(size) => {
            let fitting = [128, 64, 32].into_iter().filter(|size| columns.is_multiple_of(*size));
            let fitting: Vec<String> = fitting.map(|size| size.to_string()).collect();
            let fitting = match fitting.is_empty() {
                true => "one group a row (-1)".to_owned(),
                false => format!("a group size of {}", fitting.join(" or ")),
            };
            refused(format!(
                "its {columns} input columns are not whole groups of {size}; choose {fitting}, or skip the layer"
            ))
        }
        Some(_) | None => Ok(()),
    }
}

fn part(name: String, element_type: ElementType, shape: &[usize]) -> TensorPlan {
    TensorPlan { name, element_type, shape: shape.to_vec() }
}

/// The type of a layer's scales: that of its weights where they are one of the halves.
pub(super) fn scale_type(tensor: &ViewTensor, kind: Kind) -> ElementType {
    match (kind, tensor.element_type) {
        (Kind::BlockFloat8, _) => ElementType::F32,
        (_, half @ (ElementType::F16 | ElementType::BF16)) => half,
        (Kind::Float8, _) => ElementType::F32,
        (Kind::Integers { .. }, _) => ElementType::F16,
    }
}

/// The tensors of a quantized layer, codes first.
fn parts_of(tensor: &ViewTensor, kind: Kind) -> Vec<TensorPlan> {
    let (rows, columns) = (tensor.rows(), tensor.columns());
    let scales = scale_type(tensor, kind);
    let named =
        |end: &str, element_type, shape: &[usize]| part(format!("{}{end}", tensor.name), element_type, shape);
    match kind {
        Kind::Float8 => {
            vec![named("", ElementType::F8E4M3, &tensor.shape), named("_scale", scales, &[rows, 1])]
        }
        Kind::BlockFloat8 => vec![
            named("", ElementType::F8E4M3, &tensor.shape),
            named("_scale_inv", scales, &[rows.div_ceil(BLOCK), columns.div_ceil(BLOCK)]),
        ],
        Kind::Integers { bits, group_size, symmetric } => {
            let groups = group_size.map_or(1, |size| columns / size);
            let mut parts = vec![
                named("_packed", ElementType::I32, &[rows, pack::words(columns, bits)]),
                named("_scale", scales, &[rows, groups]),
                named("_shape", ElementType::I64, &[2]),
            ];
            if !symmetric {
                parts.push(named("_zero_point", ElementType::I32, &[pack::words(rows, bits), groups]));
            }
            parts
        }
    }
}

fn config(kind: Kind, quantized: &[String], plain: Vec<String>) -> Value {
    let weights = match kind {
        Kind::BlockFloat8 => return block_fp8_config([BLOCK; 2], &plain),
        Kind::Float8 => CompressedWeights::Float8,
        Kind::Integers { bits, group_size, symmetric } => {
            CompressedWeights::Packed { bits, group_size, symmetric, act_order: false }
        }
    };
    compressed_tensors_config(quantized.iter().map(|module| (module.as_str(), weights)), plain)
}
