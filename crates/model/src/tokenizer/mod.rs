//! Converts text to tokens and back.
//!
//! Two kinds: SentencePiece BPE, as in Llama 1 and 2, Mistral, Gemma and related models (`spm.rs`), and byte-level
//! BPE, as in GPT-2, Llama 3, Qwen, Phi and many others (`byte_level/`). They differ only in the middle:
//!
//! ```text
//! text ──special tokens cut out──> raw pieces ──"▁" for spaces, prefix──> merges ──────────> ids
//!                                             └─normalizer, words, bytes─> merges per word ─┘
//! ```

mod bits;
mod bpe;
pub(crate) mod byte_level;
mod directory;
mod encode;
mod from_gguf;
pub(crate) mod gguf_keys;
mod hash;
mod merges;
pub(crate) mod pre_tokenizer;
mod ranks;
mod seen;
mod space_prefix;
pub(crate) mod special;
mod spm;
mod stream;
pub(crate) mod vocabulary;

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use quern_tensor_io::{Checkpoint, Container, Error, Result};

use bpe::Bpe;
use byte_level::ByteLevel;
pub(crate) use directory::{Source, SourceModel};
pub(crate) use space_prefix::SpacePrefix;
use special::Edges;
pub use stream::StreamDecoder;
pub use vocabulary::TokenKind;
use vocabulary::Vocabulary;

/// How to encode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EncodeOptions {
    /// Put beginning-of-text (and end-of-text) around it, if the model was trained so.
    pub add_special: bool,
    /// Let text such as `<s>` stand for the control token of that name. Leave it off for text from outside.
    /// (Added tokens that are no control tokens are always recognised.)
    pub parse_special: bool,
}

/// The ids of special tokens, where the model has them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpecialIds {
    /// Beginning of text.
    pub bos: Option<u32>,
    /// End of text.
    pub eos: Option<u32>,
    /// Unknown.
    pub unk: Option<u32>,
    /// Separator.
    pub sep: Option<u32>,
    /// Padding.
    pub pad: Option<u32>,
    /// Mask.
    pub mask: Option<u32>,
    /// End of turn.
    pub eot: Option<u32>,
    /// End of message.
    pub eom: Option<u32>,
}

/// More tokens than this are treated as damage: the largest known vocabularies of the kinds that are read have 262 144.
pub(crate) const MAX_TOKENS: usize = 1 << 20;

/// Tokens that end a turn or a text by their name, whatever the files say (as in llama.cpp); the first
/// that exists is the end of turn if no other is named.
const END_NAMES: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "<\u{FF5C}end\u{2581}of\u{2581}sentence\u{FF5C}>",
    "<end_of_utterance>",
];

/// The note on a tokenizer without an end of text.
const NO_END: &str =
    "no token is known to end a text: generation ends only at the number of tokens asked for";

/// What a tokenizer is made of.
struct Parts {
    /// The file that holds its rules.
    file: PathBuf,
    vocabulary: Vocabulary,
    engine: Engine,
    ids: SpecialIds,
    ends: Vec<u32>,
    after_bos: Vec<u32>,
    edges: HashMap<u32, Edges>,
    add_bos: bool,
    add_eos: bool,
    chat_templates: Vec<(String, String)>,
    pre: Option<&'static str>,
    notes: Vec<String>,
    /// The files name an end of text that does not exist.
    lost_end: bool,
}

/// The data of each kind of tokenizer.
#[derive(Clone, Debug)]
enum Engine {
    /// Merges by score, or by a list.
    SentencePiece(SpacePrefix, Option<Bpe>),
    ByteLevel(ByteLevel),
}

impl Engine {
    /// Whether added tokens have spaces where the tokenizer has U+2581: in GGUF files and SentencePiece models.
    fn has_spaces(&self) -> bool {
        matches!(self, Self::SentencePiece(_, None))
    }
}

/// A model's tokenizer.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    /// The file that holds its rules, for errors.
    file: Arc<Path>,
    vocabulary: Vocabulary,
    special: special::SpecialTokens,
    edges: HashMap<u32, Edges>,
    engine: Engine,
    ids: SpecialIds,
    ends: Vec<u32>,
    /// What follows beginning-of-text in front of every text.
    after_bos: Vec<u32>,
    add_bos: bool,
    add_eos: bool,
    chat_templates: Vec<(String, String)>,
    pre: Option<&'static str>,
    notes: Vec<String>,
}

impl Tokenizer {
    /// Reads the tokenizer that belongs to `checkpoint`: from GGUF metadata, or from the files beside
    /// safetensors.
    pub fn from_checkpoint(checkpoint: &Checkpoint) -> Result<Self> {
        match checkpoint.container() {
            Container::Gguf => Self::from_gguf(checkpoint.metadata_file(), checkpoint.metadata()),
            _ => Self::from_directory(checkpoint.directory()),
        }
    }

    /// Reads `tokenizer.ggml.*` metadata; `file` is named in errors.
    pub fn from_gguf(file: &Path, metadata: &quern_tensor_io::Metadata) -> Result<Self> {
        from_gguf::read(file, metadata)
    }

    /// Reads `tokenizer.json`, `tokenizer.model`, `vocab.json` and `merges.txt`, `tiktoken.model`,
    /// `tokenizer_config.json`, `special_tokens_map.json` and `generation_config.json`, as far as they are there.
    pub fn from_directory(directory: &Path) -> Result<Self> {
        Source::read(directory, None)?.into_tokenizer()
    }

    fn assemble(parts: Parts) -> Result<Self> {
        let Parts {
            file,
            vocabulary,
            engine,
            mut ids,
            mut ends,
            after_bos,
            edges,
            add_bos,
            add_eos,
            chat_templates,
            pre,
            mut notes,
            lost_end,
        } = parts;
        let named = END_NAMES.iter().filter_map(|name| vocabulary.find(name));
        let named: Vec<u32> = named.filter(|&id| vocabulary.kind(id) != Some(TokenKind::Normal)).collect();
        ids.eot = ids.eot.or(named.first().copied());
        ends.extend(named);
        ends.extend([ids.eos, ids.eot, ids.eom].into_iter().flatten());
        ends.sort_unstable();
        ends.dedup();
        if ends.is_empty() && lost_end {
            notes.push(NO_END.into());
        }
        let special = special::SpecialTokens::new(&vocabulary, &edges, engine.has_spaces())
            .map_err(|what| Error::malformed(&file, what))?;
        let file = file.into();
        Ok(Self {
            file,
            vocabulary,
            special,
            edges,
            engine,
            ids,
            ends,
            after_bos,
            add_bos,
            add_eos,
            chat_templates,
            pre,
            notes,
        })
    }

    /// Whether encoding may put a space in front that decoding takes away again.
    fn prefixes(&self) -> bool {
        matches!(&self.engine, Engine::SentencePiece(prefix, _) if *prefix != SpacePrefix::Never)
    }

    /// The text of `tokens`, without control tokens and without the space that encoding put in front. Bytes
    /// that are not UTF-8 become U+FFFD.
    pub fn decode(&self, tokens: &[u32]) -> String {
        let mut bytes = Vec::with_capacity(tokens.len() * 4);
        for &token in tokens {
            bytes.extend_from_slice(&self.token_bytes(token));
        }
        let space = self.prefixes() && bytes.first() == Some(&b' ');
        String::from_utf8_lossy(&bytes[usize::from(space)..]).into_owned()
    }

    /// A decoder for text that arrives token by token from the start of a text: drops the space that encoding
    /// puts in front. For text that continues a prompt, take [`StreamDecoder::new`].
    pub fn stream(&self) -> StreamDecoder {
        StreamDecoder::dropping_space(self.prefixes())
    }

    /// The bytes `token` stands for: nothing for control tokens and ids outside the vocabulary.
    pub fn token_bytes(&self, token: u32) -> Cow<'_, [u8]> {
        self.vocabulary.bytes(token)
    }

    /// The vocabulary's spelling of `token` (`▁the`, `Ġthe`, `<0x0A>`, `</s>`).
    pub fn piece(&self, token: u32) -> Option<&str> {
        self.vocabulary.piece(token)
    }

    /// The token with exactly this spelling.
    pub fn token(&self, piece: &str) -> Option<u32> {
        self.vocabulary.find(piece)
    }

    /// What kind of token this is.
    pub fn token_kind(&self, token: u32) -> Option<TokenKind> {
        self.vocabulary.kind(token)
    }

    /// Number of tokens.
    pub fn vocab_size(&self) -> usize {
        self.vocabulary.len()
    }

    /// The kind of tokenizer, for people.
    pub fn kind_name(&self) -> &'static str {
        match self.engine {
            Engine::SentencePiece(..) => "SentencePiece BPE",
            Engine::ByteLevel(_) => "byte-level BPE",
        }
    }

    /// The name of the rule by which a GGUF file's byte-level tokenizer cuts words (`llama-bpe`, `qwen2` …): the
    /// file's own, or the one taken where it has none that quern knows. `None` for all other tokenizers.
    pub fn pre_tokenizer(&self) -> Option<&'static str> {
        self.pre
    }

    /// What is not sure of this tokenizer, in words a user can act on: a pre-tokenizer that the file does not
    /// name or that quern does not know, merges that do not fit.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Whether this is byte-level BPE.
    pub(crate) fn is_byte_level(&self) -> bool {
        matches!(self.engine, Engine::ByteLevel(_))
    }

    /// Where SentencePiece puts a space in front; `None` for byte-level BPE.
    pub(crate) fn prefix(&self) -> Option<SpacePrefix> {
        match self.engine {
            Engine::SentencePiece(prefix, _) => Some(prefix),
            Engine::ByteLevel(_) => None,
        }
    }

    /// The conditions of a special token on the text around it.
    pub(crate) fn edges(&self, token: u32) -> Edges {
        self.edges.get(&token).copied().unwrap_or_default()
    }

    /// The rule by which byte-level metadata is cut into words.
    pub(crate) fn rule_of_metadata(metadata: &quern_tensor_io::Metadata) -> pre_tokenizer::Rule {
        from_gguf::rule(metadata)
    }

    /// The ids of special tokens.
    pub fn special_ids(&self) -> &SpecialIds {
        &self.ids
    }

    /// Beginning of text.
    pub fn bos(&self) -> Option<u32> {
        self.ids.bos
    }

    /// End of text.
    pub fn eos(&self) -> Option<u32> {
        self.ids.eos
    }

    /// Unknown.
    pub fn unk(&self) -> Option<u32> {
        self.ids.unk
    }

    /// End of turn.
    pub fn eot(&self) -> Option<u32> {
        self.ids.eot
    }

    /// Whether generation stops at this token: end of text, of turn, of message, and what
    /// `generation_config.json` lists.
    pub fn is_end(&self, token: u32) -> bool {
        self.ends.contains(&token)
    }

    /// All tokens that end generation, ascending.
    pub fn end_tokens(&self) -> &[u32] {
        &self.ends
    }

    /// Whether [`EncodeOptions::add_special`] puts beginning-of-text in front.
    pub fn add_bos(&self) -> bool {
        self.add_bos && self.ids.bos.is_some()
    }

    /// The tokens that [`EncodeOptions::add_special`] puts behind beginning-of-text, in front of the text (`<sop>` of
    /// GLM-4).
    pub fn after_bos(&self) -> &[u32] {
        if self.add_bos() { &self.after_bos } else { &[] }
    }

    /// Whether [`EncodeOptions::add_special`] puts end-of-text at the end.
    pub fn add_eos(&self) -> bool {
        self.add_eos && self.ids.eos.is_some()
    }

    /// The chat template (Jinja). It comes from the file: treat it as untrusted.
    pub fn chat_template(&self) -> Option<&str> {
        self.chat_templates.iter().find(|(name, _)| name == "default").map(|(_, text)| text.as_str())
    }

    /// All chat templates by name, for models that have several; `default` is the one to use.
    pub fn chat_templates(&self) -> &[(String, String)] {
        &self.chat_templates
    }
}
