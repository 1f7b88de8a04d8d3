//! The metadata of the output file: the source's, plus what llama-quantize records about the job.

use std::path::Path;

use quern_model::provenance::Provenance;
use quern_tensor_io::{Checkpoint, ElementType, Metadata, Value};

use super::plan::{QuantizeRow, bits_per_weight};
use crate::imatrix::Imatrix;
use crate::recipe::FileType;

/// ggml's version of the block formats.
const QUANTIZATION_VERSION: u32 = 2;

/// `source` without split keys, with quantization version, file type and the origin of the importance
/// matrix at the end, in llama-quantize's order.
pub(super) fn output(
    source: &Metadata,
    file_type: FileType,
    rows: &[QuantizeRow],
    imatrix: Option<&Imatrix>,
) -> Metadata {
    let mut metadata = source.clone();
    for key in ["split.no", "split.count", "split.tensors.count"] {
        metadata.remove(key);
    }
    let before = metadata.remove("general.file_type");
    let file_type = match file_type.id() {
        Some(id) => Some(Value::U32(id)),
        None => before.or_else(|| plain_file_type(rows).and_then(FileType::id).map(Value::U32)),
    };
    append(&mut metadata, "general.quantization_version", Value::U32(QUANTIZATION_VERSION));
    if let Some(file_type) = file_type {
        append(&mut metadata, "general.file_type", file_type);
    }
    if let Some(imatrix) = imatrix {
        if imatrix.is_file() {
            let file = imatrix.file().to_string_lossy().into_owned();
            append(&mut metadata, "quantize.imatrix.file", Value::String(file));
        }
        if let Some(dataset) = imatrix.datasets().first() {
            append(&mut metadata, "quantize.imatrix.dataset", Value::String(dataset.clone()));
        }
        let entries = imatrix.len().try_into().unwrap_or(u32::MAX);
        append(&mut metadata, "quantize.imatrix.entries_count", Value::U32(entries));
        if imatrix.chunks() > 0 {
            append(&mut metadata, "quantize.imatrix.chunks_count", Value::U32(imatrix.chunks()));
        }
    }
    metadata
}

/// Adds the provenance with what the plan says of the output. Of the importance matrix only the file's name stays:
/// llama-quantize records the path as it was typed, but files are published and folders may be private.
pub(super) fn record(
    metadata: &mut Metadata,
    provenance: &Provenance,
    rows: &[QuantizeRow],
    source: &Checkpoint,
) {
    const IMATRIX: &str = "quantize.imatrix.file";
    if let Some(path) = metadata.str(IMATRIX)
        && let Some(name) = Path::new(path).file_name()
    {
        let name = name.to_string_lossy().into_owned();
        metadata.set(IMATRIX, name.as_str());
    }
    let bytes = rows.iter().map(|r| r.bytes).sum::<u64>() as f64;
    let figures = [("bits_per_weight", bits_per_weight(rows)), ("tensor_bytes", bytes)];
    provenance.clone().with_figures(figures).set_in(metadata, source);
}

/// Sets a key at the end, wherever it was before.
fn append(metadata: &mut Metadata, key: &str, value: Value) {
    metadata.remove(key);
    metadata.set(key, value);
}

/// The file type of tensors that were only copied, where they are plain floats.
fn plain_file_type(rows: &[QuantizeRow]) -> Option<FileType> {
    let bytes = |t: ElementType| rows.iter().filter(|r| r.to == t).map(|r| r.bytes).sum::<u64>();
    if rows.iter().any(|r| r.to.is_block()) {
        return None;
    }
    match (bytes(ElementType::F16), bytes(ElementType::BF16)) {
        (0, 0) => Some(FileType::F32),
        (f16, bf16) if f16 >= bf16 => Some(FileType::F16),
        _ => Some(FileType::BF16),
    }
}
