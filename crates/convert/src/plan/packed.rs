//! To packed layers, from those of GPTQ, AWQ and compressed-tensors: the same codes, zero points, scales and groups
//! in the tensors of another format. Everything that is not packed stays as it is.

use std::collections::HashMap;

use quern_model::hugging_face::edited_config;
use quern_model::{Packed, View};
use quern_tensor_io::scheme::{CodeFormat, Packing};
use quern_tensor_io::{Checkpoint, Container, Error, Remedy, Result};

use super::directory::plain_type;
use super::labels::label;
use super::{Around, Content, ConvertPlan, ConvertRow, Directory, Fidelity, inexact, row};
use crate::Options;

pub(super) fn plan(checkpoint: &Checkpoint, options: Options, format: CodeFormat) -> Result<ConvertPlan<'_>> {
    let view = View::hugging_face(checkpoint, Packed::Refused)?;
    let packing = match checkpoint.container() {
        Container::Gguf => None,
        _ => Packing::read(checkpoint)?.filter(|p| !p.layers().is_empty()),
    };
    let Some(packing) = packing else {
        let what = format!("has no packed layers that {} could hold", format.name());
        return Err(Error::unsupported(checkpoint.path(), what).with_remedy(Remedy::QuantizeWithGptq));
    };
    let layers = packing.layers().iter().enumerate();
    let by_part: HashMap<usize, usize> =
        layers.flat_map(|(n, l)| l.parts.iter().map(move |&p| (p, n))).collect();
    let mut done = vec![false; packing.layers().len()];
    let mut rows = Vec::new();
    for (index, tensor) in view.tensors().iter().enumerate() {
        let source = tensor.sources.first().and_then(|name| checkpoint.index_of(name));
        match source.and_then(|source| by_part.get(&source)) {
            None => rows.push(row(&view, index, plain_type(tensor, options.dtype))?),
            Some(&layer) if !std::mem::replace(&mut done[layer], true) => {
                rows.extend(layer_rows(checkpoint, &packing, layer, format)?);
            }
            Some(_) => {}
        }
    }
    let mut notes = packing.notes().to_vec();
    let quantization = label(&view, &packing, format, &mut notes)?;
    let files = match format {
        CodeFormat::Gptq(_) => {
            vec![("quantize_config.json".to_owned(), format!("{quantization:#}\n").into_bytes())]
        }
        CodeFormat::CompressedTensors | CodeFormat::Awq => Vec::new(),
    };
    let around = Directory {
        config: edited_config(checkpoint.directory(), Some(&quantization), options.dtype)?,
        files,
        companions: true,
    };
    let packing = Some(packing);
    Ok(ConvertPlan { view, packing, around: Around::Directory(around), options, rows, notes })
}

/// The tensors of a layer.
fn layer_rows(
    checkpoint: &Checkpoint,
    packing: &Packing,
    number: usize,
    format: CodeFormat,
) -> Result<Vec<ConvertRow>> {
    let layer = &packing.layers()[number];
    let tensors = layer.repacked(checkpoint, format).map_err(|e| inexact(checkpoint, &e))?;
    let from = packing.stored_as(layer);
    let sources = || layer.parts.iter().map(|&p| checkpoint.tensors()[p].name.clone()).collect();
    let rows = tensors.plan().into_iter().enumerate().map(|(part, tensor)| ConvertRow {
        bytes: tensor.bytes().unwrap_or_default() as u64,
        name: tensor.name,
        shape: tensor.shape,
        from: from.clone(),
        to: tensor.element_type,
        fidelity: Fidelity::Exact,
        changed: None,
        sources: sources(),
        content: Content::Packed { layer: number, part },
    });
    Ok(rows.collect())
}
