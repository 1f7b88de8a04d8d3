//! `vocab.json` and `merges.txt`, as the first byte-level tokenizers were published.
//!
//! The files hold pieces and merges only; how text is cut is known from the tokenizer's class, which
//! `tokenizer_config.json` names, or from the model's type in `config.json` (GPT-2's where there is neither).

use std::path::Path;
use std::sync::Arc;

use quern_tensor_io::{Error, Result, StringArray};

use crate::json::{Json, Object, read_text};
use crate::tokenizer::bpe::MAX_MERGES;
use crate::tokenizer::pre_tokenizer::{Pipeline, table};
use crate::tokenizer::vocabulary::TokenKind;

use super::list::List;
use super::read_json;
use super::special_ids::content;
use super::tokenizer_json::{ByteLevelParts, pieces};

/// The rule of a class of transformers, by its name in the table.
fn rule_of(class: &str) -> Option<&'static str> {
    Some(match class.strip_suffix("Fast").unwrap_or(class) {
        "GPT2Tokenizer" | "CodeGenTokenizer" | "RobertaTokenizer" | "BartTokenizer" => "gpt-2",
        "GPTNeoXTokenizer" => "mpt",
        "Qwen2Tokenizer" => "qwen2",
        "CohereTokenizer" => "command-r",
        _ => return None,
    })
}

/// The rule of most models of a type.
fn rule_of_model(model_type: Option<&str>) -> &'static str {
    match model_type.unwrap_or_default() {
        "gpt_neox" | "mpt" => "mpt",
        "qwen2" | "qwen2_moe" | "qwen3" | "qwen3_moe" => "qwen2",
        "cohere" => "command-r",
        _ => "gpt-2",
    }
}

/// Reads the two files; `config` is `tokenizer_config.json`.
pub(super) fn read(directory: &Path, config: Option<&Object<'_>>) -> Result<ByteLevelParts> {
    let class = config.and_then(|c| c.get("tokenizer_class")?.as_str()).unwrap_or_default();
    let model = Json::read_optional(&directory.join("config.json"))?;
    let model_type = model.as_ref().and_then(|m| m.root().get("model_type")?.as_str());
    let rule = match class {
        // Classes that say nothing of the rule.
        "" | "PreTrainedTokenizerFast" | "TokenizersBackend" => Some(rule_of_model(model_type)),
        class => rule_of(class),
    };
    let Some(known) = rule.and_then(table::find) else {
        let class: String = class.chars().take(60).collect();
        let what = format!(
            "the pre-tokenizer of {class:?} is not known; add a tokenizer.json, which holds it (transformers writes one with \
             save_pretrained)"
        );
        return Err(Error::unsupported(directory.join("vocab.json"), what));
    };
    let mut rule = known.rule();
    if config.and_then(|c| c.get("add_prefix_space")?.as_bool()) == Some(true) {
        rule.parts.to_mut().insert(0, crate::tokenizer::pre_tokenizer::Part::PrefixSpace);
    }
    let file = directory.join("vocab.json");
    let vocab = read_json::read_pieces(&file)?;
    let (normalizer, pre_tokenizer) = (rule.normalizer(), rule.pre_tokenizer());
    let pipeline = Pipeline::new(&normalizer, &pre_tokenizer)
        .map_err(|(key, what)| Error::malformed(directory, format!("{key}: {what}")))?;
    Ok(ByteLevelParts {
        tokens: pieces(&file, "the vocabulary", &vocab, 0, |_| TokenKind::Normal)?,
        merges: merges(&directory.join("merges.txt"))?,
        ignore_merges: rule.ignore_merges,
        by_rank: false,
        unknown: None,
        normalizer,
        pre_tokenizer,
        pipeline: Arc::new(pipeline),
    })
}

/// One merge a line, `a b`, the first line being perhaps `#version: 0.2`.
fn merges(file: &Path) -> Result<StringArray> {
    let mut merges = StringArray::new();
    let text = read_text(file)?;
    for (at, line) in text.lines().enumerate() {
        if line.starts_with("#version") || line.is_empty() {
            continue;
        }
        match line.split_once(' ') {
            Some(_) if merges.len() == 2 * MAX_MERGES => {
                return Err(Error::malformed(file, format!("more than {MAX_MERGES} merges")));
            }
            Some((a, b)) if !b.contains(' ') => {
                merges.push(a);
                merges.push(b);
            }
            _ => return Err(Error::malformed(file, format!("line {} is no pair of pieces", at + 1))),
        }
    }
    Ok(merges)
}

/// Marks the special tokens that the configs name: they are ordinary entries of `vocab.json`.
pub(super) fn mark_special(directory: &Path, config: Option<&Object<'_>>, list: &mut List) -> Result<()> {
    let map = Json::read_optional(&directory.join("special_tokens_map.json"))?;
    let map = map.as_ref().map(Json::root);
    let mut named = false;
    for object in [config, map.as_ref()].into_iter().flatten() {
        for kind in ["bos", "eos", "unk", "sep", "pad", "cls", "mask"] {
            if let Some(text) = content(object, kind) {
                named = true;
                list.make_control(text);
            }
        }
        for key in ["additional_special_tokens", "extra_special_tokens"] {
            for entry in object.get(key).and_then(|v| v.as_array()).into_iter().flatten() {
                if let Some(text) = entry.as_str().or_else(|| entry.get("content")?.as_str()) {
                    list.make_control(text);
                }
            }
        }
    }
    if !named {
        // GPT-2's own files name none; its class does.
        list.make_control("<|endoftext|>");
    }
    Ok(())
}
