//! Texts from a server, made fit for messages: cut to a length, without characters that a terminal obeys or hides.

/// The longest text of a server that a message quotes.
const LONGEST: usize = 200;

/// A text to show as it is: control and invisible characters are left out.
pub(crate) fn clean(text: &str) -> String {
    let mut shown: String = text.chars().filter(|&c| !is_hidden(c)).take(LONGEST).collect();
    if text.chars().nth(LONGEST).is_some() {
        shown.push('…');
    }
    shown
}

/// A text that a message quotes with `{:?}`, which escapes the rest.
pub(crate) fn brief(text: &str) -> String {
    text.chars().take(80).collect()
}

/// Whether a character shows nothing, moves the cursor, or changes the direction of the text after it.
pub(crate) fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_terminal_obeys_is_left() {
        assert_eq!(clean("\u{1b}[31mEVIL\u{1b}]0;x\u{7}\u{9b}1m\u{202e}gpj"), "[31mEVIL]0;x1mgpj");
        assert_eq!(clean("schön 模型"), "schön 模型");
        assert_eq!(clean(&"x".repeat(1 << 20)).chars().count(), LONGEST + 1);
        assert_eq!(format!("{:?}", brief("\u{1b}\u{202e}")), r#""\u{1b}\u{202e}""#);
    }
}
