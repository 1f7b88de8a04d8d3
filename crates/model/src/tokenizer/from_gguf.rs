//! The tokenizer in GGUF metadata (`tokenizer.ggml.*`).
//!
//! `model` gives the kind: `llama` is SentencePiece BPE with scores, `gpt2` byte-level BPE with merges and the name
//! of a pre-tokenizer. Absent keys have llama.cpp's defaults.

use std::path::Path;
use std::sync::Arc;

use quern_tensor_io::{Array, Error, Metadata, Result, StringArray, Value};

use super::bpe::{Bpe, BpeOptions, MAX_MERGES};
use super::byte_level::ByteLevel;
use super::gguf_keys::{AFTER_BOS, BY_MERGES, after_bos_by_name, edges_of_metadata, split_merge};
use super::pre_tokenizer::table::{self, Known};
use super::pre_tokenizer::{Pipeline, Rule};
use super::special;
use super::vocabulary::{SPACE, TokenKind, Vocabulary};
use super::{Engine, Parts, SpacePrefix, SpecialIds, Tokenizer};

pub(super) fn read(file: &Path, metadata: &Metadata) -> Result<Tokenizer> {
    let keys = Keys { file, metadata };
    let model = metadata.str("tokenizer.ggml.model").ok_or_else(|| keys.missing("model"))?;
    let byte_level = match model {
        // Gemma 4's pieces are SentencePiece's, merged by a list.
        "llama" | BY_MERGES => false,
        "gpt2" => true,
        other => {
            let name: String = other.chars().take(40).collect();
            let what = format!("tokenizer {name:?} is not supported (llama and gpt2 are)");
            return Err(Error::unsupported(file, what));
        }
    };
    let pieces = metadata.strings("tokenizer.ggml.tokens").ok_or_else(|| keys.missing("tokens"))?;
    let count = pieces.len();
    if count == 0 || count > super::MAX_TOKENS {
        let most = super::MAX_TOKENS;
        return Err(keys.bad("tokens", format!("{count} tokens; between 1 and {most} are expected")));
    }
    let pieces = pieces.clone();
    let mut kinds = kinds(metadata, count).map_err(|what| keys.bad("token_type", what))?;
    let mut notes = Vec::new();
    correct_kinds(&pieces, &mut kinds, &mut notes);
    // llama.cpp's default ids for SentencePiece.
    let usual = |id: u32| (!byte_level).then_some(id);
    let mut id = |key: &str, default| keys.id(key, default, count, &mut notes);
    let ids = SpecialIds {
        bos: id("bos_token_id", usual(1)),
        eos: id("eos_token_id", usual(2)),
        unk: id("unknown_token_id", usual(0)),
        sep: id("seperator_token_id", None),
        pad: id("padding_token_id", None),
        mask: id("mask_token_id", None),
        eot: id("eot_token_id", None),
        eom: id("eom_token_id", None),
    };
    let lost_end = ids.eos.is_none() && keys.get("eos_token_id").is_some();
    let (vocabulary, engine, add_bos, pre) = if byte_level {
        let (name, known) = pre_tokenizer(metadata, &mut notes);
        let merges = metadata.strings("tokenizer.ggml.merges").ok_or_else(|| keys.missing("merges"))?;
        let (vocabulary, engine) = byte_level_engine(&keys, known, pieces, kinds, merges, &mut notes)?;
        (vocabulary, Engine::ByteLevel(engine), known.add_bos, Some(name))
    } else {
        let scores = keys.scores(count)?;
        let by_merges = model == BY_MERGES;
        let prefix = SpacePrefix::of_metadata(metadata, keys.flag("add_space_prefix", !by_merges)?);
        let vocabulary = Vocabulary::new(pieces, scores, kinds, ids.unk);
        let bpe = match by_merges {
            true => {
                let merges =
                    metadata.strings("tokenizer.ggml.merges").ok_or_else(|| keys.missing("merges"))?;
                let options = BpeOptions {
                    byte_fallback: true,
                    unknown: ids.unk,
                    fuse_unknown: true,
                    ..BpeOptions::default()
                };
                Some(by_list(&keys, &vocabulary, merges, options, &mut notes)?)
            }
            false => None,
        };
        (vocabulary, Engine::SentencePiece(prefix, bpe), true, None)
    };
    let all = vocabulary.kinds().iter().enumerate();
    let pieces = all.map(|(id, &kind)| (vocabulary.piece(id as u32).unwrap_or_default(), kind));
    let mut edges = edges_of_metadata(metadata, pieces);
    if model == BY_MERGES {
        // Spaces have become U+2581 where added tokens are looked for.
        for (id, kind) in vocabulary.kinds().iter().enumerate() {
            let piece = vocabulary.piece(id as u32).unwrap_or_default();
            if *kind == TokenKind::UserDefined && piece.contains(SPACE) {
                edges.entry(id as u32).or_default().either_space = true;
            }
        }
    }
    let after_bos = match metadata.get(AFTER_BOS) {
        Some(Value::Array(Array::U32(tokens))) => {
            tokens.iter().copied().filter(|&id| (id as usize) < count).collect()
        }
        Some(_) => return Err(Error::malformed(file, format!("{AFTER_BOS}: an array of u32 is expected"))),
        None => {
            let pieces = (0..count as u32).map(|id| vocabulary.piece(id).unwrap_or_default());
            let bos = ids.bos.and_then(|bos| vocabulary.piece(bos));
            after_bos_by_name(bos, pieces).into_iter().collect()
        }
    };
    Tokenizer::assemble(Parts {
        file: file.to_path_buf(),
        vocabulary,
        engine,
        ids,
        ends: Vec::new(),
        after_bos,
        edges,
        add_bos: keys.flag("add_bos_token", add_bos)?,
        add_eos: keys.flag("add_eos_token", false)?,
        chat_templates: chat_templates(metadata),
        pre,
        notes,
        lost_end,
    })
}

/// The template to use, and those that `tokenizer.chat_templates` names.
fn chat_templates(metadata: &Metadata) -> Vec<(String, String)> {
    let text = |key: &str| metadata.str(key).map(str::to_owned);
    let mut all = Vec::new();
    all.extend(text("tokenizer.chat_template").map(|text| ("default".to_owned(), text)));
    let names = metadata.strings("tokenizer.chat_templates").into_iter().flat_map(|names| names.iter());
    all.extend(
        names
            .filter(|&name| name != "default")
            .filter_map(|name| Some((name.to_owned(), text(&format!("tokenizer.chat_template.{name}"))?))),
    );
    all
}

/// Old files mark the ends of turns and texts as ordinary pieces. No ordinary text contains those, so they are
/// treated as control tokens, as llama.cpp does.
fn correct_kinds(pieces: &StringArray, kinds: &mut [TokenKind], notes: &mut Vec<String>) {
    let mut corrected = Vec::new();
    for (piece, kind) in pieces.iter().zip(kinds) {
        if *kind == TokenKind::Normal && super::END_NAMES.contains(&piece) {
            *kind = TokenKind::Control;
            corrected.push(piece);
        }
    }
    if !corrected.is_empty() {
        let names = corrected.join(", ");
        notes
            .push(format!("the file marks {names} as ordinary text (token_type); treated as control tokens"));
    }
}

/// The rule by which byte-level metadata is cut.
pub(super) fn rule(metadata: &Metadata) -> Rule {
    pre_tokenizer(metadata, &mut Vec::new()).1.rule()
}

fn byte_level_engine(
    keys: &Keys<'_>,
    known: &Known,
    pieces: StringArray,
    kinds: Vec<TokenKind>,
    merges: &StringArray,
    notes: &mut Vec<String>,
) -> Result<(Vocabulary, ByteLevel)> {
    let vocabulary = Vocabulary::byte_level(pieces, kinds, None);
    let pipeline = Pipeline::of_rule(&known.rule()).map_err(|(key, what)| keys.bad(key, what))?;
    let options = BpeOptions { ignore_merges: known.ignore_merges, ..BpeOptions::default() };
    let bpe = by_list(keys, &vocabulary, merges, options, notes)?;
    Ok((vocabulary, ByteLevel::new(Arc::new(pipeline), bpe)))
}

/// The merges of a file; those that do not fit the vocabulary are left out with a note.
fn by_list(
    keys: &Keys<'_>,
    vocabulary: &Vocabulary,
    merges: &StringArray,
    options: BpeOptions,
    notes: &mut Vec<String>,
) -> Result<Bpe> {
    if merges.len() > MAX_MERGES {
        let count = merges.len();
        return Err(keys.bad("merges", format!("{count} merges, and at most {MAX_MERGES} are expected")));
    }
    let (bpe, misfits, first) = Bpe::new(vocabulary, merges.iter().map(split_merge), options);
    if let Some(first) = first {
        notes.push(format!(
            "{misfits} of {} merges need pieces that the vocabulary does not have and are left out, the first \
             being number {} ({:?})",
            merges.len(),
            first.rank,
            first.piece
        ));
    }
    Ok(bpe)
}

/// The rule the file names; where it names none or one that quern does not know, that of most models of its
/// architecture, and a note.
fn pre_tokenizer(metadata: &Metadata, notes: &mut Vec<String>) -> (&'static str, &'static Known) {
    let name = metadata.str("tokenizer.ggml.pre");
    if let Some(found) = name.and_then(table::named) {
        return found;
    }
    let tokens = metadata.strings("tokenizer.ggml.tokens").map_or(0, |t| t.len());
    let guess = match (metadata.str("general.architecture").unwrap_or_default(), tokens) {
        ("llama", 128_000..=128_300) => "llama-bpe",
        ("llama", 131_072) => "tekken",
        ("qwen2" | "qwen2moe" | "qwen2vl" | "qwen3" | "qwen3moe" | "qwen3vl", _) => "qwen2",
        ("stablelm", 100_289..=100_352) => "stablelm2",
        ("stablelm" | "gptneox" | "mpt", _) => "mpt",
        ("olmo", _) => "olmo",
        ("gpt2" | "phi2", _) => "gpt-2",
        ("falcon", _) => "falcon",
        ("starcoder" | "starcoder2", _) => "starcoder",
        ("command-r" | "cohere2", _) => "command-r",
        ("bloom", _) => "bloom",
        _ => table::DEFAULT,
    };
    let said = match name {
        None => "the file does not name its pre-tokenizer (tokenizer.ggml.pre)".to_owned(),
        Some(name) => {
            let name: String = name.chars().take(40).collect();
            format!("quern does not know the pre-tokenizer {name:?} (tokenizer.ggml.pre)")
        }
    };
    notes.push(format!(
        "{said}; {guess:?} is used: some words may be split differently than in the model's training"
    ));
    (guess, table::find(guess).unwrap_or(&table::KNOWN[0]))
}

/// Keys below `tokenizer.ggml.`
struct Keys<'a> {
    file: &'a Path,
    metadata: &'a Metadata,
}

impl Keys<'_> {
    fn bad(&self, key: &str, what: String) -> Error {
        Error::malformed(self.file, format!("tokenizer.ggml.{key}: {what}"))
    }

    fn missing(&self, key: &str) -> Error {
        Error::malformed(self.file, format!("the metadata key \"tokenizer.ggml.{key}\" is missing"))
    }

    fn get(&self, key: &str) -> Option<&Value> {
        self.metadata.get(&format!("tokenizer.ggml.{key}"))
    }

    /// The id of a special token. One that does not exist is ignored with a note, as in llama.cpp.
    fn id(&self, key: &str, default: Option<u32>, count: usize, notes: &mut Vec<String>) -> Option<u32> {
        let default = default.filter(|&id| (id as usize) < count);
        let Some(value) = self.get(key) else { return default };
        match value.as_u64() {
            Some(id) if id < count as u64 => Some(id as u32),
            // The writers' way to say "none": -1, or its unsigned reading.
            Some(id) if id == u64::from(u32::MAX) => None,
            None if *value == Value::I32(-1) => None,
            id => {
                let found = id.map_or_else(|| "no id".to_owned(), |id| id.to_string());
                notes.push(special::no_such_token(&format!("tokenizer.ggml.{key}"), &found, count, default));
                default
            }
        }
    }

    fn flag(&self, key: &str, default: bool) -> Result<bool> {
        match self.get(key) {
            None => Ok(default),
            Some(value) => value.as_bool().ok_or_else(|| self.bad(key, "true or false is expected".into())),
        }
    }

    fn scores(&self, count: usize) -> Result<Vec<f32>> {
        let scores = self.metadata.f32s("tokenizer.ggml.scores").ok_or_else(|| self.missing("scores"))?;
        if scores.len() != count {
            return Err(self.bad("scores", format!("{} scores for {count} tokens", scores.len())));
        }
        match scores.iter().position(|s| s.is_nan()) {
            Some(i) => Err(self.bad("scores", format!("the score of token {i} is not a number"))),
            None => Ok(scores.to_vec()),
        }
    }
}

/// The kinds of all tokens; normal where the file says nothing.
fn kinds(metadata: &Metadata, count: usize) -> Result<Vec<TokenKind>, String> {
    let kind = |(i, n): (usize, i64)| {
        // 0 is ggml's "undefined", which old files use for ordinary pieces.
        let kind = if n == 0 { Some(TokenKind::Normal) } else { TokenKind::from_number(n) };
        kind.ok_or_else(|| format!("token {i} has the unknown type {n}"))
    };
    let as_many = |found: usize| match found == count {
        true => Ok(()),
        false => Err(format!("{found} types for {count} tokens")),
    };
    match metadata.get("tokenizer.ggml.token_type") {
        None => Ok(vec![TokenKind::Normal; count]),
        Some(Value::Array(Array::I32(v))) => {
            as_many(v.len())?;
            v.iter().map(|&n| i64::from(n)).enumerate().map(kind).collect()
        }
        Some(Value::Array(Array::U32(v))) => {
            as_many(v.len())?;
            v.iter().map(|&n| i64::from(n)).enumerate().map(kind).collect()
        }
        Some(_) => Err("an array of i32 is expected".into()),
    }
}
