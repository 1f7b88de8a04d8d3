//! `tokenizer_config.json` and `special_tokens_map.json`.

use quern_tensor_io::Metadata;
use serde_json::{Map, Value, json};

use crate::tokenizer::Tokenizer;
use crate::tokenizer::gguf_keys::{CLASS, LEGACY};

use super::{Tokens, json as tokenizer_json};

/// Special tokens by the names transformers has for them.
fn special(tokenizer: &Tokenizer, tokens: &Tokens) -> Map<String, Value> {
    let ids = tokenizer.special_ids();
    let named = [
        ("bos_token", ids.bos),
        ("eos_token", ids.eos),
        ("unk_token", ids.unk),
        ("sep_token", ids.sep),
        ("pad_token", ids.pad),
        ("mask_token", ids.mask),
    ];
    let text = |(name, id): (&str, Option<u32>)| Some((name.to_owned(), tokens.text(id)?.into()));
    named.into_iter().filter_map(text).collect()
}

pub(super) fn special_tokens_map(tokenizer: &Tokenizer, tokens: &Tokens) -> Value {
    Value::Object(special(tokenizer, tokens))
}

pub(super) fn tokenizer_config(tokenizer: &Tokenizer, tokens: &Tokens, metadata: &Metadata) -> Value {
    let decoder: Map<String, Value> =
        tokens.added().map(|e| (e.id.to_string(), tokenizer_json::properties(e))).collect();
    let mut config = Map::new();
    let mut set = |key: &str, value: Value| drop(config.insert(key.to_owned(), value));
    set("add_bos_token", tokenizer.add_bos().into());
    set("add_eos_token", tokenizer.add_eos().into());
    set("added_tokens_decoder", decoder.into());
    special(tokenizer, tokens).into_iter().for_each(|(name, text)| set(&name, text));
    if let Some(template) = chat_template(metadata) {
        set("chat_template", template);
    }
    set("clean_up_tokenization_spaces", false.into());
    let architecture = metadata.str("general.architecture").unwrap_or_default();
    if let Some(length) = metadata.u64(&format!("{architecture}.context_length")) {
        set("model_max_length", length.into());
    }
    set("tokenizer_class", metadata.str(CLASS).unwrap_or("PreTrainedTokenizerFast").into());
    if let Some(legacy) = metadata.bool(LEGACY) {
        set("legacy", legacy.into());
    }
    Value::Object(config)
}

/// One template, or where there are more a list with names.
fn chat_template(metadata: &Metadata) -> Option<Value> {
    let default = metadata.str("tokenizer.chat_template");
    let mut named = Vec::new();
    for name in metadata.strings("tokenizer.chat_templates").into_iter().flat_map(|names| names.iter()) {
        if let Some(text) = metadata.str(&format!("tokenizer.chat_template.{name}")) {
            named.push(json!({ "name": name, "template": text }));
        }
    }
    if named.is_empty() {
        return default.map(Value::from);
    }
    let default = default.map(|text| json!({ "name": "default", "template": text }));
    Some(default.into_iter().chain(named).collect())
}
