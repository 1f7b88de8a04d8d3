//! What Hunyuan's configurations say that no table of keys does.

use quern_tensor_io::{Error, Result};
use serde_json::{Map, Value, json};

use crate::json::Object;

use super::from_hf::Reader;
use super::{Config, RopeScaling, limit};

/// Hunyuan's rope: `alpha` stretches its base, whatever the length of the text. Its models are made for 262 144 positions
/// then, as llama.cpp's converter says; `config.json` has a smaller number.
pub(super) fn stretched(root: &Object<'_>, config: &mut Config) -> Result<()> {
    let object = match root.object("rope_scaling")? {
        Some(object) => Some(object),
        None => root.object("rope_parameters")?,
    };
    let Some(object) = object else { return Ok(()) };
    let kind = object.str("rope_type")?.or(object.str("type")?);
    let Some(alpha) = object.f64("alpha")?.filter(|&alpha| alpha != 0.0 && kind == Some("dynamic")) else {
        return Ok(());
    };
    let dimensions = config.head_dim as f64;
    config.rope.theta = (f64::from(config.rope.theta) * alpha.powf(dimensions / (dimensions - 2.0))) as f32;
    config.rope.scaling = RopeScaling::None;
    config.rope_stretched = true;
    config.context_length = config.context_length.max(1 << 18);
    Ok(())
}

/// Hunyuan's experts are as wide as its shared expert, of which there is one: transformers and llama.cpp read no other.
pub(super) fn experts(reader: &Reader<'_>, config: &Config) -> Result<()> {
    let shared = reader.of_all_layers("num_shared_expert", limit::EXPERTS)?.unwrap_or(1);
    let width = config.experts.map_or(config.ffn_size, |experts| experts.ffn_size);
    if shared == 1 && width == config.ffn_size {
        return Ok(());
    }
    let what = format!(
        "hunyuan-moe models with {shared} shared experts, or experts of another width ({width}) than intermediate_size ({}), \
         are not supported",
        config.ffn_size
    );
    Err(Error::unsupported(reader.root.file(), what))
}

/// Adds to the `config.json` of a mixture what no table of keys says: numbers for each layer.
pub(super) fn to_hf(config: &Config, out: &mut Map<String, Value>) {
    let mut set = |key: &str, value: Value| drop(out.insert(key.to_owned(), value));
    // As the published class and llama.cpp's converter read them.
    let experts = config.experts.map_or((1, config.ffn_size), |experts| (experts.used, experts.ffn_size));
    set("moe_topk", json!(vec![experts.0; config.layers]));
    set("moe_intermediate_size", json!(vec![experts.1; config.layers]));
    set("num_shared_expert", json!(vec![1; config.layers]));
}
