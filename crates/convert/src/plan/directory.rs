//! To a Hugging Face directory of plain tensors.
//!
//! | source | where no element type is asked for |
//! |---|---|
//! | Hugging Face | as it is |
//! | packed layers, blocks of GGUF | f32, which holds what they mean exactly |
//! | MXFP4 blocks of gpt-oss's experts | MXFP4 as the family is released in it |
//! | f32 of GGUF that llama.cpp keeps in f32 whatever the model has | the matrices' type, if that holds every value |

use quern_model::gguf::{is_quantizable, is_stored_as_matrix};
use quern_model::hugging_face::{configuration_files, edited_config, tokenizer_files};
use quern_model::{Packed, View, ViewTensor};
use quern_tensor_io::{Checkpoint, Container, ElementType, Error, Result};
use serde_json::{Value, json};

use super::{Around, Content, ConvertPlan, ConvertRow, Directory, Fidelity, most, row};
use crate::{Options, cast};

pub(super) fn plan(checkpoint: &Checkpoint, options: Options) -> Result<ConvertPlan<'_>> {
    let from_gguf = checkpoint.container() == Container::Gguf;
    // What GGUF holds as the family is released stays so unless an element type is asked for.
    let packed = if from_gguf && options.dtype.is_none() { Packed::Exact } else { Packed::Decoded };
    let view = View::hugging_face(checkpoint, packed)?;
    let mut rows = Vec::with_capacity(view.tensors().len());
    for (index, tensor) in view.tensors().iter().enumerate() {
        rows.push(row(&view, index, plain_type(tensor, options.dtype))?);
    }
    if from_gguf && options.dtype.is_none() {
        narrow(&view, &mut rows)?;
    }
    let mut notes = view.notes().to_vec();
    let decodes = |t: &&ViewTensor| is_packed(&view, t) && t.element_type != ElementType::U8;
    let decoded = view.tensors().iter().filter(decodes).count();
    if decoded > 0 && options.dtype.is_none() {
        notes.push(format!(
            "{decoded} quantized tensors are decoded to f32, which holds their values exactly; f16 or bf16 would \
             round them and take half the space"
        ));
    }
    let around = match from_gguf {
        true => from_metadata(&view, &rows, &mut notes)?,
        false => from_config(&view, &rows, &options)?,
    };
    Ok(ConvertPlan { view, packing: None, around: Around::Directory(around), options, rows, notes })
}

/// Whether the source keeps this tensor quantized.
fn is_packed(view: &View<'_>, tensor: &ViewTensor) -> bool {
    let block =
        |name: &String| view.checkpoint().tensor(name).is_some_and(|t| t.info.element_type.is_block());
    tensor.packed || tensor.sources.iter().any(block)
}

/// The type of a tensor of the view; integers stay what they are.
pub(super) fn plain_type(tensor: &ViewTensor, dtype: Option<ElementType>) -> ElementType {
    match (tensor.element_type, dtype) {
        (from, Some(dtype)) if from.is_float() || from.is_block() => dtype,
        (from, _) if from.is_block() => ElementType::F32,
        (from, _) => from,
    }
}

/// Gives what llama.cpp wants in f32 the type of the matrices, where that holds it.
fn narrow(view: &View<'_>, rows: &mut [ConvertRow]) -> Result<()> {
    let in_file_type =
        |name: &String, shape: &[usize]| is_quantizable(name, shape) && is_stored_as_matrix(name, shape);
    let is_matrix = |r: &ConvertRow| r.sources.first().is_some_and(|name| in_file_type(name, &r.shape));
    let plain = |r: &&ConvertRow| is_matrix(r) && r.to.is_float();
    let Some(to) = most(rows.iter().filter(plain)) else { return Ok(()) };
    if !matches!(to, ElementType::F16 | ElementType::BF16) {
        return Ok(());
    }
    let mut values = Vec::new();
    for row in rows.iter_mut().filter(|r| r.to == ElementType::F32) {
        let Content::View(index) = row.content else { continue };
        let tensor = &view.tensors()[index];
        if is_matrix(row) {
            continue;
        }
        values.resize(tensor.rows() * tensor.columns(), 0.0);
        if view.decode(index, 0..tensor.rows(), &mut values) && cast::fits(to, &values) {
            row.to = to;
            row.bytes = values.len() as u64 * to.block_bytes() as u64;
            row.fidelity = Fidelity::Exact;
        }
        view.release(index, 0..tensor.rows());
    }
    Ok(())
}

/// The files of a model whose source has no others: all are made from its metadata.
fn from_metadata(view: &View<'_>, rows: &[ConvertRow], notes: &mut Vec<String>) -> Result<Directory> {
    let checkpoint = view.checkpoint();
    let Some(config) = view.config() else {
        let what = "the architecture is not known, so there is no config.json for it";
        return Err(Error::unsupported(checkpoint.path(), what));
    };
    let dtype = most(rows.iter().filter(|row| row.to.is_float())).unwrap_or(ElementType::F32);
    let released = rows.iter().any(|row| row.to == ElementType::U8);
    let mut files = configuration_files(config, checkpoint.metadata(), dtype);
    let at = files.iter().position(|(name, _)| name == "config.json");
    let config = at.map(|at| files.remove(at).1).unwrap_or_default();
    let config = String::from_utf8_lossy(&config).into_owned();
    let config = if released { released_as_mxfp4(config) } else { config };
    let (tokenizer, unsure) = tokenizer_files(checkpoint.metadata_file(), checkpoint.metadata())?;
    files.extend(tokenizer);
    notes.extend(unsure);
    Ok(Directory { config, files, companions: false })
}

/// `config.json` of a model whose experts are in MXFP4, as gpt-oss's says it.
fn released_as_mxfp4(config: String) -> String {
    let Ok(Value::Object(mut object)) = serde_json::from_str(&config) else { return config };
    let plain = ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"];
    let says = json!({ "modules_to_not_convert": plain, "quant_method": "mxfp4" });
    object.insert("quantization_config".to_owned(), says);
    serde_json::to_string_pretty(&object).map_or(config, |text| text + "\n")
}

/// The source's own `config.json`, for plain tensors.
fn from_config(view: &View<'_>, rows: &[ConvertRow], options: &Options) -> Result<Directory> {
    let unpacked = view.packing().is_some();
    let dtype = match unpacked || options.dtype.is_some() {
        true => most(rows.iter().filter(|r| r.to.is_float())),
        false => None,
    };
    let config = edited_config(view.checkpoint().directory(), None, dtype)?;
    Ok(Directory { config, files: Vec::new(), companions: true })
}
