//! Which layers rotate queries and keys, and with which base.

use quern_tensor_io::{Array, Error, Result, Value as GgufValue};
use serde_json::Value;

use crate::architecture::{Field, GgufKey, Unrotated};

use super::Config;
use super::from_hf::Reader;
use super::gguf_keys::Keys;

/// A base of rope for each layer.
const BASES: &str = "layer_rope_theta";

/// The layers that do not rotate queries and keys: zeros of `no_rope_layers`, or every so many.
pub(super) fn unrotated(reader: &Reader<'_>, config: &Config) -> Result<Vec<bool>> {
    let root = reader.root;
    match config.architecture.unrotated {
        Unrotated::None | Unrotated::All | Unrotated::Unwindowed => {
            return Ok(config.usual_unrotated_layers());
        }
        Unrotated::WithoutBase => {
            let bases = bases(reader, config)?;
            return Ok(bases.map_or_else(|| config.usual_unrotated_layers(), without_base));
        }
        Unrotated::Every(_) => {}
    }
    // Llama 4's files have an empty list where the rule holds.
    let empty = |flags: &[Value]| flags.is_empty() && config.architecture.name == "llama4";
    let Some(flags) = root.array("no_rope_layers")?.filter(|flags| !empty(flags)) else {
        let every = reader.size(Field::UnrotatedInterval, usize::MAX)?;
        let every = every.ok_or_else(|| root.missing("no_rope_layer_interval"))?;
        return Ok((1..=config.layers).map(|layer| layer.is_multiple_of(every)).collect());
    };
    if flags.len() < config.layers {
        let what = format!("{} entries for {} layers", flags.len(), config.layers);
        return Err(root.error("no_rope_layers", what));
    }
    let flag = |flag: &Value| match (flag.as_u64(), flag.as_bool()) {
        (Some(0), _) | (_, Some(false)) => Ok(true),
        (Some(1), _) | (_, Some(true)) => Ok(false),
        _ => Err(root.error("no_rope_layers", format!("{flag} is not 0 or 1"))),
    };
    flags.iter().take(config.layers).map(flag).collect()
}

/// `layer_rope_theta`, where the family has it and the file too.
fn bases(reader: &Reader<'_>, config: &Config) -> Result<Option<Vec<f64>>> {
    let root = reader.root;
    let Some(list) = root.array(BASES)?.filter(|_| config.architecture.unrotated == Unrotated::WithoutBase)
    else {
        return Ok(None);
    };
    if list.len() != config.layers {
        let what = format!("{} entries for {} layers", list.len(), config.layers);
        return Err(root.error(BASES, what));
    }
    let base = |value: &Value| match value.as_f64() {
        Some(base) if base >= 0.0 => Ok(base),
        _ => Err(root.error(BASES, format!("{value} is no base"))),
    };
    list.iter().map(base).collect::<Result<_>>().map(Some)
}

fn without_base(bases: Vec<f64>) -> Vec<bool> {
    bases.into_iter().map(|base| base == 0.0).collect()
}

/// The base of the layers that rotate, where a list states it: it counts in place of `rope_theta`.
pub(super) fn base(reader: &Reader<'_>, config: &mut Config) -> Result<()> {
    let Some(bases) = bases(reader, config)? else { return Ok(()) };
    let mut used = bases.into_iter().filter(|base| *base > 0.0);
    let Some(first) = used.next() else { return Ok(()) };
    if let Some(other) = used.find(|base| *base != first) {
        let root = reader.root;
        let what =
            format!("{}: layers with the bases {first} and {other} are not supported", root.name(BASES));
        return Err(Error::unsupported(root.file(), what));
    }
    config.rope.theta = first as f32;
    Ok(())
}

/// `attention.rope_pattern`, where the family has it; else the rule of the family.
pub(super) fn unrotated_of_gguf(keys: &Keys<'_>, config: &Config) -> Result<Vec<bool>> {
    const KEY: &str = "attention.rope_pattern";
    let own = config.architecture.gguf_keys.contains(&GgufKey::RotatedLayers);
    match keys.metadata.get(&keys.name(KEY)).filter(|_| own) {
        None => Ok(config.usual_unrotated_layers()),
        Some(GgufValue::Array(Array::Bool(layers))) if layers.len() == config.layers => {
            Ok(layers.iter().map(|rotated| !rotated).collect())
        }
        Some(_) => {
            Err(keys.error(KEY, format!("a flag for each of the {} layers is expected", config.layers)))
        }
    }
}
