//! Gemma 4: sizes that differ between layers under a window and others, keys and values that layers share, and a rope that
//! leaves a part of each head as it is. `config.json` states them in two ways, of the first releases
//! (`global_head_dim`) and of transformers 5 (`per_layer_config`).

use quern_tensor_io::{Checkpoint, Error, Result};
use serde_json::{Map, Value, json};

use crate::json::Object;

use super::from_hf::Reader;
use super::gguf_keys::Keys;
use super::to_hf::shortest;
use super::{Config, KeyHeads, PerLayer, Rope, RopeScaling, limit};

/// What the divisor of pairs that are not rotated is in GGUF: a rotation so slow that nothing moves.
const STILL: f32 = 1e30;

/// Completes a configuration whose sizes of heads are those of layers under the window.
pub(super) fn from_hf(reader: &Reader<'_>, config: &mut Config) -> Result<()> {
    let root = reader.root;
    // transformers makes it so, whatever the list says.
    if let Some(last) = config.sliding_layers.last_mut() {
        *last = false;
    }
    let own = overrides(root, config)?;
    let global = match (&own, root.size("global_head_dim", limit::HIDDEN)?) {
        (Some(own), None) => own.size("head_dim", limit::HIDDEN)?.unwrap_or(config.head_dim),
        (_, Some(size)) => size,
        (None, None) => 512,
    };
    let shares = root.bool("attention_k_eq_v")?.unwrap_or(false);
    let count = match (&own, root.size("num_global_key_value_heads", limit::HEADS)?) {
        (_, Some(count)) if shares => Some(count),
        (Some(own), _) => own.size("num_key_value_heads", limit::HEADS)?,
        (None, _) => None,
    };
    config.windowed_heads = Some(KeyHeads { count: config.kv_heads, size: config.head_dim });
    (config.head_dim, config.kv_heads) = (global, count.unwrap_or(config.kv_heads));
    config.keys_as_values = shares;
    config.shared_kv_layers = whole(root, "num_kv_shared_layers")?.unwrap_or(0);
    config.shared_ffn_doubled = root.bool("use_double_wide_mlp")?.unwrap_or(false);
    config.attention_multiplier = Some(1.0);
    let size = whole(root, "hidden_size_per_layer_input")?.unwrap_or(256);
    let vocab = root.size("vocab_size_per_layer_input", limit::VOCAB)?.unwrap_or(262_144);
    config.per_layer = (size > 0).then_some(PerLayer { size, vocab });
    config.rope = rope(root, global)?;
    if config.shared_kv_layers >= config.layers {
        return Err(root.error("num_kv_shared_layers", "no layer has keys and values of its own"));
    }
    Ok(())
}

/// A number that may be zero.
fn whole(root: &Object<'_>, key: &str) -> Result<Option<usize>> {
    match root.u64(key)? {
        Some(n) if n > limit::HIDDEN as u64 => Err(root.error(key, format!("{n} is too large"))),
        n => Ok(n.map(|n| n as usize)),
    }
}

/// What `per_layer_config` says of the first layer without a window; it must say the same of all of them.
fn overrides<'a>(root: &Object<'a>, config: &Config) -> Result<Option<Object<'a>>> {
    const KEY: &str = "per_layer_config";
    let Some(all) = root.object(KEY)? else { return Ok(None) };
    let mut found: Option<Object<'_>> = None;
    for (layer, limited) in config.sliding_layers.iter().enumerate() {
        let own = all.object(&layer.to_string())?;
        let same = match (&own, &found) {
            (Some(own), Some(found)) => own.value() == found.value(),
            (own, None) => own.is_some() != *limited,
            (None, Some(_)) => *limited,
        };
        if !same || (own.is_some() && *limited) {
            return Err(root.error(KEY, "sizes that differ within a kind of layer are not supported"));
        }
        found = found.or(own);
    }
    Ok(found)
}

/// Two bases; of layers without a window only a part of each head is rotated, the pairs in front.
fn rope(root: &Object<'_>, head_dim: usize) -> Result<Rope> {
    let parameters = root.object("rope_parameters")?;
    let of_kind = |kind: &str| match &parameters {
        Some(parameters) => parameters.object(kind),
        None => Ok(None),
    };
    let (global, local) = (of_kind("full_attention")?, of_kind("sliding_attention")?);
    let number = |object: &Option<Object<'_>>, key: &str, otherwise: f64| match object {
        Some(object) => Ok(object.f64(key)?.unwrap_or(otherwise)),
        None => Ok::<f64, Error>(otherwise),
    };
    let word = |object: &Option<Object<'_>>, otherwise: &str| match object {
        Some(object) => Ok(object.str("rope_type")?.unwrap_or(otherwise).to_owned()),
        None => Ok::<String, Error>(otherwise.to_owned()),
    };
    let (kind, local_kind) = (word(&global, "proportional")?, word(&local, "default")?);
    let factor = number(&global, "factor", 1.0)?;
    if kind != "proportional" || local_kind != "default" || factor != 1.0 {
        let what = format!(
            "{}: gemma4 models with rope of type {kind:?} (factor {factor}) and {local_kind:?} are not supported \
             (\"proportional\" and \"default\" are)",
            root.name("rope_parameters")
        );
        return Err(Error::unsupported(root.file(), what));
    }
    let partial = number(&global, "partial_rotary_factor", if global.is_some() { 1.0 } else { 0.25 })?;
    if !(0.0..=1.0).contains(&partial) {
        return Err(root.error("rope_parameters", format!("{partial} is not a fraction of a head")));
    }
    let rotated = (partial * head_dim as f64 / 2.0) as usize;
    let factors = (0..head_dim / 2).map(|pair| if pair < rotated { 1.0 } else { STILL }).collect();
    Ok(Rope {
        theta: number(&global, "rope_theta", 1e6)? as f32,
        dimensions: head_dim,
        scaling: RopeScaling::None,
        factors: Some(factors),
        local_theta: Some(number(&local, "rope_theta", 1e4)? as f32),
    })
}

/// Completes a configuration read from GGUF metadata.
pub(super) fn from_gguf(keys: &Keys<'_>, checkpoint: &Checkpoint, config: &mut Config) -> Result<()> {
    let size = keys.size("attention.key_length_swa", limit::HIDDEN)?.unwrap_or(config.head_dim);
    let per_layer = |counts: &[usize], limited: bool| {
        let own = |(_, flag): &(&usize, &bool)| **flag == limited;
        counts.iter().zip(&config.sliding_layers).find(own).map(|(&count, _)| count)
    };
    let counts = keys.layers("attention.head_count_kv", limit::HEADS)?;
    let (windowed, other) = match &counts {
        Some(counts) => (per_layer(counts, true), per_layer(counts, false)),
        None => (None, None),
    };
    let widths = keys.layers("feed_forward_length", limit::HIDDEN)?;
    config.windowed_heads = Some(KeyHeads { count: windowed.unwrap_or(config.kv_heads), size });
    config.kv_heads = other.unwrap_or(config.kv_heads);
    let zero_or = |key: &str| match keys.metadata.get(&keys.name(key)).and_then(|value| value.as_u64()) {
        Some(0) => Ok(0),
        _ => Ok::<usize, Error>(keys.size(key, limit::HIDDEN)?.unwrap_or(0)),
    };
    config.shared_kv_layers = zero_or("attention.shared_kv_layers")?;
    config.shared_ffn_doubled =
        widths.is_some_and(|widths| widths.last().is_some_and(|&last| last == 2 * config.ffn_size));
    let size = zero_or("embedding_length_per_layer_input")?;
    config.per_layer = (size > 0).then_some(PerLayer { size, vocab: config.vocab_size });
    config.attention_multiplier = Some(1.0);
    // No key says it.
    let global = config.sliding_layers.iter().position(|&limited| !limited);
    let values = |layer: usize| checkpoint.tensor(&format!("blk.{layer}.attn_v.weight")).is_some();
    config.keys_as_values = global.is_some_and(|layer| !values(layer));
    if config.shared_kv_layers >= config.layers {
        return Err(keys.error("attention.shared_kv_layers", "no layer has keys and values of its own"));
    }
    Ok(())
}

/// What the tables of keys do not say.
pub(super) fn to_hf(config: &Config, out: &mut Map<String, Value>) {
    let mut set = |key: &str, value: Value| drop(out.insert(key.to_owned(), value));
    let windowed =
        config.windowed_heads.unwrap_or(KeyHeads { count: config.kv_heads, size: config.head_dim });
    set("head_dim", json!(windowed.size));
    set("num_key_value_heads", json!(windowed.count));
    set("global_head_dim", json!(config.head_dim));
    let differs = config.kv_heads != windowed.count;
    set("num_global_key_value_heads", if differs { json!(config.kv_heads) } else { Value::Null });
    set("attention_k_eq_v", json!(config.keys_as_values));
    set("num_kv_shared_layers", json!(config.shared_kv_layers));
    set("use_double_wide_mlp", json!(config.shared_ffn_doubled));
    set("hidden_size_per_layer_input", json!(config.per_layer.map_or(0, |per_layer| per_layer.size)));
    let vocab = config.per_layer.map_or(config.vocab_size, |per_layer| per_layer.vocab);
    set("vocab_size_per_layer_input", json!(vocab));
    set("enable_moe_block", json!(config.experts.is_some()));
    let kind = |&limited: &bool| if limited { "sliding_attention" } else { "full_attention" };
    set("layer_types", config.sliding_layers.iter().map(kind).collect());
    let pairs = config.head_dim / 2;
    let rotated = config
        .rope
        .factors
        .as_ref()
        .map_or(pairs, |factors| factors.iter().filter(|&&factor| factor == 1.0).count());
    let full = json!({
        "rope_type": "proportional",
        "rope_theta": shortest(config.rope.theta),
        "partial_rotary_factor": rotated as f64 / pairs.max(1) as f64,
    });
    let sliding = json!({
        "rope_type": "default",
        "rope_theta": shortest(config.rope.local_theta.unwrap_or(1e4)),
    });
    set("rope_parameters", json!({ "full_attention": full, "sliding_attention": sliding }));
    out.remove("rope_scaling");
    out.remove("rope_theta");
}
