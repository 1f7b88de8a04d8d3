//! To GPTQ's packed layers, from those of GPTQ, AWQ and compressed-tensors: the same codes, zero points, scales
//! and groups in other places. Everything that is not packed stays as it is.

use std::collections::{HashMap, HashSet};

use quern_model::hugging_face::edited_config;
use quern_model::{Packed, View};
use quern_tensor_io::scheme::{AffineLayer, GptqFormat, Packing, Scheme};
use quern_tensor_io::{Checkpoint, Container, Error, Remedy, Result, small};
use serde_json::{Map, Value, json};

use super::directory::plain_type;
use super::{Around, Content, ConvertPlan, ConvertRow, Directory, Fidelity, inexact, row};
use crate::Options;

pub(super) fn plan(checkpoint: &Checkpoint, options: Options, format: GptqFormat) -> Result<ConvertPlan<'_>> {
    let view = View::hugging_face(checkpoint, Packed::Refused)?;
    let packing = match checkpoint.container() {
        Container::Gguf => None,
        _ => Packing::read(checkpoint)?.filter(|p| !p.layers().is_empty()),
    };
    let Some(packing) = packing else {
        let what = "has no packed layers that GPTQ could hold";
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
    let quantization = quantization_config(checkpoint, &packing, format)?;
    let text = format!("{quantization:#}\n").into_bytes();
    let around = Directory {
        config: edited_config(checkpoint.directory(), Some(&quantization), options.dtype)?,
        files: vec![("quantize_config.json".to_owned(), text)],
        companions: true,
    };
    let notes = packing.notes().to_vec();
    let packing = Some(packing);
    Ok(ConvertPlan { view, packing, around: Around::Directory(around), options, rows, notes })
}

/// The four tensors of a layer.
fn layer_rows(
    checkpoint: &Checkpoint,
    packing: &Packing,
    number: usize,
    format: GptqFormat,
) -> Result<Vec<ConvertRow>> {
    let layer = &packing.layers()[number];
    let tensors = layer.to_gptq(checkpoint, format).map_err(|e| inexact(checkpoint, &e))?;
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
        content: Content::Gptq { layer: number, part },
    });
    Ok(rows.collect())
}

/// Bits and group size of a layer as configurations write them.
type Shape = (u32, i64);

fn shape(layer: &AffineLayer<'_>) -> Shape {
    let bits = match layer.bits() {
        1 => 2,
        bits @ 2..=4 => bits,
        _ => 8,
    };
    (bits, layer.group_size().map_or(-1, |n| n as i64))
}

/// The configuration of a checkpoint of these layers. Where the source is GPTQ, its own with the new format.
fn quantization_config(checkpoint: &Checkpoint, packing: &Packing, format: GptqFormat) -> Result<Value> {
    let affine: Vec<AffineLayer<'_>> = packing.layers().iter().filter_map(|l| l.affine(checkpoint)).collect();
    let mut config = match packing.scheme() {
        Scheme::Gptq { .. } => source_config(checkpoint)?,
        _ => Map::new(),
    };
    let mut counts: Vec<(Shape, usize)> = Vec::new();
    for shape in affine.iter().map(shape) {
        match counts.iter_mut().find(|(s, _)| *s == shape) {
            Some((_, count)) => *count += 1,
            None => counts.push((shape, 1)),
        }
    }
    let largest = counts.iter().map(|(_, count)| *count).max();
    let usual =
        counts.iter().find(|(_, count)| Some(*count) == largest).map_or((4, 128), |(shape, _)| *shape);
    let mut set = |key: &str, value: Value| drop(config.insert(key.to_owned(), value));
    set("quant_method", json!("gptq"));
    set("checkpoint_format", json!(format.name()));
    // Newer writers call these so too; both are kept in step.
    set("method", json!("gptq"));
    set("format", json!(format.name()));
    if let Scheme::Gptq { .. } = packing.scheme()
        && config.contains_key("bits")
    {
        return Ok(Value::Object(config));
    }
    let mut set = |key: &str, value: Value| drop(config.insert(key.to_owned(), value));
    set("bits", json!(usual.0));
    set("group_size", json!(usual.1));
    set("desc_act", json!(!affine.iter().all(AffineLayer::in_order)));
    set("sym", json!(affine.iter().all(AffineLayer::symmetric)));
    set("lm_head", json!(packing.layers().iter().any(|l| l.name == "lm_head.weight")));
    set("pack_dtype", json!("int32"));
    set("true_sequential", json!(true));
    set("static_groups", json!(false));
    let mut dynamic = Map::new();
    for layer in affine.iter().filter(|l| shape(l) != usual) {
        let (bits, group_size) = shape(layer);
        let key = format!("^{}$", module(&layer.layer().name).replace('.', "\\."));
        dynamic.insert(key, json!({ "bits": bits, "group_size": group_size }));
    }
    for module in left_out(checkpoint, packing) {
        dynamic.insert(format!("-:^{}$", module.replace('.', "\\.")), json!({}));
    }
    if !dynamic.is_empty() {
        set("dynamic", Value::Object(dynamic));
    }
    set("meta", json!({ "quantizer": [format!("quern:{}", env!("CARGO_PKG_VERSION"))] }));
    Ok(Value::Object(config))
}

/// Modules that are not packed though others of their kind are: readers would look for their codes.
fn left_out<'a>(checkpoint: &'a Checkpoint, packing: &Packing) -> Vec<&'a str> {
    let kind = |module: &str| module.rsplit('.').next().unwrap_or_default().to_owned();
    let kinds: HashSet<String> = packing.layers().iter().map(|l| kind(module(&l.name))).collect();
    let matrices = checkpoint.tensors().iter().filter(|t| t.shape.len() == 2 && t.element_type.is_float());
    let modules = matrices.filter_map(|t| t.name.strip_suffix(".weight"));
    modules.filter(|m| kinds.contains(&kind(m))).collect()
}

/// The module whose weight has this name.
fn module(name: &str) -> &str {
    name.strip_suffix(".weight").unwrap_or(name)
}

/// The source's own configuration of its quantization.
fn source_config(checkpoint: &Checkpoint) -> Result<Map<String, Value>> {
    // As GPT-QModel writes both, the one in config.json is what transformers reads.
    let folder = checkpoint.directory();
    for (name, key) in [("config.json", Some("quantization_config")), ("quantize_config.json", None)] {
        let file = folder.join(name);
        let Some(text) = small::read_optional(&file, small::CONFIGURATION)? else { continue };
        let value = small::json(&text).map_err(|what| Error::malformed(&file, what))?;
        let value = match key {
            Some(key) => value.get(key).cloned().unwrap_or_default(),
            None => value,
        };
        if let Value::Object(object) = value {
            return Ok(object);
        }
    }
    Ok(Map::new())
}
