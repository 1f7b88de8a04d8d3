//! What Llama 4's configurations say that no table of keys does: the parts that texts are cut into, queries that grow, which
//! layers are mixtures. Readers of GGUF have the published models' constants, and files say others in keys that llama.cpp
//! does not read.

use quern_tensor_io::{Result, Value};
use serde_json::{Map, json};

use crate::json::Object;

use super::from_hf::Reader;
use super::gguf_keys::Keys;
use super::mixture::{SharedExpert, listed};
use super::to_hf::shortest;
use super::{Config, QueryGrowth, limit};

/// Positions of a part of the text, in llama.cpp.
const CHUNK: usize = 8192;
/// How queries grow there.
const GROWTH: QueryGrowth = QueryGrowth { beta: 0.1, context: 8192, offset: 1, unrotated: true };
/// Models with so many experts have no norms of queries and keys there.
const WITHOUT_NORMS: usize = 128;

const WINDOW_KEY: &str = "attention.sliding_window";
const SCALE_KEY: &str = "attention.temperature_scale";
const LENGTH_KEY: &str = "attention.temperature_length";

/// Completes what `config.json` says.
pub(super) fn from_hf(reader: &Reader<'_>, config: &mut Config) -> Result<()> {
    let root = reader.root;
    if root.array("layer_types")?.is_none() {
        let chunked = config.sliding_window.is_some();
        config.sliding_layers =
            config.unrotated_layers.iter().map(|&unrotated| chunked && !unrotated).collect();
    }
    if let Some(sparse) = listed(root, "moe_layers")? {
        config.sparse_layers = (0..config.layers).map(|layer| sparse.contains(&layer)).collect();
    }
    let beta = root.f64("attn_scale")?.unwrap_or(f64::from(GROWTH.beta)) as f32;
    let context = root.size("floor_scale", limit::CONTEXT)?.unwrap_or(GROWTH.context);
    config.query_growth = grows(root)?.then_some(QueryGrowth { beta, context, ..GROWTH });
    Ok(())
}

/// Whether queries grow: a flag, or in older files a number.
fn grows(root: &Object<'_>) -> Result<bool> {
    const KEY: &str = "attn_temperature_tuning";
    match root.get(KEY) {
        Some(value) if value.is_number() => Ok(root.f64(KEY)? != Some(0.0)),
        _ => Ok(root.bool(KEY)?.unwrap_or(true)),
    }
}

/// Completes what GGUF metadata say.
pub(super) fn from_gguf(keys: &Keys<'_>, config: &mut Config) -> Result<()> {
    config.sliding_window = match keys.count(WINDOW_KEY, limit::CONTEXT)? {
        None => Some(CHUNK),
        // No layer is limited.
        Some(0) => None,
        Some(chunk) => Some(chunk),
    };
    config.sliding_layers = config.usual_sliding_layers();
    let beta = keys.f32(SCALE_KEY)?.unwrap_or(GROWTH.beta);
    let context = keys.size(LENGTH_KEY, limit::CONTEXT)?.unwrap_or(GROWTH.context);
    config.query_growth = (beta != 0.0).then_some(QueryGrowth { beta, context, ..GROWTH });
    if let Some(experts) = &mut config.experts {
        experts.shared = Some(SharedExpert { ffn_size: experts.ffn_size, gated: false });
        config.qk_norm = experts.count != WITHOUT_NORMS;
    }
    Ok(())
}

/// The metadata beyond those of the table.
pub(crate) fn to_gguf(config: &Config, set: &mut impl FnMut(&str, Value)) {
    let size = |v: usize| Value::U32(v as u32); // all sizes were checked against limits far below 2^32
    match config.sliding_window.filter(|_| config.sliding_layers.contains(&true)) {
        None => set(WINDOW_KEY, size(0)),
        Some(CHUNK) => {}
        Some(chunk) => set(WINDOW_KEY, size(chunk)),
    }
    match config.query_growth {
        None => set(SCALE_KEY, Value::F32(0.0)),
        Some(GROWTH) => {}
        Some(QueryGrowth { beta, context, .. }) => {
            set(SCALE_KEY, Value::F32(beta));
            set(LENGTH_KEY, size(context));
        }
    }
}

/// What GGUF has no key for, or a note on what llama.cpp does not read.
pub(crate) fn gguf_limits(config: &Config) -> Result<Option<String>, String> {
    let experts = config.experts.map_or(0, |experts| experts.count);
    if config.qk_norm != (experts != WITHOUT_NORMS) {
        return Err(format!("\"use_qk_norm\": {} of a model with {experts} experts", config.qk_norm));
    }
    if config.sliding_window.is_none_or(|chunk| chunk == CHUNK) && config.query_growth == Some(GROWTH) {
        return Ok(None);
    }
    let reach = config.sliding_window.map_or(usize::MAX, |chunk| chunk);
    let reach = reach.min(config.query_growth.map_or(GROWTH.context, |growth| growth.context));
    Ok(Some(format!(
        "llama.cpp computes Llama 4 with attention in parts of {CHUNK} positions and with the published growth of queries, \
         whatever the file says: beyond {reach} positions its results differ from the source's (not in quern)"
    )))
}

/// Adds to a `config.json` what no table of keys says.
pub(super) fn to_hf(config: &Config, out: &mut Map<String, serde_json::Value>) {
    let mut set = |key: &str, value: serde_json::Value| drop(out.insert(key.to_owned(), value));
    let rotated = |&unrotated: &bool| u8::from(!unrotated);
    set("no_rope_layers", config.unrotated_layers.iter().map(rotated).collect());
    let kind = |&limited: &bool| if limited { "chunked_attention" } else { "full_attention" };
    set("layer_types", config.sliding_layers.iter().map(kind).collect());
    let sparse: Vec<usize> = (0..config.layers).filter(|&layer| config.is_sparse(layer)).collect();
    set("moe_layers", json!(sparse));
    set("attn_temperature_tuning", json!(config.query_growth.is_some()));
    if let Some(QueryGrowth { beta, context, .. }) = config.query_growth {
        set("attn_scale", json!(shortest(beta)));
        set("floor_scale", json!(context));
    }
}
