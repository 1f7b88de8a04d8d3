//! The configuration object of a GPTQ checkpoint, in `quantize_config.json` and in `config.json`.

use serde_json::{Map, Value, json};

use super::Options;
use crate::gptq::Order;

/// What GPT-QModel, transformers and vLLM look for, under each name they know it by.
pub(super) fn quantization_config(options: &Options, v2: bool) -> Value {
    let settings = &options.settings;
    let format = if v2 { "gptq_v2" } else { "gptq" };
    let group_size = settings.group_size.map_or(-1, |g| g as i64);
    let mut object = Map::new();
    let mut set = |key: &str, value: Value| object.insert(key.to_owned(), value);
    set("bits", json!(settings.bits));
    set("group_size", json!(group_size));
    set("desc_act", json!(settings.order == Order::Activation));
    set("sym", json!(settings.symmetric));
    set("lm_head", json!(false));
    set("quant_method", json!("gptq"));
    set("method", json!("gptq"));
    set("checkpoint_format", json!(format));
    set("format", json!(format));
    set("pack_dtype", json!("int32"));
    set("true_sequential", json!(true));
    set("static_groups", json!(false));
    set("damp_percent", json!(settings.damp));
    if let Some(rules) = options.rules.as_json() {
        set("dynamic", rules);
    }
    let meta = json!({
        "quantizer": [format!("quern:{}", env!("CARGO_PKG_VERSION"))],
        "act_group_aware": settings.order == Order::GroupAware,
    });
    set("meta", meta);
    Value::Object(object)
}

/// The object as a file has it.
pub(super) fn to_bytes(config: &Value) -> Vec<u8> {
    serde_json::to_vec_pretty(config).unwrap_or_default()
}
