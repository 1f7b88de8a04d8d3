//! Text that comes from files, from the Hub or out of a model, as it may be shown on a terminal: what would move the
//! cursor, change colours or settings, or reorder what is read, is written as `\u{1b}`.
//!
//! | | line breaks, tabs | other control characters | marks that reorder text (bidi) |
//! |---|---|---|---|
//! | [`line()`]: names, keys, values, paths | escaped | escaped | escaped |
//! | [`sentence`]: errors, notes | line breaks become spaces | escaped | escaped |
//! | [`text`]: tables, notes of several lines | kept | escaped | escaped |
//! | [`Generated`]: what a model writes | kept, `\r\n` too | escaped | kept: languages need them |
//! | [`json`] | kept | `\u001b` | `\u202e` |

use std::borrow::Cow;
use std::fmt::Write;
use std::io;

/// C0, DEL and C1.
fn controls(c: char) -> bool {
    c.is_control()
}

/// Overrides, embeddings and isolates: they make text be read in another order than it is written.
fn reorders(c: char) -> bool {
    matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A text that belongs on one line.
pub fn line(text: &str) -> Cow<'_, str> {
    escaped(text, |c| controls(c) || reorders(c), braces)
}

/// Words that belong on one line, made of several if need be: errors of parsers draw the place below.
pub fn sentence(words: &str) -> Cow<'_, str> {
    if !words.contains('\n') {
        return line(words);
    }
    let parts: Vec<&str> = words.lines().map(str::trim).filter(|part| !part.is_empty()).collect();
    Cow::Owned(line(&parts.join(" ")).into_owned())
}

/// A text of several lines.
pub fn text(text: &str) -> Cow<'_, str> {
    escaped(text, |c| (controls(c) && !matches!(c, '\n' | '\t')) || reorders(c), braces)
}

/// A JSON document: its strings stay the same, in other characters.
pub fn json(document: &str) -> Cow<'_, str> {
    let escape = |c: char, out: &mut String| {
        for unit in c.encode_utf16(&mut [0; 2]) {
            let _ = write!(out, "\\u{unit:04x}");
        }
    };
    escaped(document, |c| (controls(c) && !matches!(c, '\n' | '\t' | '\r')) || reorders(c), escape)
}

/// A JSON document that is written as it comes, as [`json`] has it. Each piece holds whole characters, as serde_json's
/// do; bytes that are no text pass as they are.
#[derive(Debug)]
pub struct Json<W>(pub W);

impl<W: io::Write> io::Write for Json<W> {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        match std::str::from_utf8(piece) {
            Ok(text) => self.0.write_all(json(text).as_bytes()).map(|()| piece.len()),
            Err(_) => self.0.write(piece),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// What a model writes, piece by piece.
#[derive(Clone, Copy, Debug, Default)]
pub struct Generated {
    /// Whether a `\r` came last, which is part of a line break if a `\n` follows.
    carriage: bool,
}

impl Generated {
    /// The next piece, as it may be shown.
    pub fn next<'a>(&mut self, piece: &'a str) -> Cow<'a, str> {
        let hidden = |c| controls(c) && !matches!(c, '\n' | '\t');
        if piece.is_empty() || (!self.carriage && !piece.contains(hidden)) {
            return Cow::Borrowed(piece);
        }
        let mut out = String::with_capacity(piece.len() + 16);
        for c in piece.chars() {
            match std::mem::take(&mut self.carriage) {
                true if c == '\n' => out.push('\r'),
                true => braces('\r', &mut out),
                false => {}
            }
            match c {
                '\r' => self.carriage = true,
                c if hidden(c) => braces(c, &mut out),
                c => out.push(c),
            }
        }
        Cow::Owned(out)
    }

    /// What is left when no piece follows.
    pub fn end(&mut self) -> &'static str {
        if std::mem::take(&mut self.carriage) { "\\u{d}" } else { "" }
    }
}

fn braces(c: char, out: &mut String) {
    let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
}

fn escaped(text: &str, hidden: impl Fn(char) -> bool, escape: impl Fn(char, &mut String)) -> Cow<'_, str> {
    if !text.contains(&hidden) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match hidden(c) {
            true => escape(c, &mut out),
            false => out.push(c),
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_terminal_obeys_is_left() {
        let all: String = ('\0'..='\u{3000}').collect();
        for shown in [line(&all), text(&all), json(&all), Generated::default().next(&all)] {
            assert!(!shown.contains(|c| controls(c) && !matches!(c, '\n' | '\t' | '\r')), "{shown:?}");
            // All the rest is as it was.
            assert!(shown.contains("xyz") && shown.contains("éê") && shown.contains('\u{200f}'), "{shown:?}");
        }
        assert!(!line(&all).contains(['\n', '\t', '\r']) && !text(&all).contains('\r'));
        assert_eq!(line("a\u{1b}[2J\n\u{9b}\u{7f}\u{202e}é"), "a\\u{1b}[2J\\u{a}\\u{9b}\\u{7f}\\u{202e}é");
        assert_eq!(text("a\u{1b}\n\tb\r"), "a\\u{1b}\n\tb\\u{d}");
        assert_eq!(sentence("regex parse error:\n    (\n    ^\r\n"), "regex parse error: ( ^");
        assert!(matches!(line("as it is: ünï"), Cow::Borrowed(_)));
    }

    #[test]
    fn json_stays_the_same_document() {
        let value = serde_json::json!({ "a\u{9b}\u{202e}": "\u{1b}\u{7f}\u{2066}\n\t\r é" });
        for document in [value.to_string(), serde_json::to_string_pretty(&value).unwrap()] {
            let shown = json(&document);
            assert!(!shown.contains(|c| (controls(c) && c != '\n') || reorders(c)), "{shown:?}");
            assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), value);
        }
    }

    #[test]
    fn line_breaks_of_generated_text_may_come_in_two_pieces() {
        let shown = |pieces: &[&str]| {
            let mut generated = Generated::default();
            let mut all: String = pieces.iter().map(|p| generated.next(p).into_owned()).collect();
            all += generated.end();
            all
        };
        assert_eq!(shown(&["a\r", "\nb\r\n", "\u{1b}", "[1m\u{202e}"]), "a\r\nb\r\n\\u{1b}[1m\u{202e}");
        assert_eq!(shown(&["a\r", "", "b\r", "\r\n", "\r"]), "a\\u{d}b\\u{d}\r\n\\u{d}");
    }
}
