//! Vocabularies of the tiktoken library, which come without a `tokenizer.json`.
//!
//! ```text
//! tiktoken.model         one piece a line: its bytes in base64, a space, its rank, which is its id
//! tokenizer_config.json  the class, and for Kimi the texts of special tokens by id
//! tokenization_*.py      the class's program, with the pattern by which text is cut
//! ```
//!
//! What the files leave to the program is known of three classes: the pattern, which is compared with the program's
//! where it is there, and the special tokens, which follow the pieces. All of them count in every text. (Moonshot's
//! program also cuts texts at every 400 000 characters, and runs without white space at every 25 000.)

mod python;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use quern_tensor_io::{Error, Result, StringArray, small};
use serde_json::Value;

use crate::json::{Object, read_text};
use crate::tokenizer::byte_level::alphabet;
use crate::tokenizer::pre_tokenizer::{Part, Pattern, Pipeline, Rule, table};
use crate::tokenizer::special::Edges;
use crate::tokenizer::vocabulary::TokenKind;
use crate::tokenizer::{MAX_TOKENS, ranks};

use super::tokenizer_json::ByteLevelParts;
use super::tokens::{Added, AddedTokens, Token, Tokens};

/// The most bytes of such a file: that of Kimi K2, of 163 584 pieces, has 3 MB.
const MAX_BYTES: u64 = 32 << 20;
/// The longest piece in bytes; those of published vocabularies have some hundreds.
const LONGEST: usize = 1024;
/// Special tokens of Kimi's class: 256 for use, and two more.
const RESERVED: usize = 258;
/// Special tokens of the other two that have numbers alone.
const EXTRAS: usize = 205;

/// A class of tokenizers.
struct Family {
    /// The vocabulary's file.
    file: &'static str,
    class: &'static str,
    /// The rule by which text is cut, by its name in GGUF.
    rule: &'static str,
    /// Chooses that name among those of the same rule, as `model_type` of `config.json` does for other files.
    model_type: &'static str,
    special: Special,
}

/// Where a class has its special tokens from.
enum Special {
    /// `added_tokens_decoder`; those it leaves out are reserved by number.
    Decoder,
    /// The program: these, and then numbered ones.
    Program(&'static [&'static str]),
}

const FAMILIES: [Family; 3] = [
    Family {
        file: "tiktoken.model",
        class: "TikTokenTokenizer",
        rule: "kimi-k2",
        model_type: "kimi_k2",
        special: Special::Decoder,
    },
    Family {
        file: "hy.tiktoken",
        class: "HYTokenizer",
        rule: "hunyuan",
        model_type: "hunyuan_v1_moe",
        special: Special::Program(&["<|endoftext|>", "<|startoftext|>", "<|bos|>", "<|eos|>", "<|pad|>"]),
    },
    Family {
        file: "qwen.tiktoken",
        class: "QWenTokenizer",
        rule: "qwen2",
        model_type: "qwen",
        special: Special::Program(&["<|endoftext|>", "<|im_start|>", "<|im_end|>"]),
    },
];

/// A vocabulary as it was found.
pub(super) struct Found {
    file: PathBuf,
    family: &'static Family,
}

/// The vocabulary of this kind in `directory`, if there is one.
pub(super) fn find(directory: &Path) -> Option<Found> {
    let all = FAMILIES.iter().map(|family| Found { file: directory.join(family.file), family });
    all.into_iter().find(|found| found.file.is_file())
}

/// What was read.
pub(super) struct Vocabulary {
    pub parts: ByteLevelParts,
    pub special: AddedTokens,
    /// Chooses the name of the rule.
    pub model_type: &'static str,
    /// Pieces that no list of merges makes, as GGUF has one in place of ranks.
    pub unmade: usize,
}

impl Found {
    /// Reads the vocabulary; `config` is `tokenizer_config.json`, `size` the number of the model's tokens. The merges are
    /// those of a list if `listed`, else none.
    ///
    /// # Errors
    /// The file is broken, or the class that `config` names, or the pattern in its program, is none that quern knows.
    pub fn read(self, config: Option<&Object<'_>>, size: Option<usize>, listed: bool) -> Result<Vocabulary> {
        let rule = self.rule(config)?;
        let pieces = self.pieces()?;
        let special = self.special(config, pieces.len(), size)?;
        let mut tokens = Tokens::default();
        for (id, piece) in pieces.iter().enumerate() {
            tokens.set(id, Token { piece, score: 0.0, kind: TokenKind::Normal });
        }
        let (mut merges, mut unmade) = (StringArray::new(), 0);
        if listed {
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            let ranks = ranks::of(&pieces);
            unmade = ranks.unmade;
            merges =
                ranks.pairs.iter().flat_map(|&(l, r)| [pieces[l as usize], pieces[r as usize]]).collect();
        }
        let (normalizer, pre_tokenizer) = (rule.normalizer(), rule.pre_tokenizer());
        let pipeline = Pipeline::new(&normalizer, &pre_tokenizer)
            .map_err(|(key, what)| Error::malformed(&self.file, format!("{key}: {what}")))?;
        let parts = ByteLevelParts {
            tokens,
            merges,
            ignore_merges: false,
            by_rank: true,
            unknown: None,
            normalizer,
            pre_tokenizer,
            pipeline: Arc::new(pipeline),
        };
        Ok(Vocabulary { parts, special, model_type: self.family.model_type, unmade })
    }

    /// The pieces by rank, spelled in the alphabet of bytes.
    fn pieces(&self) -> Result<Vec<String>> {
        let bad = |what: String| Error::malformed(&self.file, what);
        let content = small::read(&self.file, MAX_BYTES)?;
        let mut pieces: Vec<(u32, String)> = Vec::new();
        let mut alone = [false; 256];
        for (at, line) in content.split(|&b| b == b'\n').enumerate() {
            let line = line.trim_ascii();
            if line.is_empty() {
                continue;
            }
            let (rank, bytes) = entry(line).ok_or_else(|| {
                bad(format!("line {}: bytes in base64, a space and a rank are expected", at + 1))
            })?;
            if bytes.is_empty() || bytes.len() > LONGEST {
                let what =
                    format!("line {}: a piece of {} bytes; 1 to {LONGEST} are expected", at + 1, bytes.len());
                return Err(bad(what));
            }
            if pieces.len() == MAX_TOKENS {
                return Err(bad(format!("more than {MAX_TOKENS} pieces")));
            }
            if let [byte] = bytes[..] {
                alone[usize::from(byte)] = true;
            }
            pieces.push((rank, bytes.iter().map(|&byte| alphabet::char_of(byte)).collect()));
        }
        if let Some(byte) = alone.iter().position(|found| !found) {
            return Err(bad(format!("there is no piece for the byte {byte:#04x} alone")));
        }
        pieces.sort_unstable();
        // The ids of the special tokens follow the number of pieces.
        if let Some((at, (rank, _))) = pieces.iter().enumerate().find(|&(at, (rank, _))| *rank != at as u32) {
            return Err(bad(format!(
                "the rank {rank} is where {at} is expected: ranks must be 0, 1, 2 and so on"
            )));
        }
        let pieces: Vec<String> = pieces.into_iter().map(|(_, piece)| piece).collect();
        let mut sorted: Vec<&String> = pieces.iter().collect();
        sorted.sort_unstable();
        match sorted.windows(2).find(|pair| pair[0] == pair[1]) {
            None => Ok(pieces),
            Some(pair) => {
                let piece: String = pair[0].chars().take(60).collect();
                Err(bad(format!("the piece {piece:?} has two ranks")))
            }
        }
    }

    /// The special tokens behind `pieces` pieces; none beyond the model's `size`.
    fn special(
        &self,
        config: Option<&Object<'_>>,
        pieces: usize,
        size: Option<usize>,
    ) -> Result<AddedTokens> {
        let mut special = AddedTokens::default();
        let end = size.unwrap_or(MAX_TOKENS);
        let mut push = |at: usize, content: &str| {
            if pieces + at < end {
                let id = (pieces + at) as u32;
                special.push(Added { id, content, special: true, edges: Edges::default() });
            }
        };
        match self.family.special {
            Special::Program(named) => {
                let extras = (0..EXTRAS).map(|n| format!("<|extra_{n}|>"));
                let all = named.iter().map(|&name| name.to_owned()).chain(extras);
                all.enumerate().for_each(|(at, content)| push(at, &content));
            }
            Special::Decoder => {
                let decoder = match config {
                    Some(config) => config.object("added_tokens_decoder")?,
                    None => None,
                };
                for at in 0..RESERVED {
                    let id = pieces + at;
                    let entry = match &decoder {
                        Some(decoder) => decoder.object(&id.to_string())?,
                        None => None,
                    };
                    match entry {
                        Some(entry) => {
                            push(at, entry.str("content")?.ok_or_else(|| entry.missing("content"))?)
                        }
                        None => push(at, &format!("<|reserved_token_{id}|>")),
                    }
                }
            }
        }
        Ok(special)
    }

    /// The rule by which text is cut.
    fn rule(&self, config: Option<&Object<'_>>) -> Result<Rule> {
        let Family { file, class, rule, .. } = self.family;
        let remedy = "add a tokenizer.json, which holds the rule by which text is cut";
        let mapped = config.and_then(|config| config.get("auto_map")?.get("AutoTokenizer"));
        let mapped = mapped.and_then(|entry| entry.as_str().or_else(|| entry.get(0)?.as_str()));
        let (module, mapped) = mapped.and_then(|path| path.rsplit_once('.')).unzip();
        let named = config.and_then(|config| config.get("tokenizer_class")).and_then(Value::as_str);
        let named = named.or(mapped).unwrap_or_default();
        if named != *class {
            let named: String = named.chars().take(60).collect();
            let found = if named.is_empty() { "no class".to_owned() } else { format!("the class {named:?}") };
            let what = format!(
                "tokenizer_config.json names {found} for this vocabulary, and {class:?} is the only one of {file} that quern \
                 knows; {remedy}"
            );
            return Err(Error::unsupported(&self.file, what));
        }
        let known = table::find(rule).map(table::Known::rule);
        let Some(known) = known else {
            return Err(Error::unsupported(&self.file, format!("the pre-tokenizer {rule:?} is not known")));
        };
        // A module of another repository is not here.
        let module = module.filter(|module| module.chars().all(|c| c.is_alphanumeric() || c == '_'));
        let program = module.map(|module| self.file.with_file_name(format!("{module}.py")));
        if let Some(program) = program.filter(|program| program.is_file()) {
            let pattern = python::pattern(&read_text(&program)?);
            if pattern.as_deref().map(Pattern::Regex) != regex(&known) {
                let found = match pattern {
                    Some(_) => "cuts text by another pattern than the one quern knows",
                    None => "has no pattern under \"pat_str\", by which it cuts text",
                };
                return Err(Error::unsupported(program, format!("{class} {found}; {remedy}")));
            }
        }
        Ok(known)
    }
}

/// The rank and the bytes of a line.
fn entry(line: &[u8]) -> Option<(u32, Vec<u8>)> {
    let (bytes, rank) = std::str::from_utf8(line).ok()?.split_once(' ')?;
    Some((rank.parse().ok()?, STANDARD.decode(bytes).ok()?))
}

/// The expression of a rule, which has no other part.
fn regex<'r>(rule: &'r Rule) -> Option<Pattern<'r>> {
    rule.parts.iter().find_map(|part| match part {
        Part::Split { pattern, .. } => Some(*pattern),
        Part::Digits(_) | Part::Punctuation(_) | Part::PrefixSpace | Part::Bytes => None,
    })
}
