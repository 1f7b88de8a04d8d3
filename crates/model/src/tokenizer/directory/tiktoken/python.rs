//! The pattern in a tokenizer's Python program, which is read and never run.
//!
//! ```text
//! pat_str = "|".join([r"""[\p{Han}]+""", r"""\p{N}{1,3}""", …])     Moonshot's
//! PAT_STR = r"""(?i:'s|'t)|""" \                                    Qwen's, Tencent's
//!           r"""\p{N}"""
//! ```

const NAME: &str = "pat_str";

/// The pattern that the program assigns to `pat_str` (or `PAT_STR`): string literals, one after the other or joined.
/// `None` if there is no such statement, or something else in it.
pub(super) fn pattern(program: &str) -> Option<String> {
    let lower = program.to_ascii_lowercase();
    let statements = lower.match_indices(NAME).filter_map(|(at, _)| {
        let inside = lower[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '.');
        let behind = &program[at + NAME.len()..];
        let behind = behind.trim_start().strip_prefix(": str").unwrap_or(behind);
        let value = behind.trim_start().strip_prefix('=').filter(|value| !value.starts_with('='));
        value.filter(|_| !inside)
    });
    statements.into_iter().find_map(literals)
}

/// The text of an expression of string literals.
fn literals(mut rest: &str) -> Option<String> {
    let (mut elements, mut separator, mut depth) = (vec![String::new()], None, 0_usize);
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        match c {
            '\n' if depth == 0 => break,
            ' ' | '\t' | '\r' | '\n' | '+' => {}
            '\\' => rest = rest.trim_start_matches('\r').strip_prefix('\n')?,
            '#' => rest = rest.find('\n').map_or("", |end| &rest[end..]),
            '(' | '[' => depth += 1,
            ')' | ']' => match depth.checked_sub(1) {
                Some(less) => depth = less,
                None => break,
            },
            ',' => elements.push(String::new()),
            '.' => {
                rest = rest.strip_prefix("join")?;
                separator = elements.pop();
                elements.push(String::new());
            }
            'r' | 'R' => {
                let quote = rest.chars().next()?;
                let (text, after) = literal(quote, rest.strip_prefix(quote)?)?;
                elements.last_mut()?.push_str(text);
                rest = after;
            }
            '"' | '\'' => {
                let (text, after) = literal(c, rest).filter(|(text, _)| !text.contains('\\'))?;
                elements.last_mut()?.push_str(text);
                rest = after;
            }
            _ => return None,
        }
    }
    if elements.last().is_some_and(String::is_empty) {
        elements.pop();
    }
    match (separator, &elements[..]) {
        (Some(separator), [_, ..]) => Some(elements.join(&separator)),
        (None, [_]) => elements.pop(),
        _ => None,
    }
}

/// The text of a literal behind its first quote, and what follows it.
fn literal(quote: char, body: &str) -> Option<(&str, &str)> {
    if !matches!(quote, '"' | '\'') {
        return None;
    }
    let twice = quote.to_string().repeat(2);
    let (end, body) = match body.strip_prefix(&twice) {
        Some(body) => (quote.to_string().repeat(3), body),
        None => (quote.to_string(), body),
    };
    body.split_once(&end)
}

#[cfg(test)]
mod tests {
    use super::pattern;

    #[test]
    fn patterns_are_found_however_they_are_written() {
        let joined = "class T:\n    pat_str = \"|\".join(\n        [\n            r\"\"\"[\\p{Han}]+\"\"\",  # by themselves\n            \
                      r'''\\p{N}{1,3}''',\n            r\"\\s+\",\n        ]\n    )\n\n    def f(self): pass\n";
        assert_eq!(pattern(joined).as_deref(), Some(r"[\p{Han}]+|\p{N}{1,3}|\s+"));
        let lines = "X = 1\nPAT_STR = r\"\"\"(?i:'s|'t)|\"\"\" \\\n          r\"\"\" ?\\p{L}+\"\"\"\n# PAT_STR = r'no'\n";
        assert_eq!(pattern(lines).as_deref(), Some(r"(?i:'s|'t)| ?\p{L}+"));
        let one = "PAT_STR = r\"\"\"a|b\"\"\"  # noqa\nenc = Encoding(pat_str=PAT_STR)\n";
        assert_eq!(pattern(one).as_deref(), Some("a|b"));
    }

    #[test]
    fn anything_else_is_none() {
        let others = [
            "",
            "pat_str == r'a'",
            "PAT_STR = make()",
            "PAT_STR = \"\\\\s\"",
            "PAT_STR = r\"\"\"a",
            "my_pat_str = r'a'",
            "enc(pat_str=self.pat_str)",
            "PAT_STR =",
        ];
        for program in others {
            assert_eq!(pattern(program), None, "{program}");
        }
    }
}
