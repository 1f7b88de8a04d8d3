//! The `tokenizer.*` keys of GGUF metadata, as llama.cpp's converter writes them for the files of a directory.
//!
//! SentencePiece: `model` "llama", `pre` "default", tokens, scores, types. Byte-level: `model` "gpt2", `pre` the name
//! of the rule of cutting words, tokens, types, merges. Then for both the special tokens' ids, which of them are
//! added, and the chat templates.

use quern_tensor_io::{Array, Metadata, StringArray, Value};

use crate::tokenizer::{Source, SourceModel, SpacePrefix};

/// Adds the keys; gives what the metadata cannot hold or is not sure of, in words.
pub(super) fn write(source: Source, out: &mut Metadata) -> Vec<String> {
    let mut notes = source.notes.clone();
    let pre = source.pre();
    let kinds = source.kinds.iter().map(|&k| k as i32).collect();
    let types = Value::Array(Array::I32(kinds));
    let tokens = Value::Array(Array::String(source.pieces.clone()));
    let adds_bos_unless_told = match &source.model {
        SourceModel::SentencePiece { scores, prefix } => {
            let prefixed = *prefix != SpacePrefix::Never;
            // Where the configs are silent but the tokenizer has no prefix, readers must be told: they assume one.
            if source.prefix_given.is_some() || !prefixed {
                out.set("tokenizer.ggml.add_space_prefix", Value::Bool(prefixed));
            }
            out.set("tokenizer.ggml.model", "llama");
            out.set("tokenizer.ggml.pre", "default");
            out.set("tokenizer.ggml.tokens", tokens);
            out.set("tokenizer.ggml.scores", Value::Array(Array::F32(scores.clone())));
            out.set("tokenizer.ggml.token_type", types);
            true
        }
        SourceModel::ByteLevel { merges, .. } => {
            let pre = pre.expect("a byte-level tokenizer has a rule");
            notes.extend(pre.note);
            out.set("tokenizer.ggml.model", "gpt2");
            out.set("tokenizer.ggml.pre", pre.name);
            out.set("tokenizer.ggml.tokens", tokens);
            out.set("tokenizer.ggml.token_type", types);
            out.set("tokenizer.ggml.merges", Value::Array(Array::String(joined(merges))));
            pre.add_bos
        }
    };
    if !source.edges.is_empty() {
        notes.push(format!(
            "{} added tokens take blanks beside them or count only as whole words; GGUF has no place for that",
            source.edges.len()
        ));
    }
    for &(kind, id) in &source.ids {
        let name = match kind {
            "unk" => "unknown",
            "sep" => "seperator", // sic: the key is spelled so
            "pad" => "padding",
            other => other,
        };
        out.set(format!("tokenizer.ggml.{name}_token_id"), Value::U32(id));
    }
    let silent = source.silent_on_bos && adds_bos_unless_told;
    for (kind, add) in source.add.iter().copied().chain(silent.then_some(("bos", false))) {
        if matches!(kind, "bos" | "eos" | "sep") {
            out.set(format!("tokenizer.ggml.add_{kind}_token"), Value::Bool(add));
        }
    }
    chat_templates(&source.chat_templates, out);
    notes
}

/// "left right" for each pair; a space within a piece, which would separate, as the alphabet of bytes has it.
fn joined(merges: &StringArray) -> StringArray {
    let mut out = StringArray::with_capacity(merges.len() / 2);
    let mut merge = String::new();
    let piece = |i: usize| merges.get(i).unwrap_or_default();
    for i in 0..merges.len() / 2 {
        merge.clear();
        for (at, piece) in [piece(2 * i), piece(2 * i + 1)].into_iter().enumerate() {
            if at > 0 {
                merge.push(' ');
            }
            merge.extend(piece.chars().map(|c| if c == ' ' { '\u{120}' } else { c }));
        }
        out.push(&merge);
    }
    out
}

/// The default template under its own key, others by name, with a list of the names in front.
fn chat_templates(templates: &[(String, String)], out: &mut Metadata) {
    let mut names = StringArray::new();
    for (name, text) in templates.iter().filter(|(name, _)| name != "default") {
        let safe = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
        let name: String = name.chars().map(safe).collect();
        out.set(format!("tokenizer.chat_template.{name}"), text.as_str());
        names.push(&name);
    }
    if !names.is_empty() {
        out.set("tokenizer.chat_templates", Value::Array(Array::String(names)));
    }
    if let Some((_, text)) = templates.iter().find(|(name, _)| name == "default") {
        out.set("tokenizer.chat_template", text.as_str());
    }
}
