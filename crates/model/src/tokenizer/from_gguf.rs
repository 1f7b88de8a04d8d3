//! The tokenizer in GGUF metadata (`tokenizer.ggml.*`).

use std::path::Path;

use quern_tensor_io::{Array, Error, Metadata, Result, Value};

use super::vocabulary::TokenKind;
use super::{Parts, SpacePrefix, SpecialIds, Tokenizer};

pub(super) fn read(file: &Path, metadata: &Metadata) -> Result<Tokenizer> {
    let bad = |key: &str, what: String| Error::malformed(file, format!("tokenizer.ggml.{key}: {what}"));
    let missing =
        |key: &str| Error::malformed(file, format!("the metadata key \"tokenizer.ggml.{key}\" is missing"));

    match metadata.str("tokenizer.ggml.model").ok_or_else(|| missing("model"))? {
        "llama" => {}
        "gpt2" => return Err(Error::unsupported(file, super::BYTE_LEVEL)),
        other => {
            let name: String = other.chars().take(40).collect();
            return Err(Error::unsupported(file, format!("tokenizer {name:?} is not supported (llama is)")));
        }
    }
    let pieces = metadata.strings("tokenizer.ggml.tokens").ok_or_else(|| missing("tokens"))?.clone();
    let count = pieces.len();
    if count == 0 || count > super::MAX_TOKENS {
        return Err(bad("tokens", format!("{count} tokens")));
    }
    let scores = match metadata.f32s("tokenizer.ggml.scores") {
        Some(scores) => scores.to_vec(),
        None => return Err(missing("scores")),
    };
    if scores.len() != count {
        return Err(bad("scores", format!("{} scores for {count} tokens", scores.len())));
    }
    if let Some(i) = scores.iter().position(|s| s.is_nan()) {
        return Err(bad("scores", format!("the score of token {i} is not a number")));
    }
    let kinds = kinds(metadata, count).map_err(|what| bad("token_type", what))?;

    let id = |key: &str, default: Option<u32>| -> Result<Option<u32>> {
        let Some(value) = metadata.get(&format!("tokenizer.ggml.{key}")) else {
            return Ok(default.filter(|&id| (id as usize) < count));
        };
        match value.as_u64() {
            Some(id) if id < count as u64 => Ok(Some(id as u32)),
            // The writers' way to say "none": -1, or its unsigned reading.
            Some(id) if id == u64::from(u32::MAX) => Ok(None),
            None if *value == Value::I32(-1) => Ok(None),
            _ => Err(bad(key, format!("not the id of one of {count} tokens"))),
        }
    };
    let flag = |key: &str, default: bool| -> Result<bool> {
        match metadata.get(&format!("tokenizer.ggml.{key}")) {
            None => Ok(default),
            Some(value) => value.as_bool().ok_or_else(|| bad(key, "true or false is expected".into())),
        }
    };
    // What llama.cpp takes for this kind of tokenizer where the file says nothing.
    let ids = SpecialIds {
        bos: id("bos_token_id", Some(1))?,
        eos: id("eos_token_id", Some(2))?,
        unk: id("unknown_token_id", Some(0))?,
        sep: id("seperator_token_id", None)?,
        pad: id("padding_token_id", None)?,
        mask: id("mask_token_id", None)?,
        eot: id("eot_token_id", None)?,
        eom: id("eom_token_id", None)?,
    };
    Ok(Tokenizer::assemble(Parts {
        pieces,
        scores,
        kinds,
        ids,
        ends: Vec::new(),
        add_bos: flag("add_bos_token", true)?,
        add_eos: flag("add_eos_token", false)?,
        prefix: if flag("add_space_prefix", true)? { SpacePrefix::Always } else { SpacePrefix::Never },
        chat_template: metadata.str("tokenizer.chat_template").map(str::to_owned),
    }))
}

/// The kinds of all tokens; normal where the file says nothing.
fn kinds(metadata: &Metadata, count: usize) -> Result<Vec<TokenKind>, String> {
    let numbers: Vec<i64> = match metadata.get("tokenizer.ggml.token_type") {
        None => return Ok(vec![TokenKind::Normal; count]),
        Some(Value::Array(Array::I32(v))) => v.iter().map(|&n| n.into()).collect(),
        Some(Value::Array(Array::U32(v))) => v.iter().map(|&n| n.into()).collect(),
        Some(_) => return Err("an array of i32 is expected".into()),
    };
    if numbers.len() != count {
        return Err(format!("{} types for {count} tokens", numbers.len()));
    }
    let kind = |(i, &n): (usize, &i64)| {
        // 0 is ggml's "undefined", which old files use for ordinary pieces.
        let kind = if n == 0 { Some(TokenKind::Normal) } else { TokenKind::from_number(n) };
        kind.ok_or_else(|| format!("token {i} has the unknown type {n}"))
    };
    numbers.iter().enumerate().map(kind).collect()
}
