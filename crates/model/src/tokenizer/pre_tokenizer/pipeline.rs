//! Normalizing and cutting text, as the components of a `tokenizer.json` say.
//!
//! A text is normalized as a whole, which makes at most one copy of it; cutting makes none: each step hands its pieces
//! to the next one as it finds them, and the last one hands words out.
//!
//! The components come from files that are not trusted. A few of them can make gigabytes of a word (forty times one
//! letter replaced by two), so what they make of a text is bounded by its length, and so is their time.

use std::borrow::Cow;
use std::sync::LazyLock;

use serde_json::Value;

use super::normalizer::{self, Normalizer};
use super::segments::split;
use super::step::{self, Prefix, Step};
use super::{GPT2, Rule};
use crate::pattern::{Clock, PatternError, TextPattern};
use crate::tokenizer::byte_level::alphabet;

/// More components than this are refused; the longest known list has eight.
const MOST: usize = 64;

/// What is done to text before its words are merged.
#[derive(Clone, Debug)]
pub(crate) struct Pipeline {
    normalizers: Vec<Normalizer>,
    steps: Vec<Step>,
}

/// A word that is cut out of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Word<'a> {
    /// Text that is yet to be spelled in the alphabet of bytes.
    Bytes(&'a str),
    /// As pieces are spelled.
    Spelled(&'a str),
}

impl Word<'_> {
    /// Number of characters as pieces are spelled.
    pub fn chars(self) -> usize {
        match self {
            Self::Bytes(text) => text.len(),
            Self::Spelled(text) => text.chars().count(),
        }
    }
}

/// What components may make of a text: every known normalizer makes at most 18 times its length of it (NFKC 11 times,
/// for a character that no one uses).
#[derive(Debug)]
pub(super) struct Bounds {
    given: usize,
    most: usize,
}

impl Bounds {
    fn of(text: &str) -> Self {
        Self { given: text.len(), most: text.len().saturating_mul(32).saturating_add(16 << 10) }
    }

    /// Checks the length of what a component has made.
    pub fn check(&self, len: usize) -> Result<(), PatternError> {
        match len > self.most {
            true => Err(PatternError::new(format!(
                "its rules make more than {} bytes of a text of {} bytes",
                self.most, self.given
            ))),
            false => Ok(()),
        }
    }
}

impl Pipeline {
    /// From the `normalizer` and `pre_tokenizer` of a `tokenizer.json` (null where there is none). The error
    /// names the key and what is wrong with it.
    pub fn new(normalizer: &Value, pre_tokenizer: &Value) -> Result<Self, (&'static str, String)> {
        let mut pipeline = Self { normalizers: Vec::new(), steps: Vec::new() };
        if !normalizer.is_null() {
            normalizer::read(normalizer, &mut pipeline.normalizers).map_err(|what| ("normalizer", what))?;
        }
        if !pre_tokenizer.is_null() {
            step::read(pre_tokenizer, &mut pipeline.steps).map_err(|what| ("pre_tokenizer", what))?;
        }
        Ok(pipeline)
    }

    /// The pipeline of a rule from the table.
    pub fn of_rule(rule: &Rule) -> Result<Self, (&'static str, String)> {
        Self::new(&rule.normalizer(), &rule.pre_tokenizer())
    }

    /// Calls `each` with the words of `text`, none of them empty.
    ///
    /// # Errors
    /// The rules make far more of the text, or take far longer, than those of any known tokenizer. Words may have been
    /// handed out before.
    pub fn words(&self, text: &str, mut each: impl FnMut(Word<'_>)) -> Result<(), PatternError> {
        let (bounds, clock) = (Bounds::of(text), Clock::for_text(text.len()));
        let mut normalized = Cow::Borrowed(text);
        for normalizer in &self.normalizers {
            normalized = normalizer.apply(normalized, &bounds, &clock)?;
        }
        let mut cutting = Cutting { bounds, clock: &clock, handed_out: 0, each: &mut each };
        cutting.cut(&self.steps, &normalized, true)
    }
}

/// The cutting of one text.
struct Cutting<'a> {
    bounds: Bounds,
    clock: &'a Clock,
    /// Bytes of all words so far.
    handed_out: usize,
    each: &'a mut dyn FnMut(Word<'_>),
}

impl Cutting<'_> {
    /// Takes a piece through the steps. `first` says that the text begins with it.
    fn cut(&mut self, steps: &[Step], piece: &str, first: bool) -> Result<(), PatternError> {
        if piece.is_empty() {
            return Ok(());
        }
        let Some((step, rest)) = steps.split_first() else { return self.hand_out(Word::Spelled(piece)) };
        let clock = self.clock;
        match step {
            Step::Split { pattern, behavior, invert } => {
                let matches = pattern.matches(piece, clock);
                split(piece.len(), matches, *behavior, *invert, |range| {
                    let first = first && range.start == 0;
                    self.cut(rest, &piece[range], first)
                })
            }
            Step::Characters { class, behavior } => {
                let matches = piece.char_indices().filter(|&(_, c)| class(c));
                let matches = matches.map(|(at, c)| Ok((at, at + c.len_utf8())));
                split(piece.len(), matches, *behavior, false, |range| {
                    let first = first && range.start == 0;
                    self.cut(rest, &piece[range], first)
                })
            }
            Step::PrefixSpace if piece.starts_with(' ') => self.cut(rest, piece, first),
            Step::PrefixSpace => self.cut(rest, &[" ", piece].concat(), first),
            Step::Bytes if rest.is_empty() => self.hand_out(Word::Bytes(piece)),
            Step::Bytes => {
                self.bounds.check(piece.len())?;
                self.cut(rest, &alphabet::encode(piece), first)
            }
            Step::Metaspace { replacement, prefix, split: cuts } => {
                let sign = replacement.to_string();
                let mut spelled = piece.replace(' ', &sign);
                let wanted = *prefix == Prefix::Always || (*prefix == Prefix::First && first);
                if wanted && !spelled.starts_with(*replacement) {
                    spelled.insert(0, *replacement);
                }
                self.bounds.check(spelled.len())?;
                if !cuts {
                    return self.cut(rest, &spelled, first);
                }
                let matches = spelled.match_indices(*replacement).map(|(at, sign)| Ok((at, at + sign.len())));
                split(spelled.len(), matches, super::Behavior::MergedWithNext, false, |range| {
                    let first = first && range.start == 0;
                    self.cut(rest, &spelled[range], first)
                })
            }
            Step::Scripts => {
                let mut first = first;
                step::scripts(piece, |word| {
                    clock.step()?;
                    self.cut(rest, word, std::mem::take(&mut first))
                })
            }
        }
    }

    fn hand_out(&mut self, word: Word<'_>) -> Result<(), PatternError> {
        let (Word::Bytes(text) | Word::Spelled(text)) = word;
        self.handed_out += text.len();
        self.bounds.check(self.handed_out)?;
        (self.each)(word);
        Ok(())
    }
}

/// The name of a component that may be used, none of the `before` being too many.
pub(super) fn check_names<'v>(
    component: &'v Value,
    known: &[&str],
    before: usize,
) -> Result<&'v str, String> {
    let name = component.get("type").and_then(Value::as_str).unwrap_or_default();
    if !known.contains(&name) {
        return Err(format!("{:?} is not supported", short(name)));
    }
    let pattern = |key: &str| component.pointer(key).and_then(Value::as_str);
    if pattern("/pattern/String") == Some("") || pattern("/pattern/Regex") == Some("") {
        return Err(format!("{name:?} has an empty pattern"));
    }
    if before >= MOST {
        return Err(format!("more than {MOST} components"));
    }
    Ok(name)
}

/// What a component looks for.
pub(super) fn pattern_of(pattern: &Value) -> Result<TextPattern, String> {
    let text = |key: &str| pattern.get(key).and_then(Value::as_str);
    match (text("Regex"), text("String")) {
        (Some(GPT2), _) => Ok(gpt2().clone()),
        (Some(regex), _) => TextPattern::regex(regex).map_err(|e| e.to_string()),
        (None, Some(text)) => TextPattern::literal(text).map_err(|e| e.to_string()),
        (None, None) => Err("pattern: an object with \"Regex\" or \"String\" is expected".into()),
    }
}

/// GPT-2's expression, compiled once: many tokenizers have it.
pub(super) fn gpt2() -> &'static TextPattern {
    static PATTERN: LazyLock<TextPattern> =
        LazyLock::new(|| TextPattern::regex(GPT2).expect("GPT-2's expression is sound"));
    &PATTERN
}

/// A hostile file is not quoted at length.
pub(super) fn short(text: &str) -> String {
    text.chars().take(200).collect()
}
