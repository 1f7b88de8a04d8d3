//! Scalars and lists of a card's front matter, written so that every YAML parser reads the text that was meant.

/// `text` as a YAML scalar: as it is where that is safe, else in double quotes.
pub(super) fn scalar(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/' | '+');
    let safe =
        text.starts_with(|c: char| c.is_ascii_alphabetic()) && text.chars().all(plain) && !is_word(text);
    if safe {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            // Not printable for YAML, or a line break to it.
            c if c.is_control()
                || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}') =>
            {
                out.push_str(&format!("\\u{:04x}", c as u32));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Words that YAML 1.1, which Python's parser reads, or 1.2 takes for something else than text. (`no` is Norwegian.)
fn is_word(text: &str) -> bool {
    let words = ["null", "true", "false", "yes", "no", "on", "off", "y", "n"];
    words.iter().any(|word| text.eq_ignore_ascii_case(word))
}

/// A line `key: value`.
pub(super) fn line(key: &str, value: &str) -> String {
    format!("{key}: {}\n", scalar(value))
}

/// A key with a list below it; nothing for no items.
pub(super) fn list(key: &str, items: &[String]) -> String {
    if items.is_empty() {
        return String::new();
    }
    let items: String = items.iter().map(|item| format!("- {}\n", scalar(item))).collect();
    format!("{key}:\n{items}")
}

#[cfg(test)]
mod tests {
    use saphyr::{LoadableYamlNode, Yaml};

    use super::*;

    #[test]
    fn every_text_is_read_back_as_it_was() {
        for text in [
            "apache-2.0",
            "no",
            "NO",
            "on",
            "null",
            "~",
            "1.0",
            "0x1f",
            "1e3",
            "2026-11-26",
            "a: b",
            "# no comment",
            "- item",
            "[a, b]",
            "{a: b}",
            "'single'",
            "say \"this\"",
            "back\\slash",
            "tab\tand\nline",
            "",
            " space ",
            "ends with:",
            "&anchor",
            "*alias",
            "!tag",
            "%percent",
            "@at",
            "`tick`",
            "ünï¢ødé",
            "日本語",
            "\u{85}",
            "\u{7f}\u{0}\u{1b}[31m",
            "\u{2028}",
            "\u{feff}",
            "---",
            "...",
            "?",
            "|",
            ">",
            "=",
            "<<",
            "org/name",
        ] {
            let document =
                format!("{}{}", line("key", text), list("items", &[text.to_owned(), "x".to_owned()]));
            let found =
                Yaml::load_from_str(&document).unwrap_or_else(|e| panic!("{text:?}: {e}\n{document}"));
            let expected = [text, "x"];
            assert_eq!(found[0]["key"].as_str(), Some(text), "{document}");
            let items: Vec<_> =
                found[0]["items"].as_vec().unwrap().iter().map(|i| i.as_str().unwrap()).collect();
            assert_eq!(items, expected, "{document}");
        }
        assert_eq!(line("license", "apache-2.0"), "license: apache-2.0\n");
        assert_eq!(line("language", "no"), "language: \"no\"\n");
        assert_eq!(list("tags", &[]), "");
    }
}
