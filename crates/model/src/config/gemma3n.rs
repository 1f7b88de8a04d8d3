//! Gemma 3n: several residual streams (AltUp), a second way beside attention (Laurel), networks of which few values are
//! active, and, as in Gemma 4, vectors of each token in each layer and layers that share keys and values.

use quern_tensor_io::{Checkpoint, Error, Result};
use serde_json::{Map, Value, json};

use crate::json::{Object, as_u64};

use super::from_hf::Reader;
use super::gguf_keys::Keys;
use super::to_hf::shortest;
use super::{Config, PerLayer, limit};

/// The width of the networks, which `config.json` states layer by layer; `None` of other families and where it is one
/// number.
pub(super) fn network(reader: &Reader<'_>) -> Result<Option<usize>> {
    const KEY: &str = "intermediate_size";
    if reader.architecture.name != "gemma3n" {
        return Ok(None);
    }
    let Some(Value::Array(list)) = reader.root.get(KEY) else { return Ok(None) };
    let first = list.first().and_then(as_u64).filter(|&n| n >= 1 && n <= limit::HIDDEN as u64);
    match first.filter(|&first| list.iter().all(|size| as_u64(size) == Some(first))) {
        Some(size) => Ok(Some(size as usize)),
        None => {
            let what = format!(
                "{}: gemma3n models whose layers have networks of different widths are not supported",
                reader.root.name(KEY)
            );
            Err(Error::unsupported(reader.root.file(), what))
        }
    }
}

/// Completes a configuration read from `config.json`.
pub(super) fn from_hf(reader: &Reader<'_>, config: &mut Config) -> Result<()> {
    let root = reader.root;
    let number = |key: &str, otherwise: usize, max: usize| match root.u64(key)? {
        Some(n) if n > max as u64 => Err(root.error(key, format!("{n} is too large"))),
        n => Ok(n.map_or(otherwise, |n| n as usize)),
    };
    if number("altup_active_idx", 0, limit::HEADS)? != 0 {
        let what = format!(
            "{}: gemma3n models with another active stream than the first are not supported",
            root.name("altup_active_idx")
        );
        return Err(Error::unsupported(root.file(), what));
    }
    config.streams = number("altup_num_inputs", 4, 16)?;
    config.laurel_rank = number("laurel_rank", 64, limit::HIDDEN)?;
    config.shared_kv_layers = number("num_kv_shared_layers", 15, limit::LAYERS)?;
    let size = number("hidden_size_per_layer_input", 256, limit::HIDDEN)?;
    let vocab = number("vocab_size_per_layer_input", 262_144, limit::VOCAB)?;
    config.cutoffs = cutoffs(root, config.layers)?;
    for (key, value) in [
        ("altup_num_inputs", config.streams),
        ("laurel_rank", config.laurel_rank),
        ("hidden_size_per_layer_input", size),
    ] {
        if value == 0 {
            return Err(root.error(key, "0 is not supported for gemma3n models"));
        }
    }
    // Tokens beyond add what the first adds.
    config.per_layer = Some(PerLayer { size, vocab: vocab.clamp(1, config.vocab_size) });
    config.attention_multiplier = Some(1.0);
    if config.shared_kv_layers >= config.layers {
        return Err(root.error("num_kv_shared_layers", "no layer has keys and values of its own"));
    }
    Ok(())
}

/// `activation_sparsity_pattern`: the share of each layer's gates that is cut off.
fn cutoffs(root: &Object<'_>, layers: usize) -> Result<Vec<f32>> {
    const KEY: &str = "activation_sparsity_pattern";
    let Some(list) = root.array(KEY)? else {
        let sparse = if layers > 10 { 10 } else { 0 };
        return Ok((0..layers).map(|layer| quantile(if layer < sparse { 0.95 } else { 0.0 })).collect());
    };
    let shares: Option<Vec<f64>> = list.iter().map(Value::as_f64).collect();
    match shares.filter(|shares| shares.len() == layers && shares.iter().all(|&s| (0.0..1.0).contains(&s))) {
        Some(shares) => Ok(shares.into_iter().map(quantile).collect()),
        None => {
            Err(root.error(KEY, format!("a number from 0 to 1 for each of the {layers} layers is expected")))
        }
    }
}

/// The normal distribution function.
fn below(x: f64) -> f64 {
    // erf(x / sqrt 2) by its series, which has converged for all that is asked here.
    let z = x / std::f64::consts::SQRT_2;
    let (mut term, mut sum) = (z, z);
    for n in 1..200 {
        term *= -z * z / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    0.5 * (1.0 + std::f64::consts::FRAC_2_SQRT_PI * sum)
}

/// Below how many standard deviations above the mean a share of a normal distribution is; minus infinity for none.
fn quantile(share: f64) -> f32 {
    if share <= 0.0 {
        return f32::NEG_INFINITY;
    }
    let (mut low, mut high) = (-4.0, 4.0);
    for _ in 0..80 {
        let middle = 0.5 * (low + high);
        if below(middle) < share { low = middle } else { high = middle }
    }
    (0.5 * (low + high)) as f32
}

/// Completes a configuration read from GGUF metadata.
pub(super) fn from_gguf(keys: &Keys<'_>, checkpoint: &Checkpoint, config: &mut Config) -> Result<()> {
    let number = |key: &str| match keys.metadata.get(&keys.name(key)).and_then(|value| value.as_u64()) {
        Some(0) => Ok(0),
        _ => keys.need(key, limit::HIDDEN),
    };
    if number("altup.active_idx")? != 0 {
        let what = format!("{}: only the first stream can be active", keys.name("altup.active_idx"));
        return Err(Error::unsupported(keys.file, what));
    }
    config.streams = number("altup.num_inputs")?.clamp(1, 16);
    config.shared_kv_layers = number("attention.shared_kv_layers")?;
    config.per_layer =
        Some(PerLayer { size: number("embedding_length_per_layer_input")?.max(1), vocab: config.vocab_size });
    let scales = keys.metadata.f32s(&keys.name("activation_sparsity_scale"));
    config.cutoffs = match scales {
        Some(scales) if scales.len() == config.layers => scales.to_vec(),
        _ => return Err(keys.error("activation_sparsity_scale", "a number for each layer is expected")),
    };
    // No key says it.
    let narrow = checkpoint.tensor("blk.0.laurel_l.weight").map(|t| t.info.shape.clone());
    config.laurel_rank = narrow.and_then(|shape| shape.first().copied()).unwrap_or(64);
    config.attention_multiplier = Some(1.0);
    if config.shared_kv_layers >= config.layers {
        return Err(keys.error("attention.shared_kv_layers", "no layer has keys and values of its own"));
    }
    Ok(())
}

/// What the tables of keys do not say.
pub(super) fn to_hf(config: &Config, out: &mut Map<String, Value>) {
    let mut set = |key: &str, value: Value| drop(out.insert(key.to_owned(), value));
    set("intermediate_size", json!(vec![config.ffn_size; config.layers]));
    set("altup_active_idx", json!(0));
    set("altup_num_inputs", json!(config.streams));
    set("altup_correct_scale", json!(true));
    set("altup_coef_clip", json!(120.0));
    set("laurel_rank", json!(config.laurel_rank));
    set("num_kv_shared_layers", json!(config.shared_kv_layers));
    if let Some(PerLayer { size, vocab }) = config.per_layer {
        set("hidden_size_per_layer_input", json!(size));
        set("vocab_size_per_layer_input", json!(vocab));
    }
    let share = |&cutoff: &f32| match cutoff.is_finite() {
        // Published shares have two digits.
        true => shortest((below(cutoff.into()) * 1e6).round() as f32 / 1e6),
        false => json!(0.0),
    };
    set("activation_sparsity_pattern", config.cutoffs.iter().map(share).collect());
    let kind = |&limited: &bool| if limited { "sliding_attention" } else { "full_attention" };
    set("layer_types", config.sliding_layers.iter().map(kind).collect());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_the_normal_distribution() {
        for (share, expected) in [(0.5, 0.0), (0.8, 0.841_621_2), (0.95, 1.644_853_6), (0.05, -1.644_853_6)] {
            assert!((quantile(share) - expected).abs() < 1e-6, "{share}: {}", quantile(share));
            assert!((below(quantile(share).into()) - share).abs() < 1e-7);
        }
        assert_eq!(quantile(0.0), f32::NEG_INFINITY);
    }
}
