//! Regular expressions over the names of tensors and modules.

use std::str::FromStr;

use regex::{Regex, RegexBuilder};

use super::PatternError;
use super::measure::check_text;

/// More patterns than this are refused where a list of them is read.
pub const MOST_PATTERNS: usize = 1000;
/// The longest expression; names themselves are shorter.
const LONGEST: usize = 4096;
/// What a compiled expression may take, and what a search may take to remember its states.
const COMPILED: usize = 1 << 20;
/// Groups within each other.
const DEEPEST: u32 = 60;

/// A regular expression that is searched for in names. Searches take time in proportion to the name.
///
/// Look-around and references back are not supported.
#[derive(Clone, Debug)]
pub struct NamePattern(Regex);

impl NamePattern {
    /// An expression that may match anywhere in a name.
    ///
    /// # Errors
    /// It is no regular expression, or larger than any that names need.
    pub fn new(pattern: &str) -> Result<Self, PatternError> {
        Self::build(pattern, pattern, false)
    }

    /// The same, and upper and lower case are one.
    ///
    /// # Errors
    /// As for [`NamePattern::new`].
    pub fn ignoring_case(pattern: &str) -> Result<Self, PatternError> {
        Self::build(pattern, pattern, true)
    }

    /// An expression that must match from the beginning of a name, and be followed by `end`, an expression of quern's
    /// own.
    ///
    /// # Errors
    /// As for [`NamePattern::new`].
    pub fn from_start(pattern: &str, end: &str) -> Result<Self, PatternError> {
        Self::build(pattern, &format!("^(?:{pattern}){end}"), false)
    }

    fn build(given: &str, pattern: &str, ignoring_case: bool) -> Result<Self, PatternError> {
        check_text(given, LONGEST)?;
        RegexBuilder::new(pattern)
            .case_insensitive(ignoring_case)
            .size_limit(COMPILED)
            .dfa_size_limit(COMPILED)
            .nest_limit(DEEPEST)
            .build()
            .map(Self)
            .map_err(|e| match e {
                regex::Error::CompiledTooBig(_) => PatternError::new("it is too large"),
                e => {
                    // The last line says what is wrong; those above draw where.
                    let why = e.to_string();
                    let why = why.lines().last().unwrap_or_default().trim();
                    PatternError::new(why.strip_prefix("error: ").unwrap_or(why))
                }
            })
    }

    /// Whether the name has a match.
    pub fn is_match(&self, name: &str) -> bool {
        self.0.is_match(name)
    }
}

impl FromStr for NamePattern {
    type Err = PatternError;

    fn from_str(pattern: &str) -> Result<Self, PatternError> {
        Self::new(pattern)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_that_ask_for_too_much_are_refused_at_once() {
        let start = std::time::Instant::now();
        for (pattern, part) in [
            ("(a)".repeat(30_000), "120000 bytes"),
            ("(a)*".repeat(30_000), "120000 bytes"),
            ("(a)*".repeat(1000), "1000 groups"),
            (format!("{}a{}", "(?:".repeat(150), ")*".repeat(150)), "within each other"),
            ("((a{1000}){1000}){1000}".into(), "too large"),
            (r"\w{900}\w{900}".into(), "too large"),
            ("(unclosed".into(), "unclosed group"),
            ("(?=a)".into(), "look-around"),
        ] {
            let part = part.replace("120000", &pattern.len().to_string());
            let error = NamePattern::new(&pattern).unwrap_err().to_string();
            assert!(error.contains(&part) && error.lines().count() == 1, "{error}");
            assert!(NamePattern::ignoring_case(&pattern).is_err());
            assert!(NamePattern::from_start(&pattern, "").is_err());
        }
        assert!(start.elapsed().as_secs() < 5);
    }

    #[test]
    fn names_are_found() {
        assert!(NamePattern::new("ffn_(gate|up)").unwrap().is_match("blk.0.ffn_up.weight"));
        assert!(NamePattern::ignoring_case("FFN").unwrap().is_match("blk.0.ffn_up.weight"));
        let start = NamePattern::from_start(r"model\.layers", r"(?:\.|$)").unwrap();
        assert!(start.is_match("model.layers.0") && !start.is_match("a.model.layers.0"));
    }
}
