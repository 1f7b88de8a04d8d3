//! Text from files, made safe to show, and numbers in few digits.
//!
//! Markup is escaped by `maud` and by the chart library. What is left to do: control characters and the marks that
//! reverse the direction of text are shown as codes, so that a name is seen as it is, and long texts are cut.

use crate::statistics::ValueSummary;
pub(super) use crate::words::digits;

/// Names and keys are cut after so many characters.
const NAME: usize = 200;

/// A name or a key from a file.
pub(super) fn name(text: &str) -> String {
    cut(text, NAME, false)
}

/// A text of several lines from a file, cut after `most` characters.
pub(super) fn long(text: &str, most: usize) -> String {
    cut(text, most, true)
}

fn cut(text: &str, most: usize, lines: bool) -> String {
    let mut shown = String::new();
    for c in text.chars().take(most) {
        match c {
            '\n' | '\t' if lines => shown.push(c),
            c if c.is_control() || directs(c) => shown.extend(c.escape_unicode()),
            c => shown.push(c),
        }
    }
    if let Some((at, _)) = text.char_indices().nth(most) {
        let rest = text[at..].chars().count();
        shown.push_str(&format!("… ({rest} more characters)"));
    }
    shown
}

/// Marks that change the direction of text, and those that break lines in scripts.
fn directs(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{2028}' | '\u{2029}')
}

/// A share in percent: `71 %`, `0.4 %`.
pub(super) fn percent(part: f64, whole: f64) -> String {
    let share = if whole > 0.0 { part / whole * 100.0 } else { 0.0 };
    if share >= 10.0 || share == 0.0 { format!("{share:.0} %") } else { format!("{share:.2} %") }
}

/// Smallest and largest value, mean, root mean square and kurtosis; dashes where there are no values.
pub(super) fn figures(values: Option<&ValueSummary>) -> [String; 5] {
    let Some(v) = values else { return [(); 5].map(|()| "–".to_owned()) };
    let kurtosis = v.kurtosis.map_or("–".into(), digits);
    [digits(v.min.into()), digits(v.max.into()), digits(v.mean), digits(v.rms), kurtosis]
}

/// Thousands apart: `4 196 608`, by narrow spaces that do not break.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

/// A number of things: `1 tensor`, `38 tensors`.
pub(super) fn counted(number: usize, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {what}{plural}", grouped(number as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_cut_and_show_what_is_invisible() {
        assert_eq!(name("a\u{202e}b\nc"), "a\\u{202e}b\\u{a}c");
        assert_eq!(long("a\nb", 10), "a\nb");
        assert_eq!(long("abcdef", 4), "abcd… (2 more characters)");
    }

    #[test]
    fn numbers_have_four_digits() {
        for (value, text) in [
            (0.0, "0"),
            (0.0231712, "0.02317"),
            (12.3456, "12.35"),
            (1234.6, "1235"),
            (-0.5, "-0.5000"),
            (1.3e-7, "1.300e-7"),
        ] {
            assert_eq!(digits(value), text);
        }
        assert_eq!(grouped(4_196_608), "4\u{202f}196\u{202f}608");
        assert_eq!((percent(1.0, 3.0), percent(1.0, 0.0)), ("33 %".into(), "0 %".into()));
    }
}
