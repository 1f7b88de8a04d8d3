//! AutoRound's label over the packings of others.
//!
//! | `packing_format` (or `backend`) | tensors |
//! |---|---|
//! | `auto_round:auto_gptq`, `auto_round:gptq:exllamav2` and the like | GPTQ's, zero points less one |
//! | `auto_round`, `auto_round:gptqmodel` | GPTQ's, zero points as they are |
//! | `auto_round:auto_awq` | AWQ's, `gemm` version |
//! | `auto_round:llm_compressor`, `auto_round:fp8_static` | compressed-tensors': FP8, MXFP8, MXFP4, NVFP4 |
//!
//! Layers of other bits and groups are in `extra_config`, by name or regular expression; shapes of tensors show the same.

use super::{Method, Sources, brief_text, refused};
use crate::{Error, Result};

/// How `quant_method` spells it.
pub(super) const NAMES: [&str; 3] = ["auto-round", "auto_round", "intel/auto-round"];

/// What the label says about the tensors.
pub(super) struct Packed {
    /// GPTQ's zero points are stored as they are.
    pub v2: bool,
    /// Some layers have bits and groups of their own.
    pub mixed: bool,
    /// Activations were meant to be quantized too.
    pub activations: bool,
    pub note: String,
}

/// The packing, in lower case.
fn format(sources: &Sources) -> Result<String> {
    let stated = sources.text(&["packing_format", "backend"])?;
    Ok(stated.map_or_else(|| "auto_round:auto_gptq".to_owned(), |(_, format)| format))
}

/// The method whose tensors they are.
///
/// # Errors
/// Packings and kinds of numbers that are not read, by name.
pub(super) fn method(sources: &Sources) -> Result<Method> {
    let (file, _) = sources.text(&["quant_method", "method"])?.unwrap_or((&sources.0[0].file, String::new()));
    let format = format(sources)?;
    let unread = |what: String| Error::unsupported(file, refused(&what));
    if let Some((_, value)) = sources.find("rotation_config") {
        let what = "AutoRound's rotation_config, which rotates weights, to be undone when the model runs";
        if value.as_object().is_none_or(|object| !object.is_empty()) {
            return Err(unread(what.to_owned()));
        }
    }
    let kind = sources.text(&["data_type"])?.map_or_else(|| "int".to_owned(), |(_, kind)| kind);
    let (compressed, int) = (format.contains("llm_compressor"), kind.starts_with("int"));
    match () {
        _ if format.contains("e5m3") => Err(unread(format!("AutoRound's {format:?}"))),
        _ if compressed || format.contains("fp8") => Ok(Method::CompressedTensors),
        _ if !int => {
            Err(unread(format!("AutoRound with numbers of the type {:?} in {format:?}", brief_text(&kind))))
        }
        _ if format.contains("awq") => Ok(Method::Awq),
        _ if format == "auto_round" || format.contains("gptq") || format.contains("exllama") => {
            Ok(Method::Gptq)
        }
        _ => Err(unread(format!("AutoRound in the packing {:?}", brief_text(&format)))),
    }
}

/// What the label says, if it is AutoRound's.
pub(super) fn packing(sources: &Sources) -> Result<Option<Packed>> {
    let Some((_, name)) = sources.text(&["quant_method", "method"])? else { return Ok(None) };
    if !NAMES.contains(&name.as_str()) {
        return Ok(None);
    }
    let format = format(sources)?;
    let v2 = !format.contains("gptq") && !format.contains("exllama") || format.contains("gptqmodel");
    let own = sources.find("extra_config").and_then(|(_, value)| value.as_object());
    let mixed = own.is_some_and(|layers| !layers.is_empty());
    let activations =
        sources.find("act_bits").and_then(|(_, bits)| bits.as_i64()).is_some_and(|bits| bits < 16);
    let mut note = format!("made by AutoRound, packed as {:?}", brief_text(&format));
    if let Some(layers) = own.filter(|_| mixed) {
        note += &format!(", with {} settings of its own for layers", layers.len());
    }
    Ok(Some(Packed { v2, mixed, activations, note }))
}
