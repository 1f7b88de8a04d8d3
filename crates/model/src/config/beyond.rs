//! Keys of a `config.json` that a family's description does not know.

use serde_json::Value;

use crate::architecture::Architecture;
use crate::json::Object;

/// Keys that say nothing of what a model computes, or are read for every family.
const COMMON: [&str; 34] = [
    "_attn_implementation",
    "_name_or_path",
    "architectures",
    "attn_implementation",
    "auto_map",
    "chunk_size_feed_forward",
    "classifier_dropout",
    "debug",
    "dtype",
    "gradient_checkpointing",
    "head_dim",
    "id2label",
    "initializer_factor",
    "initializer_range",
    "is_decoder",
    "keys_to_ignore_at_inference",
    "label2id",
    "layer_types",
    "max_window_layers",
    "model_type",
    "output_attentions",
    "output_hidden_states",
    "partial_rotary_factor",
    "pretraining_tp",
    "quantization_config",
    "return_dict",
    "rope_parameters",
    "rope_scaling",
    "tie_word_embeddings",
    "tokenizer_class",
    "torch_dtype",
    "transformers_version",
    "unsloth_version",
    "use_cache",
];

/// Keys with a value that this family's description knows nothing of, sorted. Null and false are taken for the absence
/// of what a key turns on.
pub(crate) fn keys_beyond(root: &Object<'_>, family: &Architecture) -> Vec<String> {
    let known = |key: &str| {
        COMMON.contains(&key)
            || key.ends_with("_token_id")
            || key.ends_with("_dropout")
            || key.ends_with("_pdrop")
            || family.hf_keys.iter().any(|known| known.names.contains(&key))
            || family.hf_limits.iter().any(|known| known.key == key)
    };
    let says = |value: &Value| match value {
        Value::Null | Value::Bool(false) => false,
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
        Value::Bool(true) | Value::Number(_) | Value::String(_) => true,
    };
    let beyond = root.entries().filter(|(key, value)| says(value) && !known(key));
    let mut keys: Vec<String> = beyond.map(|(key, _)| key.clone()).collect();
    keys.sort_unstable();
    keys
}
