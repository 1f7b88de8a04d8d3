//! `quantization_config` of checkpoints whose packed layers were stored in another format.

use std::collections::HashSet;

use quern_model::View;
use quern_model::hugging_face::plain_modules;
use quern_tensor_io::scheme::{
    AffineLayer, CodeFormat, CompressedWeights, GptqFormat, GptqTensors, Packing, Scheme, awq_config,
    compressed_tensors_config, compressed_weights,
};
use quern_tensor_io::{Checkpoint, Error, Result, small};
use serde_json::{Map, Value, json};

/// The configuration of a checkpoint of these layers in this format, with what readers may make of it.
///
/// # Errors
/// Layers that the format has no settings for side by side; a configuration of the source that is broken.
pub(super) fn label(
    view: &View<'_>,
    packing: &Packing,
    format: CodeFormat,
    notes: &mut Vec<String>,
) -> Result<Value> {
    match format {
        CodeFormat::Gptq(format) => gptq(view.checkpoint(), packing, format),
        CodeFormat::CompressedTensors => Ok(compressed_tensors(view, packing, notes)),
        CodeFormat::Awq => awq(view, packing),
    }
}

/// compressed-tensors: a group of settings for each kind of layer.
fn compressed_tensors(view: &View<'_>, packing: &Packing, notes: &mut Vec<String>) -> Value {
    let affine: Vec<_> = packing.layers().iter().filter_map(|l| l.affine(view.checkpoint())).collect();
    if !affine.iter().all(AffineLayer::in_order) {
        notes.push(
            "columns are in groups by activation (actorder \"group\", weight_g_idx), which compressed-tensors has not \
             read since August 2026; older releases of it and of vLLM do"
                .to_owned(),
        );
    }
    let others = affine.iter().filter(|l| !matches!(l.bits(), 4 | 8)).count();
    if others > 0 {
        notes.push(format!(
            "{others} of {} layers have neither 4 nor 8 bits, which vLLM's usual kernels need",
            affine.len()
        ));
    }
    let modules = affine.iter().map(|l| module(&l.layer().name)).zip(compressed_weights(&affine));
    compressed_tensors_config(modules, unpacked(view, packing))
}

/// AWQ: one group size.
fn awq(view: &View<'_>, packing: &Packing) -> Result<Value> {
    let affine: Vec<_> = packing.layers().iter().filter_map(|l| l.affine(view.checkpoint())).collect();
    let sizes: Vec<_> = compressed_weights(&affine).into_iter().map(CompressedWeights::group_size).collect();
    let first = sizes.first().copied().flatten();
    if let Some((other, size)) = affine.iter().zip(&sizes).find(|(_, size)| **size != first) {
        let words = |size: Option<usize>| size.map_or("all columns".to_owned(), |size| size.to_string());
        let what = format!(
            "has groups of {}, {} of {}; the configuration of AWQ has one group size: write compressed-tensors",
            words(*size),
            affine[0].layer().name,
            words(first)
        );
        let error = Error::unsupported(view.checkpoint().path(), what);
        return Err(error.with_tensor(&other.layer().name));
    }
    let plain: Vec<_> = unpacked(view, packing).into_iter().filter(|m| m != "lm_head").collect();
    Ok(awq_config(first, &plain))
}

/// The modules that are not packed.
fn unpacked(view: &View<'_>, packing: &Packing) -> Vec<String> {
    let packed: HashSet<&str> = packing.layers().iter().map(|l| l.name.as_str()).collect();
    plain_modules(view.tensors().iter().filter(|tensor| !packed.contains(tensor.name.as_str())))
}

/// Bits and group size of a layer as configurations write them.
type Shape = (u32, i64);

fn shape(layer: &AffineLayer<'_>) -> Shape {
    (GptqTensors::bits_for(layer.bits()), layer.group_size().map_or(-1, |n| n as i64))
}

/// The configuration of a checkpoint of these layers. Where the source is GPTQ, its own with the new format.
fn gptq(checkpoint: &Checkpoint, packing: &Packing, format: GptqFormat) -> Result<Value> {
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
