//! Mixers that keep a state in place of keys and values: which layers have one, and its sizes.

use quern_tensor_io::{Array, Error, Result, Value};
use serde_json::{Map, Value as Json, json};

use crate::architecture::{Architecture, Field, GgufKey, Hybrid, Layout};

use crate::architectures::{GEMMA4_MOE, GRANITE_4, GRANITE_HYBRID_MOE, GRANITE_MOE, NEMOTRON_H_MOE};
use crate::json::Object;

use super::from_hf::Reader;
use super::gguf_keys::Keys;
use super::state_mixers::{DeltaNet, Mamba2, ShortConv, StateMixer, States};
use super::{Config, limit};

/// Most positions that a convolution may read.
const TAPS: usize = 64;

/// Layers from one with attention to the next, where nothing says it.
const INTERVAL: usize = 4;

/// Whether GGUF files of this family have the value heads of a delta net tiled.
fn tiled_in_gguf(architecture: &Architecture) -> bool {
    architecture.tensors.iter().any(|t| t.layout == Layout::DeltaValues)
}

/// What a `config.json` says.
pub(super) fn from_hf(reader: &Reader<'_>, config: &Config) -> Result<Option<States>> {
    let Some(taps) = reader.size(Field::ConvTaps, TAPS)? else { return Ok(None) };
    let root = reader.root;
    let need = |field, most| reader.need(field, most);
    if reader.has(Field::MambaHeads) {
        let mamba = Mamba2 {
            heads: need(Field::MambaHeads, limit::HEADS)?,
            head_dim: mamba_head_dim(reader, config)?,
            groups: need(Field::MambaGroups, limit::HEADS)?,
            state: need(Field::MambaState, limit::HIDDEN)?,
            taps,
            conv_bias: reader.flag(Field::StateConvBias, true)?,
            norm: normed(reader)?,
        };
        let (layers, networks) = match reader.architecture.hybrid {
            Hybrid::Single => {
                let kinds = single_layers(root, reader.architecture.has_experts)?;
                let of = |kind: Single| kinds.iter().map(|&own| own == kind).collect();
                (of(Single::State), of(Single::Network))
            }
            Hybrid::Either => (layers(reader, config, &["mamba", "linear_attention"])?, Vec::new()),
            Hybrid::Alone => (vec![true; config.layers], vec![false; config.layers]),
            Hybrid::Beside => (vec![true; config.layers], Vec::new()),
        };
        unlimited_steps(root)?;
        return Ok(Some(States { layers, mixer: StateMixer::Mamba2(mamba), networks }));
    }
    let (mixer, kind) = match reader.has(Field::DeltaKeyHeads) {
        true => (
            StateMixer::DeltaNet(DeltaNet {
                key_heads: need(Field::DeltaKeyHeads, limit::HEADS)?,
                value_heads: need(Field::DeltaValueHeads, limit::HEADS)?,
                key_dim: need(Field::DeltaKeyDim, limit::HIDDEN)?,
                value_dim: need(Field::DeltaValueDim, limit::HIDDEN)?,
                taps,
                tiled: false,
            }),
            "linear_attention",
        ),
        false => (StateMixer::ShortConv(ShortConv { taps }), "conv"),
    };
    Ok(Some(States { layers: layers(reader, config, &[kind])?, mixer, networks: Vec::new() }))
}

/// Refuses bounds of Mamba-2's steps, which llama.cpp does not know: none are below zero.
fn unlimited_steps(root: &Object<'_>) -> Result<()> {
    const LIMITS: &str = "time_step_limit";
    let Some(value) = root.get(LIMITS) else { return Ok(()) };
    let infinite = |value: &Json| value.get("__float__").and_then(Json::as_str) == Some("Infinity");
    match value.as_array().map(Vec::as_slice) {
        Some([least, most]) if least.as_f64() == Some(0.0) && infinite(most) => Ok(()),
        _ => {
            let what = format!("{}: steps of Mamba-2 within {value} are not supported", root.name(LIMITS));
            Err(Error::unsupported(root.file(), what))
        }
    }
}

/// Whether Mamba-2 normalizes what it gives: always, but for Falcon-H1. A norm in front of the gate is refused.
fn normed(reader: &Reader<'_>) -> Result<bool> {
    const NORM: &str = "mamba_rms_norm";
    const BEFORE: &str = "mamba_norm_before_gate";
    let root = reader.root;
    if reader.architecture.hybrid != Hybrid::Beside {
        return Ok(true);
    }
    let normed = root.bool(NORM)?.unwrap_or(false);
    if normed && root.bool(BEFORE)?.unwrap_or(true) {
        let what = format!("{}: a norm of Mamba-2 in front of its gate is not supported", root.name(BEFORE));
        return Err(Error::unsupported(root.file(), what));
    }
    Ok(normed)
}

/// Values in a head of Mamba-2: as is said, or as its whole width gives it, which must say the same (Granite 4 hybrid,
/// Falcon-H1).
fn mamba_head_dim(reader: &Reader<'_>, config: &Config) -> Result<usize> {
    const INNER: &str = "mamba_d_ssm";
    const EXPAND: &str = "mamba_expand";
    const HEAD_DIM: &str = "mamba_d_head";
    let root = reader.root;
    let beside = reader.architecture.hybrid == Hybrid::Beside;
    if !beside && !matches!(reader.architecture.name, "granitehybrid" | "granite") {
        return reader.need(Field::MambaHeadDim, limit::HIDDEN);
    }
    let heads = reader.need(Field::MambaHeads, limit::HEADS)?;
    let own = match beside && !root.is_null(INNER) {
        true => Some(root.size(INNER, limit::HIDDEN)?.unwrap_or(1024)),
        false => None,
    };
    let inner = match own {
        Some(inner) => inner,
        None => root.size(EXPAND, limit::HEADS)?.unwrap_or(2).saturating_mul(config.hidden_size),
    };
    let key = if own.is_some() { INNER } else { EXPAND };
    if !inner.is_multiple_of(heads) || inner > limit::HIDDEN {
        return Err(root.error(key, format!("{inner} values cannot form {heads} heads of Mamba-2")));
    }
    let said = match root.get(HEAD_DIM) {
        Some(value) if value.as_str() == Some("auto") => None,
        _ => root.size(HEAD_DIM, limit::HIDDEN)?,
    };
    match said {
        Some(said) if said != inner / heads => {
            let what = format!("{heads} heads of {said} values are not the {inner} that {key} gives");
            Err(root.error(HEAD_DIM, what))
        }
        _ => Ok(inner / heads),
    }
}

/// What a layer of Nemotron-H is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Single {
    State,
    Attention,
    Network,
}

const KINDS: &str = "layers_block_type";
const EXPERTS: &str = "num_local_experts";
const SHARED: &str = "shared_intermediate_size";
const PATTERN: &str = "hybrid_override_pattern";

/// The description for this `config.json`, of those that its class may have.
pub(super) fn variant(
    architecture: &'static Architecture,
    root: &Object<'_>,
) -> Result<&'static Architecture> {
    Ok(match architecture.name {
        "nemotron_h" => {
            let listed = root.array(KINDS)?.is_some_and(|list| list.iter().any(|kind| kind == "moe"));
            let named = root.str(PATTERN)?.is_some_and(|pattern| pattern.contains('E'));
            if listed || named { &NEMOTRON_H_MOE } else { architecture }
        }
        "gemma4" if root.bool("enable_moe_block")?.unwrap_or(false) => &GEMMA4_MOE,
        "granitehybrid" if rotates_everywhere(root)? => match root.u64(EXPERTS)?.unwrap_or(8) {
            0 => &GRANITE_4,
            // Whose class knows no such expert where the key is absent.
            _ if root.get(SHARED).is_none() => return Err(root.missing(SHARED)),
            _ => &GRANITE_MOE,
        },
        "granitehybrid" if root.u64(EXPERTS)?.unwrap_or(8) > 0 => &GRANITE_HYBRID_MOE,
        _ => architecture,
    })
}

/// Whether a model of Granite's hybrid class has attention with positions in all layers, and so is no hybrid.
fn rotates_everywhere(root: &Object<'_>) -> Result<bool> {
    let attention = |kind: &Json| kind == "attention" || kind == "full_attention";
    let listed = root.array("layer_types")?.is_some_and(|list| list.iter().all(attention));
    Ok(listed && root.str("position_embedding_type")? == Some("rope"))
}

/// What each layer is: as a list says, or the characters of a word.
fn single_layers(root: &Object<'_>, experts: bool) -> Result<Vec<Single>> {
    let unknown = |key: &str, kind: &str| {
        root.error(key, format!("{kind:?} is not a kind of layer that quern knows in such a model"))
    };
    let (key, kinds): (_, Vec<Single>) = if let Some(list) = root.array(KINDS)? {
        let kind = |entry: &Json| match entry.as_str().unwrap_or_default() {
            "linear_attention" | "mamba" => Ok(Single::State),
            "full_attention" | "attention" => Ok(Single::Attention),
            "mlp" if !experts => Ok(Single::Network),
            "moe" if experts => Ok(Single::Network),
            other => Err(unknown(KINDS, other)),
        };
        (KINDS, list.iter().map(kind).collect::<Result<_>>()?)
    } else if let Some(pattern) = root.str(PATTERN)? {
        let kind = |character: char| match character {
            'M' => Ok(Single::State),
            '*' => Ok(Single::Attention),
            '-' if !experts => Ok(Single::Network),
            'E' if experts => Ok(Single::Network),
            other => Err(unknown(PATTERN, &other.to_string())),
        };
        (PATTERN, pattern.chars().map(kind).collect::<Result<_>>()?)
    } else {
        return Err(root.missing(PATTERN));
    };
    match kinds.len() {
        1..=limit::LAYERS => Ok(kinds),
        other => Err(root.error(key, format!("{other} layers are not between 1 and {}", limit::LAYERS))),
    }
}

/// Which layers are of this kind: as `layer_types` or `full_attn_idxs` list them, or by an interval.
fn layers(reader: &Reader<'_>, config: &Config, kinds: &[&str]) -> Result<Vec<bool>> {
    let root = reader.root;
    if let Some(types) = root.array("layer_types")? {
        if types.len() != config.layers {
            let what = format!("{} entries for {} layers", types.len(), config.layers);
            return Err(root.error("layer_types", what));
        }
        let flag = |entry: &Json| match entry.as_str() {
            Some("full_attention" | "attention") => Ok(false),
            Some(found) if kinds.contains(&found) => Ok(true),
            _ => {
                let what = format!("{entry} is not a kind of layer that quern knows in such a model");
                Err(root.error("layer_types", what))
            }
        };
        return types.iter().map(flag).collect();
    }
    if kinds.contains(&"mamba") {
        // transformers gives all layers a state where nothing is listed.
        return Ok(vec![true; config.layers]);
    }
    if kinds.contains(&"conv") {
        // transformers takes all layers for attention where nothing is listed.
        let Some(listed) = root.array("full_attn_idxs")? else { return Ok(vec![false; config.layers]) };
        let listed: Vec<u64> = listed.iter().filter_map(Json::as_u64).collect();
        return Ok((0..config.layers as u64).map(|layer| !listed.contains(&layer)).collect());
    }
    let every = root.size("full_attention_interval", limit::LAYERS)?.unwrap_or(INTERVAL);
    Ok(but_every(every, config.layers))
}

/// All layers but each `n`-th.
fn but_every(n: usize, layers: usize) -> Vec<bool> {
    (0..layers).map(|layer| !(layer + 1).is_multiple_of(n)).collect()
}

/// The interval from one layer with attention to the next, if there is one.
fn interval(states: &States) -> Option<usize> {
    (1..=states.layers.len() + 1).find(|&n| but_every(n, states.layers.len()) == states.layers)
}

/// Adds to a `config.json` what no table of keys says.
pub(super) fn to_hf(config: &Config, out: &mut Map<String, Json>) {
    let Some(states) = &config.states else { return };
    let kind = match states.mixer {
        StateMixer::DeltaNet(_) => "linear_attention",
        StateMixer::ShortConv(_) => "conv",
        StateMixer::Mamba2(_) if config.architecture.hybrid == Hybrid::Single => {
            let kind = |layer| match (config.has_state(layer), config.is_network(layer)) {
                (true, _) => 'M',
                (false, true) if config.experts.is_some() => 'E',
                (false, true) => '-',
                (false, false) => '*',
            };
            let pattern: String = (0..config.layers).map(kind).collect();
            out.insert(PATTERN.to_owned(), json!(pattern));
            return;
        }
        StateMixer::Mamba2(_) if [Hybrid::Alone, Hybrid::Beside].contains(&config.architecture.hybrid) => {
            return;
        }
        StateMixer::Mamba2(_) => "mamba",
    };
    let attention = if kind == "mamba" { "attention" } else { "full_attention" };
    let kinds = states.layers.iter().map(|&state| if state { kind } else { attention });
    out.insert("layer_types".to_owned(), kinds.collect());
    if let (StateMixer::DeltaNet(_), Some(every)) = (states.mixer, interval(states)) {
        out.insert("full_attention_interval".to_owned(), json!(every));
    }
}

/// What GGUF metadata says.
pub(super) fn from_gguf(keys: &Keys<'_>, config: &Config) -> Result<Option<States>> {
    let has = |key| config.architecture.gguf_keys.contains(&key);
    if has(GgufKey::ShortConv) {
        let taps = keys.need("shortconv.l_cache", TAPS)?;
        let counts = for_each_layer(keys, KV_HEADS, config.layers)?;
        let layers = counts.into_iter().map(|count| count == 0).collect();
        let mixer = StateMixer::ShortConv(ShortConv { taps });
        return Ok(Some(States { layers, mixer, networks: Vec::new() }));
    }
    if has(GgufKey::Mamba2) {
        return mamba2(keys, config).map(Some);
    }
    if !has(GgufKey::DeltaNet) {
        return Ok(None);
    }
    let (value_heads, value_dim) = heads(keys)?;
    let net = DeltaNet {
        key_heads: keys.need("ssm.group_count", limit::HEADS)?,
        value_heads,
        key_dim: keys.need("ssm.state_size", limit::HIDDEN)?,
        value_dim,
        taps: keys.need("ssm.conv_kernel", TAPS)?,
        tiled: tiled_in_gguf(config.architecture),
    };
    const LAYERS: &str = "attention.recurrent_layers";
    let layers = match keys.metadata.get(&keys.name(LAYERS)) {
        Some(Value::Array(Array::Bool(flags))) if flags.len() >= config.layers => {
            flags[..config.layers].to_vec()
        }
        Some(_) => {
            return Err(
                keys.error(LAYERS, format!("a flag for each of {} layers is expected", config.layers))
            );
        }
        None => {
            let every = keys.size("full_attention_interval", limit::LAYERS)?.unwrap_or(INTERVAL);
            but_every(every, config.layers)
        }
    };
    Ok(Some(States { layers, mixer: StateMixer::DeltaNet(net), networks: Vec::new() }))
}

/// Mamba-2 and layers that are one thing each.
fn mamba2(keys: &Keys<'_>, config: &Config) -> Result<States> {
    let (heads, head_dim) = heads(keys)?;
    let mamba = Mamba2 {
        heads,
        head_dim,
        groups: keys.need("ssm.group_count", limit::HEADS)?,
        state: keys.need("ssm.state_size", limit::HIDDEN)?,
        taps: keys.need("ssm.conv_kernel", TAPS)?,
        // As all files of such models have it.
        conv_bias: true,
        // Of Falcon-H1 the tensors show it.
        norm: true,
    };
    let hybrid = config.architecture.hybrid;
    if hybrid == Hybrid::Alone {
        let (layers, networks) = (vec![true; config.layers], vec![false; config.layers]);
        return Ok(States { layers, mixer: StateMixer::Mamba2(mamba), networks });
    }
    if hybrid == Hybrid::Beside {
        let layers = vec![true; config.layers];
        return Ok(States { layers, mixer: StateMixer::Mamba2(mamba), networks: Vec::new() });
    }
    let counts = for_each_layer(keys, KV_HEADS, config.layers)?;
    if hybrid == Hybrid::Either {
        let layers = counts.into_iter().map(|count| count == 0).collect();
        return Ok(States { layers, mixer: StateMixer::Mamba2(mamba), networks: Vec::new() });
    }
    let widths = for_each_layer(keys, WIDTHS, config.layers)?;
    let networks: Vec<bool> = widths.iter().map(|&width| width > 0).collect();
    // As llama.cpp's loader decides it.
    let layers = counts.iter().zip(&networks).map(|(&count, &network)| count == 0 && !network).collect();
    Ok(States { layers, mixer: StateMixer::Mamba2(mamba), networks })
}

/// Heads of a state, and the values in one.
fn heads(keys: &Keys<'_>) -> Result<(usize, usize)> {
    let heads = keys.need("ssm.time_step_rank", limit::HEADS)?;
    let values = keys.need("ssm.inner_size", limit::HIDDEN)?;
    match values.is_multiple_of(heads) {
        true => Ok((heads, values / heads)),
        false => Err(keys.error("ssm.inner_size", format!("{heads} heads do not divide {values}"))),
    }
}

/// Key-value heads of each layer.
const KV_HEADS: &str = "attention.head_count_kv";
/// The network's width in each layer.
const WIDTHS: &str = "feed_forward_length";

/// A number for each layer.
fn for_each_layer(keys: &Keys<'_>, key: &str, layers: usize) -> Result<Vec<usize>> {
    let numbers: Option<Vec<usize>> = match keys.metadata.get(&keys.name(key)) {
        Some(Value::Array(Array::I32(list))) => list.iter().map(|&n| usize::try_from(n).ok()).collect(),
        Some(Value::Array(Array::U32(list))) => list.iter().map(|&n| usize::try_from(n).ok()).collect(),
        _ => None,
    };
    let fit = numbers.filter(|list| list.len() >= layers && list.iter().all(|&n| n <= limit::HIDDEN));
    let mut list =
        fit.ok_or_else(|| keys.error(key, format!("a number for each of {layers} layers is expected")))?;
    list.truncate(layers);
    Ok(list)
}

/// The number above zero that all layers with such have; `None` if none has.
fn same_in_all(keys: &Keys<'_>, key: &str, layers: usize) -> Result<Option<usize>> {
    let mut numbers = for_each_layer(keys, key, layers)?;
    numbers.retain(|&number| number > 0);
    let first = numbers.first().copied();
    match numbers.iter().all(|&number| Some(number) == first) {
        true => Ok(first),
        false => Err(keys.error(key, "layers with different numbers above zero are not supported")),
    }
}

/// Key-value heads of the layers with attention.
pub(super) fn kv_heads(
    keys: &Keys<'_>,
    architecture: &Architecture,
    (heads, layers): (usize, usize),
) -> Result<usize> {
    // Of Granite 4 without Mamba-2 the converter writes a list, too.
    let listed = matches!(keys.metadata.get(&keys.name(KV_HEADS)), Some(Value::Array(_)));
    match listed || architecture.gguf_keys.contains(&GgufKey::HeadCountKvLayers) {
        true => Ok(same_in_all(keys, KV_HEADS, layers)?.unwrap_or(heads)),
        false => Ok(keys.size(KV_HEADS, limit::HEADS)?.unwrap_or(heads)),
    }
}

/// Query heads.
pub(super) fn heads_of(keys: &Keys<'_>, architecture: &Architecture) -> Result<usize> {
    match architecture.hybrid {
        // There are none, and files say 0.
        Hybrid::Alone => Ok(1),
        Hybrid::Either | Hybrid::Single | Hybrid::Beside => keys.need("attention.head_count", limit::HEADS),
    }
}

/// The width of networks.
pub(super) fn ffn_size(
    keys: &Keys<'_>,
    architecture: &Architecture,
    (hidden, layers): (usize, usize),
) -> Result<usize> {
    // There is none, and files say 0.
    if architecture.hybrid == Hybrid::Alone {
        return Ok(1);
    }
    match architecture.gguf_keys.contains(&GgufKey::FeedForwardLengthLayers) {
        true => Ok(same_in_all(keys, WIDTHS, layers)?.unwrap_or(1)),
        // A mixture of experts in every layer has no such width.
        false if !architecture.gguf_keys.contains(&GgufKey::FeedForwardLength) => Ok(4 * hidden),
        false => keys.need(WIDTHS, limit::HIDDEN),
    }
}

/// Sets the GGUF metadata of one key.
pub(crate) fn to_gguf(config: &Config, key: GgufKey, set: &mut impl FnMut(&str, Value)) {
    let Some(states) = &config.states else { return };
    let size = |v: usize| Value::U32(v as u32);
    match states.mixer {
        StateMixer::DeltaNet(net) if key == GgufKey::DeltaNet => {
            set("ssm.conv_kernel", size(net.taps));
            set("ssm.state_size", size(net.key_dim));
            set("ssm.group_count", size(net.key_heads));
            set("ssm.time_step_rank", size(net.value_heads));
            set("ssm.inner_size", size(net.values()));
            set("attention.recurrent_layers", Value::Array(Array::Bool(states.layers.clone())));
            set("full_attention_interval", size(interval(states).unwrap_or(INTERVAL)));
        }
        StateMixer::ShortConv(conv) if key == GgufKey::ShortConv => set("shortconv.l_cache", size(conv.taps)),
        StateMixer::Mamba2(mamba) if key == GgufKey::Mamba2 => {
            set("ssm.conv_kernel", size(mamba.taps));
            set("ssm.state_size", size(mamba.state));
            set("ssm.group_count", size(mamba.groups));
            set("ssm.inner_size", size(mamba.inner()));
            set("ssm.time_step_rank", size(mamba.heads));
        }
        StateMixer::DeltaNet(_) | StateMixer::ShortConv(_) | StateMixer::Mamba2(_) => {
            let number = |layer: usize| match key == GgufKey::FeedForwardLengthLayers {
                true if config.is_network(layer) => config.ffn_size as i32,
                false if config.has_attention(layer) => config.kv_heads as i32,
                true | false => 0,
            };
            let name = if key == GgufKey::FeedForwardLengthLayers { WIDTHS } else { KV_HEADS };
            set(name, Value::Array(Array::I32((0..config.layers).map(number).collect())));
        }
    }
}
