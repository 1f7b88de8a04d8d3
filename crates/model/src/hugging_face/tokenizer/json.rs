//! `tokenizer.json`.

use quern_tensor_io::Metadata;
use serde_json::{Map, Value, json};

use crate::tokenizer::gguf_keys::BY_MERGES;
use crate::tokenizer::{SpacePrefix, Tokenizer};

use super::{Entry, Tokens, merges};

pub(super) fn tokenizer_json(tokenizer: &Tokenizer, tokens: &Tokens, metadata: &Metadata) -> Value {
    let added: Vec<Value> = tokens.added().map(added_token).collect();
    let vocab: Map<String, Value> = tokens.0.iter().map(|e| (e.text.clone(), e.id.into())).collect();
    let parts = match tokenizer.prefix() {
        None => byte_level(tokenizer, tokens, metadata),
        Some(prefix) => sentence_piece(tokenizer, tokens, metadata, prefix),
    };
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": parts.normalizer,
        "pre_tokenizer": parts.pre_tokenizer,
        "post_processor": parts.post_processor,
        "decoder": parts.decoder,
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": parts.unknown,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": parts.unknown.is_some(),
            "byte_fallback": parts.byte_fallback,
            "ignore_merges": parts.ignore_merges,
            "vocab": vocab,
            "merges": parts.merges,
        },
    })
}

/// An added token with its properties, as `added_tokens` lists them.
fn added_token(entry: &Entry) -> Value {
    let Value::Object(properties) = properties(entry) else { unreachable!() };
    let mut token = Map::from_iter([("id".to_owned(), entry.id.into())]);
    token.extend(properties);
    Value::Object(token)
}

/// An added token's properties, in the library's order.
pub(super) fn properties(entry: &Entry) -> Value {
    json!({
        "content": entry.text,
        "single_word": entry.edges.single_word,
        "lstrip": entry.edges.left,
        "rstrip": entry.edges.right,
        "normalized": false,
        "special": entry.special,
    })
}

/// What differs between the kinds.
struct Parts {
    normalizer: Value,
    pre_tokenizer: Value,
    post_processor: Value,
    decoder: Value,
    unknown: Option<String>,
    byte_fallback: bool,
    ignore_merges: bool,
    merges: Vec<Value>,
}

fn byte_level(tokenizer: &Tokenizer, tokens: &Tokens, metadata: &Metadata) -> Parts {
    let rule = Tokenizer::rule_of_metadata(metadata);
    let bytes =
        json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": true });
    let post_processor = match tokenizer.add_bos() || tokenizer.add_eos() {
        false => bytes,
        true => json!({ "type": "Sequence", "processors": [bytes, template(tokenizer, tokens)] }),
    };
    Parts {
        normalizer: rule.normalizer(),
        pre_tokenizer: rule.pre_tokenizer(),
        post_processor,
        decoder: json!({ "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true }),
        unknown: None,
        byte_fallback: false,
        ignore_merges: rule.ignore_merges,
        merges: merges::listed(tokens, metadata),
    }
}

fn sentence_piece(tokenizer: &Tokenizer, tokens: &Tokens, metadata: &Metadata, prefix: SpacePrefix) -> Parts {
    let replace =
        |from: &str, to: &str| json!({ "type": "Replace", "pattern": { "String": from }, "content": to });
    let (space, sign) = (" ", "\u{2581}");
    let metaspace = |scheme: &str| json!({ "type": "Metaspace", "replacement": sign, "prepend_scheme": scheme, "split": false });
    let (normalizer, pre_tokenizer) = match prefix {
        SpacePrefix::Always => {
            let prepend = json!({ "type": "Prepend", "prepend": sign });
            let all = json!({ "type": "Sequence", "normalizers": [prepend, replace(space, sign)] });
            (all, Value::Null)
        }
        SpacePrefix::AlwaysUnlessSpace => (Value::Null, metaspace("always")),
        SpacePrefix::FirstUnlessSpace => (Value::Null, metaspace("first")),
        SpacePrefix::Never => (replace(space, sign), Value::Null),
    };
    let mut decoders =
        vec![replace(sign, space), json!({ "type": "ByteFallback" }), json!({ "type": "Fuse" })];
    if prefix != SpacePrefix::Never {
        decoders.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
    }
    Parts {
        normalizer,
        pre_tokenizer,
        post_processor: template(tokenizer, tokens),
        decoder: json!({ "type": "Sequence", "decoders": decoders }),
        unknown: tokens.text(tokenizer.unk()).map(str::to_owned),
        byte_fallback: true,
        ignore_merges: false,
        merges: match metadata.str("tokenizer.ggml.model") {
            Some(BY_MERGES) => merges::listed(tokens, metadata),
            _ => merges::made(tokens, metadata),
        },
    }
}

/// What is put around one text, and around two.
fn template(tokenizer: &Tokenizer, tokens: &Tokens) -> Value {
    let special = |id: Option<u32>, wanted: bool| tokens.text(id).filter(|_| wanted).zip(id);
    let bos = special(tokenizer.bos(), tokenizer.add_bos());
    let eos = special(tokenizer.eos(), tokenizer.add_eos());
    let part = |token: Option<(&str, u32)>, of: u8| {
        token.map(|(text, _)| json!({ "SpecialToken": { "id": text, "type_id": of } }))
    };
    let after: Vec<(&str, u32)> =
        tokenizer.after_bos().iter().filter_map(|&id| tokens.text(Some(id)).zip(Some(id))).collect();
    let around = |text: &str, of: u8| {
        let text = json!({ "Sequence": { "id": text, "type_id": of } });
        let front =
            [bos].into_iter().chain(after.iter().copied().map(Some)).filter_map(|token| part(token, of));
        front.chain([text]).chain(part(eos, of)).collect::<Vec<_>>()
    };
    let entry =
        |(text, id): (&str, u32)| (text.to_owned(), json!({ "id": text, "ids": [id], "tokens": [text] }));
    let special: Map<String, Value> =
        [bos, eos].into_iter().flatten().chain(after.iter().copied()).map(entry).collect();
    let (single, mut pair) = (around("A", 0), around("A", 0));
    pair.extend(around("B", 1));
    json!({ "type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special })
}
