//! The `tokenizer.*` keys of GGUF metadata, as llama.cpp's converter writes them for the files of a directory.
//!
//! SentencePiece: `model` "llama", `pre` "default", tokens, scores, types. Byte-level: `model` "gpt2", `pre` the name
//! of the pre-tokenizer, tokens, types, merges. Then for both the special tokens' ids, which of them are
//! added, and the chat templates.
//!
//! GGUF has no key for two properties on which tokens depend. Where readers cannot know them, they are written under
//! quern's own keys, which other programs ignore: `quern.tokenizer.{space_prefix,class,legacy,after_bos_tokens}` and
//! `quern.tokenizer.{left,right,single_word}_tokens`.

use std::collections::BTreeMap;
use std::path::Path;

use quern_tensor_io::{Array, Metadata, Result, StringArray, Value};

use crate::tokenizer::gguf_keys::{
    AFTER_BOS, BY_MERGES, CLASS, EDGE_KEYS, LEGACY, SPACE_PREFIX, after_bos_by_name, edges_by_name,
};
use crate::tokenizer::special::Edges;
use crate::tokenizer::vocabulary::{SPACE, TokenKind};
use crate::tokenizer::{Source, SourceModel, SpacePrefix};

use super::name;

/// The tokenizer keys that a GGUF file of this architecture (its GGUF name) has for the tokenizer in `directory`,
/// with a vocabulary of `vocab_size` tokens, and what they cannot hold or are not sure of, in words.
///
/// # Errors
/// The files are missing, broken, or of a kind quern does not read.
pub fn tokenizer_metadata(
    directory: &Path,
    architecture: &str,
    vocab_size: usize,
) -> Result<(Metadata, Vec<String>)> {
    let mut out = Metadata::new();
    // Readers know one thing by the name, which the file will have.
    out.set("general.name", name::title(directory).as_str());
    let notes = write(Source::read(directory, Some(vocab_size))?, architecture, &mut out);
    out.remove("general.name");
    Ok((out, notes))
}

/// The architectures whose tokenizers the converter writes by the rules for Llama.
const OF_LLAMA: [&str; 7] = ["llama", "smollm3", "granite", "granitemoe", "granite_swa", "arcee", "afmoe"];

/// The tokens that the converter takes for the ones of a kind, of GLM's mixtures.
const GLM_TOKENS: [(&str, &str); 4] =
    [("bos", "[gMASK]"), ("eot", "<|user|>"), ("unknown", "<|endoftext|>"), ("eom", "<|observation|>")];

/// Adds the keys; returns notes on what the metadata cannot hold or what is uncertain.
pub(super) fn write(mut source: Source, architecture: &str, out: &mut Metadata) -> Vec<String> {
    let mut notes = source.notes.clone();
    if matches!(architecture, "phi2" | "chatglm") {
        out.set("tokenizer.ggml.add_bos_token", Value::Bool(false));
    }
    by_name(architecture, &mut source);
    let prefixed = prefixed(&source);
    // The converter writes what the config says for these only. Where readers would add a prefix that the tokenizer
    // does not have, the key is written in any case: with Gemma last of all.
    let given = OF_LLAMA.contains(&architecture) && source.prefix_given.is_some();
    let unprefixed = matches!(source.model, SourceModel::SentencePiece { .. }) && !prefixed;
    let gemma = architecture.starts_with("gemma");
    if given || (unprefixed && !gemma) {
        out.set("tokenizer.ggml.add_space_prefix", Value::Bool(prefixed));
    }
    let adds_bos_by_default = vocabulary(&source, architecture == "gemma4", out, &mut notes);
    if architecture == "internlm2" && matches!(source.model, SourceModel::SentencePiece { .. }) {
        out.set("tokenizer.ggml.add_space_prefix", Value::Bool(prefixed));
    }
    for &(kind, id) in &source.ids {
        let name = match kind {
            "unk" => "unknown",
            "sep" => "seperator", // sic: the key is spelled so
            "pad" => "padding",
            "cls" => continue, // no key for it
            other => other,
        };
        out.set(format!("tokenizer.ggml.{name}_token_id"), Value::U32(id));
    }
    if of_glm_mixture(architecture, &source) {
        for (name, wanted) in GLM_TOKENS {
            if let Some(id) = source.pieces.iter().position(|piece| piece == wanted) {
                out.set(format!("tokenizer.ggml.{name}_token_id"), Value::U32(id as u32));
            }
        }
    }
    let silent = source.silent_on_bos && adds_bos_by_default;
    for (kind, add) in source.add.iter().copied().chain(silent.then_some(("bos", false))) {
        if matches!(kind, "bos" | "eos" | "sep") {
            out.set(format!("tokenizer.ggml.add_{kind}_token"), Value::Bool(add));
        }
    }
    chat_templates(&source.chat_templates, out);
    by_size(architecture, source.pieces.len(), out);
    if gemma && unprefixed {
        out.set("tokenizer.ggml.add_space_prefix", Value::Bool(false));
    }
    own_keys(&source, out, &mut notes);
    notes
}

/// What readers could not know otherwise.
fn own_keys(source: &Source, out: &mut Metadata, notes: &mut Vec<String>) {
    if let SourceModel::SentencePiece { prefix, .. } = &source.model
        && let Some(name) = prefix.name()
    {
        out.set(SPACE_PREFIX, name);
        notes.push(
            "this tokenizer puts a space in front of fewer texts than programs that read the GGUF file do: text that \
             begins with a space or follows a special token may get other tokens there (not in quern)"
                .into(),
        );
    }
    if let Some(class) = &source.llama_class {
        out.set(CLASS, class.as_str());
        if let Some(legacy) = source.legacy {
            out.set(LEGACY, Value::Bool(legacy));
        }
    }
    let bos = source.id("bos").and_then(|bos| source.pieces.get(bos as usize));
    let known: Vec<u32> = after_bos_by_name(bos, source.pieces.iter()).into_iter().collect();
    if source.after_bos != known {
        out.set(AFTER_BOS, Value::Array(Array::U32(source.after_bos.clone())));
        notes.push(
            "this tokenizer puts more than one token in front of a text, of which programs that read the GGUF file put \
             the first alone (quern puts all)"
                .into(),
        );
    }
    let pieces: Vec<(&str, TokenKind)> = source.pieces.iter().zip(source.kinds.iter().copied()).collect();
    let asks = |edges: &Edges| edges.left || edges.right || edges.single_word;
    let given: BTreeMap<u32, Edges> = source
        .edges
        .iter()
        .filter(|(id, edges)| asks(edges) && (**id as usize) < pieces.len())
        .map(|(&id, &edges)| (id, Edges { either_space: false, ..edges }))
        .collect();
    let name = out.str("general.name").unwrap_or_default();
    let known: BTreeMap<u32, Edges> = edges_by_name(name, pieces.into_iter()).into_iter().collect();
    if given == known {
        return;
    }
    for (key, asks) in EDGE_KEYS {
        let ids: Vec<u32> = given.iter().filter(|(_, edges)| asks(edges)).map(|(&id, _)| id).collect();
        out.set(key, Value::Array(Array::U32(ids)));
    }
    notes.push(format!(
        "{} added tokens include adjacent spaces or match only whole words, which programs that read the GGUF file \
         ignore (quern does not)",
        given.len()
    ));
}

/// Whether the converter has the rules of GLM's mixtures: GLM-4.7-Flash has DeepSeek's architecture, but not its tokens,
/// and Solar Open has GLM's.
fn of_glm_mixture(architecture: &str, source: &Source) -> bool {
    match architecture {
        "glm4moe" | "deepseek2" | "glm-dsa" => source.pieces.iter().any(|piece| piece == "[gMASK]"),
        _ => false,
    }
}

/// The special tokens that the converter finds by name, where the files do not say.
fn by_name(architecture: &str, source: &mut Source) {
    let named: &[(&str, &str)] = match architecture {
        "glm4" => &[
            ("eos", "<|endoftext|>"),
            ("eot", "<|user|>"),
            ("unk", "<|endoftext|>"),
            ("bos", "<|endoftext|>"),
        ],
        "chatglm" => &[("eos", "<|endoftext|>"), ("eot", "<|user|>"), ("unk", "<|endoftext|>")],
        // The end of a message in place of that of a text, whatever the files say.
        "internlm2" => {
            if let Some(id) = source.pieces.iter().position(|piece| piece == "<|im_end|>") {
                source.ids.retain(|&(kind, _)| kind != "eos");
                source.ids.push(("eos", id as u32));
            }
            return;
        }
        // Published configurations name an ordinary piece.
        "hunyuan-moe" | "hunyuan-dense" => {
            let name = if architecture == "hunyuan-moe" { "<|bos|>" } else { "<|startoftext|>" };
            if by_rank(source)
                && let Some(id) = source.pieces.iter().position(|piece| piece == name)
            {
                match source.ids.iter_mut().find(|(kind, _)| *kind == "bos") {
                    Some(bos) => bos.1 = id as u32,
                    None => source.ids.push(("bos", id as u32)),
                }
            }
            return;
        }
        // Solar Open
        "glm4moe" if !of_glm_mixture(architecture, source) => &[
            ("eos", "<|endoftext|>"),
            ("eot", "<|endoftext|>"),
            ("unk", "<unk>"),
            ("bos", "<|startoftext|>"),
        ],
        _ => return,
    };
    for &(kind, name) in named {
        if source.id(kind).is_none()
            && let Some(id) = source.pieces.iter().position(|piece| piece == name)
        {
            source.ids.push((kind, id as u32));
        }
    }
}

/// Whether the vocabulary is one of the tiktoken library.
fn by_rank(source: &Source) -> bool {
    matches!(&source.model, SourceModel::ByteLevel { options, .. } if options.by_rank)
}

/// Whether a space is put in front of a text.
fn prefixed(source: &Source) -> bool {
    match &source.model {
        SourceModel::SentencePiece { prefix, .. } => *prefix != SpacePrefix::Never,
        SourceModel::ByteLevel { .. } => source.prefix_given.unwrap_or(false),
    }
}

/// Special tokens of Gemma 4 that the converter makes ordinary added ones, so that they are part of what is generated.
const SHOWN: [&str; 7] = [
    "<|channel>",
    "<channel|>",
    "<|tool_call>",
    "<tool_call|>",
    "<|tool_response>",
    "<tool_response|>",
    "<|\"|>",
];

/// Writes the vocabulary; returns whether readers of it add beginning-of-text by default.
fn vocabulary(source: &Source, by_merges: bool, out: &mut Metadata, notes: &mut Vec<String>) -> bool {
    let shown = |piece: &str| by_merges && SHOWN.contains(&piece);
    let kind = |(piece, &kind): (&str, &TokenKind)| match shown(piece) {
        true => TokenKind::UserDefined as i32,
        false => kind as i32,
    };
    let types = source.pieces.iter().zip(&source.kinds).map(kind);
    let types = Value::Array(Array::I32(types.collect()));
    // Added tokens are recognised in raw text, so with spaces as raw text has them.
    let piece = |(piece, kind): (&str, &TokenKind)| match kind {
        TokenKind::UserDefined if !by_merges => piece.replace(SPACE, " "),
        _ => piece.to_owned(),
    };
    let tokens: StringArray = source.pieces.iter().zip(&source.kinds).map(piece).collect();
    let tokens = Value::Array(Array::String(tokens));
    match &source.model {
        SourceModel::SentencePiece { merges: Some((merges, _)), .. } if by_merges => {
            let count = source.pieces.len();
            out.set("tokenizer.ggml.model", BY_MERGES);
            out.set("tokenizer.ggml.tokens", tokens);
            out.set("tokenizer.ggml.scores", Value::Array(Array::F32(vec![-1000.0; count])));
            out.set("tokenizer.ggml.token_type", types);
            out.set("tokenizer.ggml.merges", Value::Array(Array::String(joined(merges))));
            true
        }
        SourceModel::SentencePiece { scores, .. } => {
            out.set("tokenizer.ggml.model", "llama");
            out.set("tokenizer.ggml.pre", "default");
            out.set("tokenizer.ggml.tokens", tokens);
            out.set("tokenizer.ggml.scores", Value::Array(Array::F32(scores.clone())));
            out.set("tokenizer.ggml.token_type", types);
            true
        }
        SourceModel::ByteLevel { merges, rule, pipeline, .. } => {
            let pre = rule.name(pipeline);
            notes.extend(pre.note);
            out.set("tokenizer.ggml.model", "gpt2");
            out.set("tokenizer.ggml.pre", pre.name);
            out.set("tokenizer.ggml.tokens", tokens);
            out.set("tokenizer.ggml.token_type", types);
            out.set("tokenizer.ggml.merges", Value::Array(Array::String(joined(merges))));
            pre.add_bos
        }
    }
}

/// What the converter takes from the model's kind and size alone: Gemma's end of turn, CodeLlama's end of infill,
/// Granite's missing beginning-of-text.
fn by_size(architecture: &str, tokens: usize, out: &mut Metadata) {
    match (architecture, tokens) {
        // Whatever the files say.
        ("nemotron", _) => {
            out.set("tokenizer.ggml.padding_token_id", Value::U32(0));
            out.set("tokenizer.ggml.unknown_token_id", Value::U32(1));
        }
        ("gemma", 108..) => out.set("tokenizer.ggml.eot_token_id", Value::U32(107)),
        (of_llama, 32_016) if OF_LLAMA.contains(&of_llama) => {
            out.set("tokenizer.ggml.eot_token_id", Value::U32(32_010));
        }
        (of_llama, 49_152) if OF_LLAMA.contains(&of_llama) => {
            out.set("tokenizer.ggml.add_bos_token", Value::Bool(false));
        }
        _ => {}
    }
}

/// "left right" for each pair; a space within a piece, which would separate, is written as in the alphabet of bytes.
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
