//! Properties of a tokenizer for which GGUF has no key: quern's own keys, and what is known by a model's name.

use std::collections::HashMap;

use quern_tensor_io::{Array, Metadata, Value};

use super::SpacePrefix;
use super::special::Edges;
use super::vocabulary::TokenKind;

/// Which texts get a space in front, where `tokenizer.ggml.add_space_prefix` alone would mean all.
pub(crate) const SPACE_PREFIX: &str = "quern.tokenizer.space_prefix";

/// transformers' class of the tokenizer where it matters: Llama's builds its own tokenizer from the vocabulary,
/// whatever `tokenizer.json` says, so that a folder made of the file must name it to get the same tokens there.
pub(crate) const CLASS: &str = "quern.tokenizer.class";

/// Its `legacy` flag.
pub(crate) const LEGACY: &str = "quern.tokenizer.legacy";

/// `tokenizer.ggml.model` of SentencePiece's pieces that are merged by a list (Gemma 4).
pub(crate) const BY_MERGES: &str = "gemma4";

/// Tokens that follow beginning-of-text in front of every text, where [`after_bos_by_name`] does not know them.
pub(crate) const AFTER_BOS: &str = "quern.tokenizer.after_bos_tokens";

/// What follows beginning-of-text by its name: GLM-4 begins texts with two tokens, of which GGUF has a key for the first.
pub(crate) fn after_bos_by_name<'a>(
    bos: Option<&str>,
    mut pieces: impl Iterator<Item = &'a str>,
) -> Option<u32> {
    (bos == Some("[gMASK]")).then(|| pieces.position(|piece| piece == "<sop>"))?.map(|id| id as u32)
}

type Asks = fn(&Edges) -> bool;

/// Lists of the added tokens with conditions on the text around them.
pub(crate) const EDGE_KEYS: [(&str, Asks); 3] = [
    ("quern.tokenizer.left_tokens", |edges| edges.left),
    ("quern.tokenizer.right_tokens", |edges| edges.right),
    ("quern.tokenizer.single_word_tokens", |edges| edges.single_word),
];

impl SpacePrefix {
    /// The value of [`SPACE_PREFIX`]; `None` where GGUF's own key states it.
    pub fn name(self) -> Option<&'static str> {
        match self {
            Self::Never | Self::Always => None,
            Self::AlwaysUnlessSpace => Some("always-unless-space"),
            Self::FirstUnlessSpace => Some("first-unless-space"),
        }
    }

    /// The prefix of a file.
    pub fn of_metadata(metadata: &Metadata, added: bool) -> Self {
        let own = [Self::AlwaysUnlessSpace, Self::FirstUnlessSpace];
        let name = metadata.str(SPACE_PREFIX);
        match own.into_iter().find(|prefix| prefix.name() == name && name.is_some()) {
            Some(own) if added => own,
            _ if added => Self::Always,
            _ => Self::Never,
        }
    }
}

/// The conditions of a file's added tokens: stated in the file, or known by its name.
pub(crate) fn edges_of_metadata<'a>(
    metadata: &Metadata,
    pieces: impl Iterator<Item = (&'a str, TokenKind)>,
) -> HashMap<u32, Edges> {
    if EDGE_KEYS.iter().all(|(key, _)| metadata.get(key).is_none()) {
        return edges_by_name(metadata.str("general.name").unwrap_or_default(), pieces);
    }
    let mut all: HashMap<u32, Edges> = HashMap::new();
    let set: [fn(&mut Edges); 3] = [|e| e.left = true, |e| e.right = true, |e| e.single_word = true];
    for ((key, _), set) in EDGE_KEYS.into_iter().zip(set) {
        if let Some(Value::Array(Array::U32(ids))) = metadata.get(key) {
            ids.iter().for_each(|&id| set(all.entry(id).or_default()));
        }
    }
    all
}

/// llama.cpp knows Phi-3's tokens by the model's name: all special tokens but three take the blanks behind them.
pub(crate) fn edges_by_name<'a>(
    name: &str,
    pieces: impl Iterator<Item = (&'a str, TokenKind)>,
) -> HashMap<u32, Edges> {
    let name = name.to_lowercase();
    if !name.contains("phi-3") && !name.contains("phi3") {
        return HashMap::new();
    }
    let asks = |&(_, (piece, kind)): &(usize, (&str, TokenKind))| {
        let special = matches!(kind, TokenKind::Control | TokenKind::UserDefined | TokenKind::Unknown);
        special && !matches!(piece, "<unk>" | "<s>" | "<|endoftext|>")
    };
    let edges = Edges { right: true, ..Edges::default() };
    pieces.enumerate().filter(asks).map(|(id, _)| (id as u32, edges)).collect()
}

/// Left and right piece of a merge. A piece may begin with a space, so the first character does not separate.
pub(crate) fn split_merge(merge: &str) -> (&str, &str) {
    let at = merge.char_indices().skip(1).find(|&(_, c)| c == ' ').map(|(at, _)| at);
    at.map_or((merge, ""), |at| (&merge[..at], &merge[at + 1..]))
}
