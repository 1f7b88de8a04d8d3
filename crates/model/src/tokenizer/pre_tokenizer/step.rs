//! The steps by which a text is cut into words: the tokenizers library's pre-tokenizers over `&str`.

use serde::Deserialize;
use serde_json::Value;
use tokenizers::pre_tokenizers::unicode_scripts::UnicodeScripts;
use tokenizers::{NormalizedString, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer as _};
use unicode_categories::UnicodeCategories as _;

use super::normalizer::fields;
use super::pipeline::{check_names, gpt2, pattern_of};
use super::{Behavior, pipeline};
use crate::pattern::TextPattern;

/// The library's components a file may name. Others belong to tokenizers of other kinds; `FixedLength` does not check
/// its input.
const NAMES: &[&str] = &[
    "Sequence",
    "ByteLevel",
    "Split",
    "Digits",
    "Punctuation",
    "Whitespace",
    "WhitespaceSplit",
    "Metaspace",
    "UnicodeScripts",
    "BertPreTokenizer",
];

/// More steps than this that make pieces longer are refused: each may double them.
const MOST_LENGTHENING: usize = 8;

/// One step.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Split {
        pattern: TextPattern,
        behavior: Behavior,
        invert: bool,
    },
    Characters {
        class: fn(char) -> bool,
        behavior: Behavior,
    },
    /// A space in front, unless there is one.
    PrefixSpace,
    /// From text to the alphabet of bytes.
    Bytes,
    /// Another character for each space.
    Metaspace {
        replacement: char,
        prefix: Prefix,
        split: bool,
    },
    /// Words of one script each.
    Scripts,
}

/// Where `Metaspace` puts its character in front.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Prefix {
    First,
    Never,
    Always,
}

impl Step {
    fn lengthens(&self) -> bool {
        matches!(self, Self::PrefixSpace | Self::Bytes | Self::Metaspace { .. })
    }
}

#[derive(Deserialize)]
struct ByteLevelFields {
    add_prefix_space: bool,
    #[serde(rename = "trim_offsets")]
    _trim_offsets: bool,
    #[serde(default = "yes")]
    use_regex: bool,
}

fn yes() -> bool {
    true
}

#[derive(Deserialize)]
struct SplitFields {
    pattern: Value,
    behavior: String,
    invert: bool,
}

#[derive(Deserialize)]
struct DigitsFields {
    individual_digits: bool,
}

#[derive(Deserialize)]
struct PunctuationFields {
    behavior: Option<String>,
}

#[derive(Deserialize)]
struct MetaspaceFields {
    replacement: char,
    add_prefix_space: Option<bool>,
    prepend_scheme: Option<Prefix>,
    split: Option<bool>,
}

/// Appends the steps of a component.
pub(super) fn read(component: &Value, out: &mut Vec<Step>) -> Result<(), String> {
    let behavior = |name: &str| {
        Behavior::from_name(name).ok_or_else(|| format!("unknown behavior {:?}", pipeline::short(name)))
    };
    let blanks = Step::Characters { class: char::is_whitespace, behavior: Behavior::Removed };
    match check_names(component, NAMES, out.len())? {
        "Sequence" => {
            let inner = component.get("pretokenizers").and_then(Value::as_array);
            let inner = inner.ok_or("missing field `pretokenizers`")?;
            inner.iter().try_for_each(|one| read(one, out))?;
        }
        "ByteLevel" => {
            let given: ByteLevelFields = fields(component)?;
            if given.add_prefix_space {
                out.push(Step::PrefixSpace);
            }
            if given.use_regex {
                let pattern = gpt2().clone();
                out.push(Step::Split { pattern, behavior: Behavior::Isolated, invert: false });
            }
            out.push(Step::Bytes);
        }
        "Split" => {
            let given: SplitFields = fields(component)?;
            let (pattern, behavior) = (pattern_of(&given.pattern)?, behavior(&given.behavior)?);
            out.push(Step::Split { pattern, behavior, invert: given.invert });
        }
        "Digits" => {
            let given: DigitsFields = fields(component)?;
            let behavior = if given.individual_digits { Behavior::Isolated } else { Behavior::Contiguous };
            out.push(Step::Characters { class: char::is_numeric, behavior });
        }
        "Punctuation" => {
            let given: PunctuationFields = fields(component)?;
            let behavior = given.behavior.map_or(Ok(Behavior::Isolated), |name| behavior(&name))?;
            out.push(Step::Characters { class: is_punctuation, behavior });
        }
        "Whitespace" => {
            let pattern = TextPattern::regex(r"\w+|[^\w\s]+").map_err(|e| e.to_string())?;
            out.push(Step::Split { pattern, behavior: Behavior::Removed, invert: true });
        }
        "WhitespaceSplit" => out.push(blanks),
        "BertPreTokenizer" => {
            out.push(blanks);
            out.push(Step::Characters { class: is_punctuation, behavior: Behavior::Isolated });
        }
        "Metaspace" => {
            let given: MetaspaceFields = fields(component)?;
            let mut prefix = given.prepend_scheme.unwrap_or(Prefix::Always);
            if given.add_prefix_space == Some(false) {
                if given.prepend_scheme.is_some_and(|scheme| scheme != Prefix::Never) {
                    return Err("add_prefix_space does not match prepend_scheme".into());
                }
                prefix = Prefix::Never;
            }
            let split = given.split.unwrap_or(true);
            out.push(Step::Metaspace { replacement: given.replacement, prefix, split });
        }
        _ => out.push(Step::Scripts),
    }
    match out.iter().filter(|step| step.lengthens()).count() > MOST_LENGTHENING {
        true => Err(format!("more than {MOST_LENGTHENING} components that make words longer")),
        false => Ok(()),
    }
}

fn is_punctuation(c: char) -> bool {
    c.is_ascii_punctuation() || c.is_punctuation()
}

/// Calls `each` with words of one script each, by the library's own table. It is asked for parts of the text, because it
/// takes a hundred bytes for each byte; the first character of the open word goes in front of the next part.
pub(super) fn scripts<E>(text: &str, mut each: impl FnMut(&str) -> Result<(), E>) -> Result<(), E> {
    const PART: usize = 4096;
    let (mut word, mut rest) = (String::new(), text);
    while !rest.is_empty() {
        let len =
            (PART.min(rest.len())..=rest.len()).find(|&at| rest.is_char_boundary(at)).unwrap_or(rest.len());
        let (part, behind) = rest.split_at(len);
        rest = behind;
        // A word begins with a character of its script; those that belong to every script follow.
        let mut given = word.chars().next().map(String::from).unwrap_or_default();
        let shared = given.len();
        given.push_str(part);
        let mut cut = PreTokenizedString::from(NormalizedString::from(given.as_str()));
        // It fails on no text; if it did, the part would be one word.
        if UnicodeScripts::new().pre_tokenize(&mut cut).is_err() {
            word.push_str(part);
            continue;
        }
        for (at, (found, ..)) in
            cut.get_splits(OffsetReferential::Normalized, OffsetType::None).into_iter().enumerate()
        {
            if at == 0 && shared > 0 {
                word.push_str(&found[shared..]);
            } else {
                if !word.is_empty() {
                    each(&word)?;
                }
                word.clear();
                word.push_str(found);
            }
        }
    }
    if word.is_empty() { Ok(()) } else { each(&word) }
}
