//! Mixers that keep a state in place of keys and values: which layers have one, and its sizes.

use quern_tensor_io::{Array, Result, Value};
use serde_json::{Map, Value as Json, json};

use crate::architecture::{Architecture, Field, GgufKey};

use super::from_hf::Reader;
use super::gguf_keys::Keys;
use super::{Config, limit};

/// The layers whose mixer keeps a state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct States {
    /// Which layers they are, one flag a layer.
    pub layers: Vec<bool>,
    /// Their mixer.
    pub mixer: StateMixer,
}

/// A mixer that keeps a state of fixed size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateMixer {
    /// The gated delta net of Qwen3-Next.
    DeltaNet(DeltaNet),
    /// The gated convolution of LFM2.
    ShortConv(ShortConv),
}

/// Sizes of a gated delta net.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeltaNet {
    /// Heads of keys and queries; divides `value_heads`.
    pub key_heads: usize,
    /// Heads of values.
    pub value_heads: usize,
    /// Values in a key or query head.
    pub key_dim: usize,
    /// Values in a value head.
    pub value_dim: usize,
    /// Positions that its convolution reads.
    pub taps: usize,
    /// The checkpoint has the first value head of each key head, then the second of each; otherwise those of one key
    /// head follow each other.
    pub tiled: bool,
}

/// Sizes of a gated convolution as wide as the residual stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShortConv {
    /// Positions that it reads.
    pub taps: usize,
}

/// Most positions that a convolution may read.
const TAPS: usize = 64;

/// Layers from one with attention to the next, where nothing says it.
const INTERVAL: usize = 4;

impl StateMixer {
    /// Positions that its convolution reads.
    pub fn taps(&self) -> usize {
        match self {
            Self::DeltaNet(net) => net.taps,
            Self::ShortConv(conv) => conv.taps,
        }
    }

    /// What it is called.
    pub fn name(&self) -> &'static str {
        match self {
            Self::DeltaNet(_) => "gated delta nets",
            Self::ShortConv(_) => "short convolutions",
        }
    }
}

impl DeltaNet {
    /// Queries, keys and values of a token.
    pub fn width(&self) -> usize {
        2 * self.key_heads * self.key_dim + self.values()
    }

    /// Values of a token.
    pub fn values(&self) -> usize {
        self.value_heads * self.value_dim
    }
}

impl States {
    /// The rules that hold for both formats; what is wrong otherwise.
    pub(super) fn check(&self, layers: usize) -> Result<(), String> {
        if self.layers.len() != layers {
            return Err(format!("kinds of {} layers are given for {layers} layers", self.layers.len()));
        }
        match self.mixer {
            StateMixer::DeltaNet(net) if !net.value_heads.is_multiple_of(net.key_heads) => Err(format!(
                "{} value heads of a delta net cannot share {} key heads evenly",
                net.value_heads, net.key_heads
            )),
            StateMixer::DeltaNet(_) | StateMixer::ShortConv(_) => Ok(()),
        }
    }
}

impl Config {
    /// Whether this layer's mixer keeps a state in place of keys and values.
    pub fn has_state(&self, layer: usize) -> bool {
        self.states.as_ref().is_some_and(|states| states.layers.get(layer).copied().unwrap_or(false))
    }

    /// The sizes of its delta nets, where it has such.
    pub fn delta_net(&self) -> Option<&DeltaNet> {
        match &self.states.as_ref()?.mixer {
            StateMixer::DeltaNet(net) => Some(net),
            StateMixer::ShortConv(_) => None,
        }
    }

    /// Layers with keys and values.
    pub fn attention_layers(&self) -> usize {
        (0..self.layers).filter(|&layer| !self.has_state(layer)).count()
    }
}

/// Whether GGUF files of this family have the value heads of a delta net tiled.
fn tiled_in_gguf(architecture: &Architecture) -> bool {
    architecture.tensors.iter().any(|t| t.layout == crate::architecture::Layout::DeltaValues)
}

/// What a `config.json` says.
pub(super) fn from_hf(reader: &Reader<'_>, config: &Config) -> Result<Option<States>> {
    let Some(taps) = reader.size(Field::ConvTaps, TAPS)? else { return Ok(None) };
    let need = |field, most| reader.need(field, most);
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
    Ok(Some(States { layers: layers(reader, config, kind)?, mixer }))
}

/// Which layers are of this kind: as `layer_types` or `full_attn_idxs` list them, or by an interval.
fn layers(reader: &Reader<'_>, config: &Config, kind: &str) -> Result<Vec<bool>> {
    let root = reader.root;
    if let Some(types) = root.array("layer_types")? {
        if types.len() != config.layers {
            let what = format!("{} entries for {} layers", types.len(), config.layers);
            return Err(root.error("layer_types", what));
        }
        let flag = |entry: &Json| match entry.as_str() {
            Some("full_attention") => Ok(false),
            Some(found) if found == kind => Ok(true),
            _ => {
                let what = format!("{entry} is not a kind of layer that quern knows in such a model");
                Err(root.error("layer_types", what))
            }
        };
        return types.iter().map(flag).collect();
    }
    if kind == "conv" {
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
    };
    let kinds = states.layers.iter().map(|&state| if state { kind } else { "full_attention" });
    out.insert("layer_types".to_owned(), kinds.collect());
    if let (StateMixer::DeltaNet(_), Some(every)) = (states.mixer, interval(states)) {
        out.insert("full_attention_interval".to_owned(), json!(every));
    }
}

/// What GGUF metadata says.
pub(super) fn from_gguf(keys: &Keys<'_>, config: &Config) -> Result<Option<States>> {
    let architecture = config.architecture;
    let has = |key| architecture.gguf_keys.contains(&key);
    if has(GgufKey::ShortConv) {
        let taps = keys.need("shortconv.l_cache", TAPS)?;
        let counts = kv_counts(keys)?;
        if counts.len() != config.layers {
            return Err(
                keys.error("attention.head_count_kv", format!("{} numbers are expected", config.layers))
            );
        }
        let layers = counts.into_iter().map(|count| count == 0).collect();
        return Ok(Some(States { layers, mixer: StateMixer::ShortConv(ShortConv { taps }) }));
    }
    if !has(GgufKey::DeltaNet) {
        return Ok(None);
    }
    let value_heads = keys.need("ssm.time_step_rank", limit::HEADS)?;
    let values = keys.need("ssm.inner_size", limit::HIDDEN)?;
    if !values.is_multiple_of(value_heads) {
        return Err(keys.error("ssm.inner_size", format!("{value_heads} value heads do not divide {values}")));
    }
    let net = DeltaNet {
        key_heads: keys.need("ssm.group_count", limit::HEADS)?,
        value_heads,
        key_dim: keys.need("ssm.state_size", limit::HIDDEN)?,
        value_dim: values / value_heads,
        taps: keys.need("ssm.conv_kernel", TAPS)?,
        tiled: tiled_in_gguf(architecture),
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
    Ok(Some(States { layers, mixer: StateMixer::DeltaNet(net) }))
}

/// `attention.head_count_kv` as a list.
fn kv_counts(keys: &Keys<'_>) -> Result<Vec<usize>> {
    const KEY: &str = "attention.head_count_kv";
    let numbers = match keys.metadata.get(&keys.name(KEY)) {
        Some(Value::Array(Array::I32(list))) => list.iter().map(|&n| usize::try_from(n).ok()).collect(),
        Some(Value::Array(Array::U32(list))) => list.iter().map(|&n| usize::try_from(n).ok()).collect(),
        _ => None,
    };
    let numbers: Option<Vec<usize>> = numbers;
    let fit = numbers.filter(|list| list.iter().all(|&n| n <= limit::HEADS));
    fit.ok_or_else(|| keys.error(KEY, "a number of heads for each layer is expected"))
}

/// Key-value heads of the layers with attention.
pub(super) fn kv_heads(keys: &Keys<'_>, architecture: &Architecture, heads: usize) -> Result<usize> {
    const KEY: &str = "attention.head_count_kv";
    if !architecture.gguf_keys.contains(&GgufKey::HeadCountKvLayers) {
        return Ok(keys.size(KEY, limit::HEADS)?.unwrap_or(heads));
    }
    let mut counts = kv_counts(keys)?;
    counts.retain(|&count| count > 0);
    let first = counts.first().copied().unwrap_or(heads);
    match counts.iter().all(|&count| count == first) {
        true => Ok(first),
        false => Err(keys.error(KEY, "layers with different numbers of key-value heads are not supported")),
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
        StateMixer::DeltaNet(_) | StateMixer::ShortConv(_) => {
            let heads = |&state: &bool| if state { 0 } else { config.kv_heads as i32 };
            let counts = states.layers.iter().map(heads).collect();
            set("attention.head_count_kv", Value::Array(Array::I32(counts)));
        }
    }
}
