//! Regular expressions over text, as the tokenizers library understands them.
//!
//! The library's expressions are those of fancy-regex: they may look ahead and refer back, which takes a search that
//! tries and steps back. Nearly all that tokenizers need of it is `\s+(?!\S)|\s+`: blanks, but the last one before a
//! word. An automaton finds `\s+`, and the last blank is given back; that is the same, several times faster, and in
//! time proportional to the text. What else looks around is left to fancy-regex, from one place of the text at a time,
//! with a bound on its steps at each.

use fancy_regex::Expr;
use regex_automata::meta::{self, Regex};
use regex_automata::nfa::thompson::WhichCaptures;
use regex_automata::{Anchored, Input, PatternID};

use super::measure::{check_size, check_text, is_blanks, is_blanks_but_one, is_regular};
use super::{Clock, PatternError, shown};

/// The longest expression: the longest known one (DeepSeek LLM's, which lists letters) has 600 bytes.
const LONGEST: usize = 8192;
/// What the states of an expression may take, and what a search may take to remember those it has met.
const COMPILED: usize = 1 << 20;
/// How often a search may step back at one place of the text. Those of known tokenizers do so a few times for each
/// character they look at.
const STEPS_BACK: usize = 100_000;

/// An expression, ready to search.
#[derive(Clone, Debug)]
pub(crate) struct TextPattern {
    pattern: String,
    search: Search,
}

#[derive(Clone, Debug)]
enum Search {
    /// A text that stands for itself.
    Literal,
    /// Alternatives in order of preference; a match of the one given loses its last character if more text follows.
    Automaton { regex: Regex, gives_back: Option<PatternID> },
    /// Matches where a search begins, or not at all.
    Backtracking(fancy_regex::Regex),
}

impl TextPattern {
    /// A text that is looked for as it is.
    pub fn literal(text: &str) -> Result<Self, PatternError> {
        if text.len() > LONGEST {
            let len = text.len();
            return Err(PatternError::new(format!(
                "the text to look for has {len} bytes, and at most {LONGEST} are allowed"
            )));
        }
        Ok(Self { pattern: text.to_owned(), search: Search::Literal })
    }

    /// A regular expression.
    pub fn regex(pattern: &str) -> Result<Self, PatternError> {
        Self::compiled(pattern).map_err(|why| {
            PatternError::new(format!("the regular expression {} cannot be used: {why}", shown(pattern)))
        })
    }

    fn compiled(pattern: &str) -> Result<Self, PatternError> {
        check_text(pattern, LONGEST)?;
        let bad = |e: fancy_regex::Error| last_line(&e.to_string());
        let tree = Expr::parse_tree(pattern).map_err(bad)?;
        check_size(&tree.expr)?;
        let search = match automaton(&tree.expr) {
            Some((alternatives, gives_back)) => {
                let regex = meta::Builder::new()
                    .configure(
                        meta::Config::new()
                            .which_captures(WhichCaptures::Implicit)
                            .nfa_size_limit(Some(COMPILED))
                            .onepass(false)
                            .backtrack(false)
                            .hybrid_cache_capacity(COMPILED),
                    )
                    .build_many(&alternatives)
                    .map_err(|e| match e.size_limit() {
                        Some(_) => PatternError::new("it is too large"),
                        None => last_line(&e.to_string()),
                    })?;
                Search::Automaton { regex, gives_back }
            }
            None => {
                // The line feed ends a comment in an expression that begins with `(?x)`; elsewhere the expression is
                // read without it.
                let comments = pattern.starts_with("(?x)");
                let anchored = format!("\\G(?:{pattern}{})", if comments { "\n" } else { "" });
                let regex = fancy_regex::RegexBuilder::new(&anchored)
                    .backtrack_limit(STEPS_BACK)
                    .delegate_size_limit(COMPILED)
                    .delegate_dfa_size_limit(COMPILED)
                    .build()
                    .map_err(bad)?;
                Search::Backtracking(regex)
            }
        };
        Ok(Self { pattern: pattern.to_owned(), search })
    }

    /// All matches in `text`, from left to right.
    pub fn matches<'a>(&'a self, text: &'a str, clock: &'a Clock) -> Matches<'a> {
        Matches { pattern: self, text, clock, at: 0, last: None }
    }

    /// The first match from `at` on.
    fn find(&self, text: &str, at: usize, clock: &Clock) -> Result<Option<(usize, usize)>, PatternError> {
        clock.step()?;
        match &self.search {
            Search::Literal => {
                let found = text[at..].find(&self.pattern);
                Ok(found.map(|from| (at + from, at + from + self.pattern.len())))
            }
            Search::Automaton { regex, gives_back } => {
                let input = Input::new(text).span(at..text.len());
                // Matches mostly follow each other; where one begins, nothing has to be found out.
                let here = regex.search(&input.clone().anchored(Anchored::Yes));
                let Some(found) = here.or_else(|| {
                    clock.look_soon();
                    regex.search(&input)
                }) else {
                    return Ok(None);
                };
                let (start, mut end) = (found.start(), found.end());
                if Some(found.pattern()) == *gives_back && end < text.len() {
                    let last = text[start..end].chars().next_back().map_or(0, char::len_utf8);
                    if start + last < end {
                        end -= last;
                    }
                }
                Ok(Some((start, end)))
            }
            Search::Backtracking(regex) => {
                for (from, _) in text[at..].char_indices().chain([(text.len() - at, ' ')]) {
                    clock.look_soon();
                    clock.step()?;
                    let found = regex.find_from_pos(text, at + from).map_err(|_| self.too_hard())?;
                    if let Some(found) = found {
                        return Ok(Some((found.start(), found.end())));
                    }
                }
                Ok(None)
            }
        }
    }

    fn too_hard(&self) -> PatternError {
        PatternError::new(format!(
            "a search for the regular expression {} takes more than {STEPS_BACK} steps at one place of the text",
            shown(&self.pattern)
        ))
    }
}

/// What an error of the engines says in its last line; those above draw where.
fn last_line(error: &str) -> PatternError {
    let why: String = error.lines().last().unwrap_or_default().trim().chars().take(120).collect();
    PatternError::new(why.strip_prefix("error: ").unwrap_or(&why))
}

/// Alternatives that an automaton can look for, and which of them gives its last character back; `None` if the
/// expression needs more than that.
fn automaton(expression: &Expr) -> Option<(Vec<String>, Option<PatternID>)> {
    let mut given = std::slice::from_ref(expression);
    if let Expr::Alt(all) = expression {
        given = all;
    }
    if given.iter().all(is_regular) {
        return Some((vec![spelled(expression)], None));
    }
    let (mut alternatives, mut gives_back) = (Vec::new(), None);
    let mut rest = given;
    while let [one, behind @ ..] = rest {
        rest = behind;
        if is_blanks_but_one(one) && gives_back.is_none() {
            // One blank before a word is left to the next alternative, which must therefore be there.
            let [next, behind @ ..] = behind else { return None };
            if !is_blanks(next) {
                return None;
            }
            gives_back = Some(PatternID::must(alternatives.len()));
            alternatives.push(spelled(next));
            rest = behind;
        } else if is_regular(one) {
            alternatives.push(spelled(one));
        } else {
            return None;
        }
    }
    Some((alternatives, gives_back))
}

/// An expression in the automaton's spelling.
fn spelled(expression: &Expr) -> String {
    let mut out = String::new();
    expression.to_str(&mut out, 0);
    out
}

/// The matches of an expression in a text.
///
/// An empty match is skipped where the match before it ends, and the next search begins one character further.
#[derive(Debug)]
pub(crate) struct Matches<'a> {
    pattern: &'a TextPattern,
    text: &'a str,
    clock: &'a Clock,
    at: usize,
    last: Option<usize>,
}

impl Iterator for Matches<'_> {
    type Item = Result<(usize, usize), PatternError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if self.at > self.text.len() {
                return None;
            }
            let (start, end) = match self.pattern.find(self.text, self.at, self.clock) {
                Ok(Some(found)) => found,
                Ok(None) => return None,
                Err(e) => {
                    self.at = self.text.len() + 1;
                    return Some(Err(e));
                }
            };
            self.at = end;
            if start == end {
                self.at += self.text[end..].chars().next().map_or(1, char::len_utf8);
                if self.last == Some(end) {
                    continue;
                }
            }
            self.last = Some(end);
            return Some(Ok((start, end)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::pre_tokenizer::table::KNOWN;
    use crate::tokenizer::pre_tokenizer::{Part, Pattern};
    use proptest::prelude::*;
    use std::sync::LazyLock;

    /// Every expression that quern itself knows, and some that look around in other ways.
    static ALL: LazyLock<Vec<(fancy_regex::Regex, TextPattern)>> = LazyLock::new(|| {
        let parts = KNOWN
            .iter()
            .flat_map(|known| known.also.iter().chain([&known.parts]))
            .flat_map(|parts| parts.iter());
        let mut all: Vec<&str> = parts
            .filter_map(|part| match part {
                Part::Split { pattern: Pattern::Regex(regex), .. } => Some(*regex),
                _ => None,
            })
            .collect();
        all.extend([
            r"(?=(\d{3})+(?!\d))",
            r"(?<=a)",
            r"x*",
            r"\b",
            r"(a|b)\1",
            r"\s+(?!\S)",
            r"a|\s+(?!\S)|b",
            r"a|\s+(?!\S)|\s+|\s",
            r"\s*[\r\n]+|\s+(?!\S)|\s+|.",
            r"",
        ]);
        all.sort_unstable();
        all.dedup();
        all.into_iter()
            .map(|p| (fancy_regex::Regex::new(p).unwrap(), TextPattern::regex(p).unwrap()))
            .collect()
    });

    #[test]
    fn known_expressions_need_no_steps_back() {
        let automata = ALL.iter().filter(|(_, own)| matches!(own.search, Search::Automaton { .. })).count();
        assert!(ALL.len() > 35 && ALL.len() - automata <= 12, "{automata} of {}", ALL.len());
    }

    proptest! {
        #[test]
        fn matches_are_those_of_fancy_regex(text in "[ab 1\n\r\t.,'sS\u{a0}é中\u{301}!(-]{0,24}", any: String) {
            for text in [text, any] {
                for (theirs, own) in ALL.iter() {
                    let expected: Vec<_> = theirs.find_iter(&text).map(|m| m.map(|m| (m.start(), m.end())).unwrap()).collect();
                    let clock = Clock::for_text(text.len());
                    let found: Vec<_> = own.matches(&text, &clock).map(Result::unwrap).collect();
                    prop_assert_eq!(found, expected, "{}", &own.pattern);
                }
            }
        }
    }

    #[test]
    fn expressions_that_ask_for_too_much_are_refused_at_once() {
        let start = std::time::Instant::now();
        let nested = format!("{}a{}", "(?:".repeat(5000), ")*".repeat(5000));
        for (pattern, part) in [
            ("(a)*".repeat(30_000).as_str(), "120000 bytes"),
            (&"(a)*".repeat(2000), "2000 groups"),
            (&nested, "bytes"),
            (&format!("{}a{}", "(?:".repeat(100), ")*".repeat(100)), "within each other"),
            ("((a{1000}){1000}){1000}", "too large"),
            ("(?:a{1000}){1000}(?!b)", "too large"),
            ("a{4000000000}", "repeats a part"),
            (r"\p{L}{900}", "too large"),
            ("(unclosed", "cannot be used"),
        ] {
            let error = TextPattern::regex(pattern).unwrap_err().to_string();
            assert!(error.contains(part) && error.len() < 400, "{error}");
        }
        assert!(start.elapsed().as_secs() < 5);
    }

    #[test]
    fn searches_that_take_too_much_are_errors() {
        let text = "o".repeat(3000);
        for pattern in [r"(?=(o+)+b\1)|(o|o)*\1b", r"(?:(?!x)(?:o|oo|ooo)*)*\bq(?=z)"] {
            let pattern = TextPattern::regex(pattern).unwrap();
            let clock = Clock::for_text(text.len());
            let error = pattern.matches(&text, &clock).find_map(Result::err).unwrap().to_string();
            assert!(error.contains("steps at one place"), "{error}");
        }
    }
}
