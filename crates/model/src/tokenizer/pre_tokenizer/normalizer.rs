//! What is done to a text before it is cut: the tokenizers library's normalizers over `&str`, without its record of
//! where each byte came from.
//!
//! Composing and decomposing use the library's own tables (of Unicode 9), so that every text becomes what the library
//! makes of it. Only the parts of a text that may change are taken through them.

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use unicode_normalization_alignments::UnicodeNormalization as _;
use unicode_normalization_alignments::char::is_combining_mark;

use super::pipeline::{Bounds, check_names, pattern_of};
use crate::pattern::{Clock, PatternError, TextPattern};
use crate::tokenizer::byte_level::alphabet;

/// The library's components a file may name. Others belong to tokenizers of other kinds; `Precompiled` does not check
/// its input.
const NAMES: &[&str] = &[
    "Sequence",
    "NFC",
    "NFD",
    "NFKC",
    "NFKD",
    "Lowercase",
    "Strip",
    "StripAccents",
    "Replace",
    "Prepend",
    "Nmt",
    "ByteLevel",
];

/// The longest text that a component puts into another.
const LONGEST: usize = 4096;

/// Unicode's normal forms.
#[derive(Clone, Copy, Debug)]
pub(super) enum Form {
    Nfc,
    Nfd,
    Nfkc,
    Nfkd,
}

/// One normalizer.
#[derive(Clone, Debug)]
pub(super) enum Normalizer {
    Form(Form),
    Lowercase,
    Strip { left: bool, right: bool },
    StripAccents,
    Replace { pattern: TextPattern, content: String },
    Prepend(String),
    Nmt,
    ByteLevel,
}

#[derive(Deserialize)]
struct StripFields {
    strip_left: bool,
    strip_right: bool,
}

#[derive(Deserialize)]
struct ReplaceFields {
    pattern: Value,
    content: String,
}

#[derive(Deserialize)]
struct PrependFields {
    prepend: String,
}

/// Appends the normalizers of a component.
pub(super) fn read(component: &Value, out: &mut Vec<Normalizer>) -> Result<(), String> {
    let name = check_names(component, NAMES, out.len())?;
    let inserted = |text: String| match text.len() > LONGEST {
        true => Err(format!("{name} inserts {} bytes, and at most {LONGEST} are allowed", text.len())),
        false => Ok(text),
    };
    out.push(match name {
        "Sequence" => {
            let inner = component.get("normalizers").and_then(Value::as_array);
            let inner = inner.ok_or("missing field `normalizers`")?;
            return inner.iter().try_for_each(|one| read(one, out));
        }
        "NFC" => Normalizer::Form(Form::Nfc),
        "NFD" => Normalizer::Form(Form::Nfd),
        "NFKC" => Normalizer::Form(Form::Nfkc),
        "NFKD" => Normalizer::Form(Form::Nfkd),
        "Lowercase" => Normalizer::Lowercase,
        "Strip" => {
            let StripFields { strip_left: left, strip_right: right } = fields(component)?;
            Normalizer::Strip { left, right }
        }
        "StripAccents" => Normalizer::StripAccents,
        "Replace" => {
            let ReplaceFields { pattern, content } = fields(component)?;
            Normalizer::Replace { pattern: pattern_of(&pattern)?, content: inserted(content)? }
        }
        "Prepend" => {
            let PrependFields { prepend } = fields(component)?;
            Normalizer::Prepend(inserted(prepend)?)
        }
        "Nmt" => Normalizer::Nmt,
        _ => Normalizer::ByteLevel,
    });
    Ok(())
}

/// The fields of a component, which come from a section of bounded size.
pub(super) fn fields<T: DeserializeOwned>(component: &Value) -> Result<T, String> {
    serde_json::from_value(component.clone()).map_err(|e| super::pipeline::short(&e.to_string()))
}

impl Normalizer {
    /// Normalizes `text`.
    pub fn apply<'t>(
        &self,
        text: Cow<'t, str>,
        bounds: &Bounds,
        clock: &Clock,
    ) -> Result<Cow<'t, str>, PatternError> {
        let changed = match self {
            Self::Form(form) => form.apply(&text),
            Self::Lowercase => {
                let mut out = String::with_capacity(text.len());
                text.chars().for_each(|c| out.extend(c.to_lowercase()));
                Some(out)
            }
            Self::Strip { left, right } => {
                let kept = if *left { text.trim_start() } else { &text };
                let kept = if *right { kept.trim_end() } else { kept };
                (kept.len() < text.len()).then(|| kept.to_owned())
            }
            Self::StripAccents => {
                (!text.is_ascii()).then(|| text.chars().filter(|&c| !is_combining_mark(c)).collect())
            }
            Self::Replace { pattern, content } => replace(pattern, content, &text, bounds, clock)?,
            Self::Prepend(content) => (!text.is_empty()).then(|| [content, &*text].concat()),
            Self::Nmt => Some(text.chars().filter_map(nmt).collect()),
            Self::ByteLevel => Some(alphabet::encode(&text)),
        };
        let Some(changed) = changed else { return Ok(text) };
        bounds.check(changed.len())?;
        Ok(Cow::Owned(changed))
    }
}

fn replace(
    pattern: &TextPattern,
    content: &str,
    text: &str,
    bounds: &Bounds,
    clock: &Clock,
) -> Result<Option<String>, PatternError> {
    let (mut out, mut done, mut any) = (String::new(), 0, false);
    // An empty text is left as it is, though an expression may match in it.
    for found in pattern.matches(text, clock).take_while(|_| !text.is_empty()) {
        let (start, end) = found?;
        if !any {
            any = true;
            out.reserve(text.len());
        }
        out.push_str(&text[done..start]);
        out.push_str(content);
        bounds.check(out.len())?;
        done = end;
    }
    if any {
        out.push_str(&text[done..]);
    }
    Ok(any.then_some(out))
}

/// The rules of Google's NMT: control characters go, all sorts of blanks are spaces.
fn nmt(c: char) -> Option<char> {
    match c {
        '\u{1}'..='\u{8}' | '\u{B}' | '\u{E}'..='\u{1F}' | '\u{7F}' | '\u{8F}' | '\u{9F}' => None,
        '\t'
        | '\n'
        | '\u{C}'
        | '\r'
        | '\u{1680}'
        | '\u{200B}'..='\u{200F}'
        | '\u{2028}'
        | '\u{2029}'
        | '\u{2581}'
        | '\u{FEFF}'
        | '\u{FFFD}' => Some(' '),
        c => Some(c),
    }
}

impl Form {
    /// The text in this form; `None` if it has it.
    ///
    /// Characters below U+0300 (in other forms than NFC: below U+0080) are in the form, start a new group of
    /// characters, and can only be changed by what follows them. So what is between them, with the one in front, is
    /// taken on its own.
    fn apply(self, text: &str) -> Option<String> {
        // The first byte of U+0300 in UTF-8; bytes within characters are smaller.
        let first = match self {
            Self::Nfc => 0xCC,
            Self::Nfd | Self::Nfkc | Self::Nfkd => 0x80,
        };
        let bytes = text.as_bytes();
        let next = |from: usize| bytes[from..].iter().position(|&b| b >= first).map(|at| from + at);
        let mut at = next(0)?;
        let (mut out, mut done) = (String::with_capacity(text.len()), 0);
        loop {
            let start = text[done..at].char_indices().next_back().map_or(done, |(last, _)| done + last);
            let settled = |&(_, c): &(usize, char)| c.len_utf8() == 1 || (first == 0xCC && c < '\u{300}');
            let end = text[at..].char_indices().find(settled).map_or(text.len(), |(len, _)| at + len);
            out.push_str(&text[done..start]);
            let part = &text[start..end];
            match self {
                Self::Nfc => out.extend(part.nfc().map(|(c, _)| c)),
                Self::Nfd => out.extend(part.nfd().map(|(c, _)| c)),
                Self::Nfkc => out.extend(part.nfkc().map(|(c, _)| c)),
                Self::Nfkd => out.extend(part.nfkd().map(|(c, _)| c)),
            }
            done = end;
            match next(end) {
                Some(next) => at = next,
                None => break,
            }
        }
        out.push_str(&text[done..]);
        Some(out)
    }
}
