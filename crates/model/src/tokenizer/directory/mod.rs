//! The tokenizer files of a Hugging Face directory.
//!
//! | file | what is taken from it |
//! |---|---|
//! | `tokenizer.json` | byte-level BPE: everything; SentencePiece BPE: added tokens, space prefix, and the pieces where there is no `tokenizer.model` (score = minus the rank of the first merge that makes the piece); what is put around a text |
//! | `tokenizer.model` | SentencePiece's pieces, scores, kinds |
//! | `vocab.json`, `merges.txt` | byte-level BPE where there is neither of these |
//! | `tiktoken.model`, `hy.tiktoken`, `qwen.tiktoken` | the same, by ranks, where there is none of these |
//! | `tokenizer_config.json` | added tokens, special tokens' texts, `add_bos_token` …, chat template |
//! | `added_tokens.json`, `special_tokens_map.json`, `chat_template.jinja` | the older places of the same |
//! | `config.json`, `generation_config.json` | special tokens' ids, further ends of text |
//!
//! The rules are those of llama.cpp's converter, so that what is read here and what is read from the GGUF
//! file made of it agree; where it loses something that transformers respects, transformers wins.

mod chat_template;
mod engines;
mod list;
mod protobuf;
mod read_added;
mod read_json;
mod read_merges;
mod scores;
mod special_ids;
mod tiktoken;
mod tokenizer_json;
mod tokens;
mod values;
mod vocab_json;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use quern_tensor_io::{Error, Result, StringArray};

use crate::json::{Json, Object, as_u64, read_bytes};

use super::bpe::BpeOptions;
use super::byte_level::ByteLevel;
use super::pre_tokenizer::Pipeline;
use super::pre_tokenizer::recognize::FileRule;
use super::special::Edges;
use super::vocabulary::{TokenKind, Vocabulary};
use super::{Engine, Parts, SpacePrefix, SpecialIds, Tokenizer};
use engines::{bpe, by_merges, finish_byte_level};
use list::List;
use tokenizer_json::{ByteLevelParts, Model, SentencePieceParts, TokenizerJson};
use tokens::AddedTokens;

/// What the files of a directory say, as it goes into GGUF metadata and into a [`Tokenizer`].
#[derive(Debug)]
pub(crate) struct Source {
    pub pieces: StringArray,
    pub kinds: Vec<TokenKind>,
    pub model: SourceModel,
    /// Type and id, in the order found.
    pub ids: Vec<(&'static str, u32)>,
    /// Type and whether it is added, in the order found.
    pub add: Vec<(&'static str, bool)>,
    /// Name and text; the one named `default` is the one to use.
    pub chat_templates: Vec<(String, String)>,
    /// Ends of text from `generation_config.json`.
    pub ends: Vec<u32>,
    /// Tokens that follow beginning-of-text in front of every text (GLM-4).
    pub after_bos: Vec<u32>,
    /// Added tokens with conditions on the text around them.
    pub edges: HashMap<u32, Edges>,
    /// `add_prefix_space` of `tokenizer_config.json`.
    pub prefix_given: Option<bool>,
    /// Whether the files leave open if beginning-of-text is added, in a way that means no. (transformers' Llama
    /// classes add it whatever the template says; for the others a template that puts nothing in front means it.)
    pub silent_on_bos: bool,
    /// transformers' class, if it is Llama's, which does not follow `tokenizer.json`.
    pub llama_class: Option<String>,
    /// Its `legacy` flag, where given.
    pub legacy: Option<bool>,
    /// What was left out or is not sure, in words.
    pub notes: Vec<String>,
    /// The files name an end of text that does not exist.
    lost_end: bool,
    /// Where it comes from, for errors.
    file: std::path::PathBuf,
}

/// What belongs to one kind of tokenizer.
#[derive(Debug)]
pub(crate) enum SourceModel {
    SentencePiece {
        scores: Vec<f32>,
        prefix: SpacePrefix,
        /// The list to merge by instead of the scores: left and right pieces in turn.
        merges: Option<(StringArray, BpeOptions)>,
    },
    ByteLevel {
        /// Left and right pieces in turn.
        merges: StringArray,
        pipeline: Arc<Pipeline>,
        options: BpeOptions,
        rule: FileRule,
    },
}

impl Source {
    /// Reads `directory`. With `vocab_size`, pieces beyond are dropped and missing ones filled up.
    pub fn read(directory: &Path, vocab_size: Option<usize>) -> Result<Self> {
        let optional = |name: &str| Json::read_optional(&directory.join(name));
        let config = optional("tokenizer_config.json")?;
        let config = config.as_ref().map(Json::root);
        let config = config.as_ref();
        let json_file = directory.join("tokenizer.json");
        let json = if json_file.is_file() { Some(TokenizerJson::read(&json_file)?) } else { None };
        let (fast_model, mut added, processors) = match json {
            Some(json) => (Some(json.model), json.added, Some(json.processors)),
            None => (None, AddedTokens::default(), None),
        };
        if let Some(size) = vocab_size.filter(|&size| size > super::MAX_TOKENS) {
            let what = format!("a vocabulary of {size} tokens; at most {} are expected", super::MAX_TOKENS);
            return Err(Error::malformed(directory, what));
        }
        let model_file = directory.join("tokenizer.model");
        // GGUF has a list of merges for this family alone.
        let model_config = optional("config.json")?;
        let listed = match &model_config {
            Some(json) => gemma4(&json.root())?,
            None => false,
        };
        let has_json = fast_model.is_some();
        let mut ranked = None;
        let for_gguf = vocab_size.is_some();
        let given = match config {
            Some(config) => config.bool("add_prefix_space")?,
            None => None,
        };
        let mut notes = Vec::new();
        let (model, mut list) = match fast_model {
            Some(Model::ByteLevel(parts)) => byte_level(parts, vocab_size),
            // A GGUF file has scores: the model file's, if there is one. Otherwise the list of merges is better.
            Some(Model::SentencePiece(parts)) if for_gguf && model_file.is_file() && !listed => {
                let model = protobuf::parse(&model_file, &read_bytes(&model_file)?)?;
                (Read::SentencePiece(parts.prefix, None), List::from_model(&model, vocab_size))
            }
            Some(Model::SentencePiece(mut parts)) => {
                let misfits = if for_gguf && !listed {
                    scores::set(&mut parts.tokens, &parts.merges, &added)
                } else {
                    0
                };
                if misfits > 0 {
                    notes.push(format!(
                        "{misfits} merges of this tokenizer cannot be expressed as scores, which GGUF stores instead of \
                         them: text may get other tokens from the GGUF file"
                    ));
                }
                let list = List::new(std::mem::take(&mut parts.tokens), vocab_size);
                (Read::SentencePiece(parts.prefix, Some(parts)), list)
            }
            None if model_file.is_file() => {
                let model = protobuf::parse(&model_file, &read_bytes(&model_file)?)?;
                let prefixed = given.unwrap_or(model.add_dummy_prefix);
                let prefix = if prefixed { SpacePrefix::Always } else { SpacePrefix::Never };
                (Read::SentencePiece(prefix, None), List::from_model(&model, vocab_size))
            }
            None if directory.join("vocab.json").is_file() => {
                byte_level(vocab_json::read(directory, config)?, vocab_size)
            }
            None => {
                let Some(found) = tiktoken::find(directory) else {
                    let what = "there is no tokenizer here (neither tokenizer.json nor tokenizer.model nor vocab.json nor \
                                tiktoken.model)";
                    return Err(Error::malformed(directory, what));
                };
                let size = vocab_size.or(tokens_of(model_config.as_ref())?);
                let read = found.read(config, size, for_gguf)?;
                (ranked, added) = (Some(read.model_type), read.special);
                notes.extend(unmade(read.unmade));
                byte_level(read.parts, vocab_size)
            }
        };
        match ranked {
            Some(_) => list.add_all(&added),
            None => add_tokens(directory, config, &added, &model, has_json, &mut list)?,
        }

        let places = special_ids::Places {
            directory,
            list: &list,
            added: &added,
            processors: processors.as_deref(),
            config,
            ids_first: ranked.is_some(),
        };
        let mut special = special_ids::find(&places)?;
        let after_bos =
            special.after_bos.iter().filter_map(|text| special_ids::id_of(&places, text)).collect();
        if !list.beyond.is_empty() {
            let size = list.tokens.len();
            notes.push(format!("{} tokens beyond the model's {size} are left out", list.beyond.len()));
        }
        notes.append(&mut special.notes);
        let class = config.and_then(|c| c.get("tokenizer_class")?.as_str()).unwrap_or_default();
        let silent = !special.add.iter().any(|(k, _)| *k == "bos");
        let silent_on_bos = silent && has_json && !class.starts_with("Llama");
        let llama_class = class.starts_with("LlamaTokenizer").then(|| class.to_owned());
        let legacy = config.and_then(|c| c.get("legacy")?.as_bool());
        let cut = !list.beyond.is_empty();
        let said = notes.len();
        let ends = special_ids::generation_ends(directory, list.tokens.len(), &mut notes)?;
        let lost_end = special.lost_end || notes.len() > said;
        let chat_templates = chat_template::read(directory, config)?;
        let edges = std::mem::take(&mut list.edges);
        let (pieces, scores, kinds) = list.finish();
        let model = match model {
            Read::SentencePiece(prefix, parts) => {
                let merges = parts.map(|parts| by_merges(parts, &pieces));
                SourceModel::SentencePiece { scores, prefix, merges }
            }
            Read::ByteLevel(parts) => {
                let model_type = match (ranked, &model_config) {
                    (Some(name), _) => Some(name.to_owned()),
                    (None, Some(json)) => json.root().str("model_type")?.map(str::to_owned),
                    (None, None) => None,
                };
                finish_byte_level(*parts, model_type, &pieces, cut)
            }
        };
        Ok(Self {
            pieces,
            kinds,
            model,
            ids: special.ids,
            add: special.add,
            chat_templates,
            ends,
            after_bos,
            edges,
            prefix_given: given,
            silent_on_bos,
            llama_class,
            legacy,
            notes,
            lost_end,
            file: if has_json { json_file } else { directory.to_path_buf() },
        })
    }

    pub fn id(&self, kind: &str) -> Option<u32> {
        self.ids.iter().find(|(k, _)| *k == kind).map(|&(_, id)| id)
    }

    pub fn adds(&self, kind: &str) -> Option<bool> {
        self.add.iter().find(|(k, _)| *k == kind).map(|&(_, add)| add)
    }

    pub fn into_tokenizer(self) -> Result<Tokenizer> {
        let mut ids = SpecialIds {
            bos: self.id("bos"),
            eos: self.id("eos"),
            unk: self.id("unk"),
            sep: self.id("sep"),
            pad: self.id("pad"),
            mask: self.id("mask"),
            eot: self.id("eot"),
            eom: None,
        };
        let (add_bos, add_eos) = (self.adds("bos"), self.adds("eos").unwrap_or(false));
        let (vocabulary, engine, add_bos) = match self.model {
            SourceModel::SentencePiece { scores, prefix, merges } => {
                // Where no file names them, the ids every model of this kind has.
                let is =
                    |id: u32, kind: TokenKind| (self.kinds.get(id as usize) == Some(&kind)).then_some(id);
                let unknown = self.kinds.iter().position(|&k| k == TokenKind::Unknown).map(|i| i as u32);
                ids.bos = ids.bos.or_else(|| is(1, TokenKind::Control));
                ids.eos = ids.eos.or_else(|| is(2, TokenKind::Control));
                ids.unk = ids.unk.or(unknown);
                let vocabulary = Vocabulary::new(self.pieces, scores, self.kinds, ids.unk);
                let bpe = match &merges {
                    Some((merges, options)) => Some(bpe(&self.file, &vocabulary, merges, *options)?),
                    None => None,
                };
                (vocabulary, Engine::SentencePiece(prefix, bpe), add_bos.unwrap_or(!self.silent_on_bos))
            }
            SourceModel::ByteLevel { merges, pipeline, options, .. } => {
                let vocabulary = Vocabulary::byte_level(self.pieces, self.kinds, options.unknown);
                let bpe = bpe(&self.file, &vocabulary, &merges, options)?;
                (vocabulary, Engine::ByteLevel(ByteLevel::new(pipeline, bpe)), add_bos.unwrap_or(false))
            }
        };
        Tokenizer::assemble(Parts {
            file: self.file,
            vocabulary,
            engine,
            ids,
            ends: self.ends,
            after_bos: self.after_bos,
            edges: self.edges,
            add_bos,
            add_eos,
            chat_templates: self.chat_templates,
            pre: None,
            notes: self.notes,
            lost_end: self.lost_end,
        })
    }
}

/// The number of a model's tokens by its configuration.
fn tokens_of(config: Option<&Json>) -> Result<Option<usize>> {
    let Some(config) = config else { return Ok(None) };
    let root = config.root();
    let text = root.object("text_config")?.filter(|_| root.get("vocab_size").is_none());
    Ok(text.unwrap_or(root).get("vocab_size").and_then(as_u64).map(|size| size as usize))
}

/// The note on pieces of a vocabulary by rank that no list of merges makes.
fn unmade(pieces: usize) -> Option<String> {
    (pieces > 0).then(|| {
        format!(
            "{pieces} pieces of this tokenizer are made of others by their ranks, which GGUF has no place for, and by no \
             list of merges: text may get other tokens from the GGUF file"
        )
    })
}

/// Whether a configuration is of Gemma 4, alone or inside a multimodal release.
fn gemma4(root: &Object<'_>) -> Result<bool> {
    Ok(root.str("model_type")?.is_some_and(|name| name.starts_with("gemma4")))
}

/// The kind of tokenizer while its vocabulary is put together.
enum Read {
    SentencePiece(SpacePrefix, Option<SentencePieceParts>),
    ByteLevel(Box<ByteLevelParts>),
}

fn byte_level(mut parts: ByteLevelParts, vocab_size: Option<usize>) -> (Read, List) {
    let list = List::new(std::mem::take(&mut parts.tokens), vocab_size);
    (Read::ByteLevel(Box::new(parts)), list)
}

/// The tokens that the files add to the model's own.
fn add_tokens(
    directory: &Path,
    config: Option<&Object<'_>>,
    added: &AddedTokens,
    model: &Read,
    has_json: bool,
    list: &mut List,
) -> Result<()> {
    let old_style = Json::read_optional(&directory.join("added_tokens.json"))?;
    match model {
        Read::ByteLevel(_) if has_json => {
            list.add_all(added);
            if let Some(config) = config {
                list.add_decoder(config, true)?;
            }
        }
        Read::ByteLevel(_) => {
            vocab_json::mark_special(directory, config, list)?;
            if let Some(json) = old_style {
                list.add_old_style(&json.root())?;
            }
            if let Some(config) = config {
                list.add_decoder(config, false)?;
            }
        }
        // The list of the json file itself.
        Read::SentencePiece(_, Some(_)) => {
            list.add_all(added);
            if let Some(config) = config {
                list.add_decoder(config, true)?;
            }
        }
        Read::SentencePiece(_, None) => {
            if let Some(json) = old_style {
                list.add_old_style(&json.root())?;
            }
            if let Some(config) = config {
                list.add_decoder(config, false)?;
            }
            let decoder = config.is_some_and(|c| c.get("added_tokens_decoder").is_some());
            list.add_to_model(added, !decoder);
        }
    }
    // Only where a normalizer makes U+2581 of spaces are the two one in added tokens.
    let one = match model {
        Read::ByteLevel(_) => false,
        Read::SentencePiece(_, Some(parts)) => parts.normalizes,
        Read::SentencePiece(_, None) => true,
    };
    if !one {
        list.edges.values_mut().for_each(|edges| edges.either_space = false);
    }
    Ok(())
}
