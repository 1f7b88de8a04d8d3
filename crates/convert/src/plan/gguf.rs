//! To GGUF.
//!
//! | source | matrices | everything else |
//! |---|---|---|
//! | Hugging Face | as they are, or the type asked for | f32 |
//! | packed layers | the blocks that hold their values exactly, or decoded to the type asked for | |
//! | GGUF | as they are, or the type asked for | as it is |

use quern_model::gguf::is_stored_as_matrix;
use quern_model::{Config, Convention, FileType, Packed, View, ViewTensor};
use quern_tensor_io::{
    Checkpoint, Container, ElementType, Error, ErrorKind, Metadata, Remedy, Result, Value,
};

use super::{Around, ConvertPlan, ConvertRow, about, figures, most, row};
use crate::Options;

/// llama.cpp's `LLAMA_FTYPE_MOSTLY_NVFP4`, which llama-quantize has no name for.
const MOSTLY_NVFP4: u32 = 39;
/// ggml's version of the block formats.
const QUANTIZATION_VERSION: u32 = 2;

pub(super) fn plan(checkpoint: &Checkpoint, options: Options) -> Result<ConvertPlan<'_>> {
    let own = checkpoint.container() == Container::Gguf;
    let view = match options.dtype {
        Some(_) => View::gguf(checkpoint, Packed::Decoded)?,
        None => View::gguf(checkpoint, Packed::Exact).map_err(|e| with_offers(checkpoint, e))?,
    };
    let mut order: Vec<usize> = (0..view.tensors().len()).collect();
    if own {
        // Nobody asked for another order, and a split must be what gguf-split makes.
        let place = |t: &ViewTensor| t.sources.first().and_then(|name| checkpoint.index_of(name));
        order.sort_by_key(|&i| place(&view.tensors()[i]));
    }
    let mut rows = Vec::with_capacity(order.len());
    for index in order {
        let tensor = &view.tensors()[index];
        let to = if own { own_type(tensor, options.dtype) } else { new_type(&view, tensor, options.dtype)? };
        rows.push(row(&view, index, to)?);
    }
    let metadata = metadata(&view, &rows, &options)?;
    let notes = view.notes().to_vec();
    Ok(ConvertPlan { view, packing: None, around: Around::Gguf(metadata), options, rows, notes })
}

/// Where layers have no exact form, decoding them does it; so the error says that.
fn with_offers(checkpoint: &Checkpoint, error: Error) -> Error {
    match error.kind {
        ErrorKind::Unsupported(_) if View::gguf(checkpoint, Packed::Decoded).is_ok() => {
            error.with_remedy(Remedy::DecodeOrRequantize)
        }
        _ => error,
    }
}

/// The type of a tensor that was in a GGUF file before.
fn own_type(tensor: &ViewTensor, dtype: Option<ElementType>) -> ElementType {
    let from = tensor.element_type;
    match dtype {
        Some(dtype) if from.is_block() => dtype,
        Some(dtype) if from.is_float() && is_stored_as_matrix(&tensor.name, &tensor.shape) => dtype,
        _ => from,
    }
}

/// The type of a tensor that comes from Hugging Face files.
fn new_type(view: &View<'_>, tensor: &ViewTensor, dtype: Option<ElementType>) -> Result<ElementType> {
    use ElementType::{BF16, F8E4M3, F8E5M2, F16, F32, F64};
    let from = tensor.element_type;
    if !is_stored_as_matrix(&tensor.name, &tensor.shape) {
        return Ok(F32);
    }
    match (from, dtype) {
        (_, Some(dtype)) => Ok(dtype),
        (F32 | F16 | BF16, None) => Ok(from),
        (F8E4M3 | F8E5M2, None) => Ok(F16),
        (F64, None) => {
            let error = Error::unsupported(view.checkpoint().path(), "f64 has no readers in GGUF");
            Err(about(view, tensor, error.with_remedy(Remedy::ChooseDtype(&[F32]))))
        }
        (from, None) => Ok(from),
    }
}

fn metadata(view: &View<'_>, rows: &[ConvertRow], options: &Options) -> Result<Metadata> {
    let checkpoint = view.checkpoint();
    let own = checkpoint.container() == Container::Gguf;
    let mut metadata = view.metadata().clone();
    let unchanged = own && rows.iter().all(|r| r.from == r.to.name());
    if !unchanged {
        metadata.set("general.quantization_version", Value::U32(QUANTIZATION_VERSION));
        if let Some(id) = file_type(rows) {
            metadata.set("general.file_type", Value::U32(id));
        }
    }
    if let Some(provenance) = &options.provenance {
        provenance.clone().with_figures(figures(view, rows)).set_in(&mut metadata, checkpoint);
    }
    for edit in &options.edits {
        edit.apply(checkpoint.metadata_file(), &mut metadata)?;
    }
    if own && !options.edits.is_empty() {
        still_fits(view, &metadata)?;
    }
    Ok(metadata)
}

/// `general.file_type` for what most of the matrices are; of a quantized model, those that are quantized.
fn file_type(rows: &[ConvertRow]) -> Option<u32> {
    let matrices = || rows.iter().filter(|r| is_stored_as_matrix(&r.name, &r.shape));
    let most = most(matrices().filter(|r| r.to.is_block())).or_else(|| most(matrices()))?;
    if most == ElementType::NVFP4 {
        return Some(MOSTLY_NVFP4);
    }
    let plain = |t: &&FileType| t.default_type() == Some(most);
    FileType::ALL.iter().find(plain).and_then(|t| t.id())
}

/// Refuses edits after which the tensors are not those that the architecture's keys demand.
fn still_fits(view: &View<'_>, edited: &Metadata) -> Result<()> {
    let Some(before) = view.config() else { return Ok(()) };
    let after = Config::from_gguf_metadata(view.checkpoint(), edited)?;
    let demanded = |config: &Config| -> Vec<_> {
        let all = config.expected_tensors(Convention::Gguf).into_iter();
        all.map(|e| (e.name, e.shape)).collect()
    };
    if demanded(before) != demanded(&after) {
        let what = "with these edits the architecture's keys demand other tensors than the file has: sizes are \
                    not edited";
        return Err(Error::refused(view.checkpoint().metadata_file(), what));
    }
    Ok(())
}
