//! Patterns for file names, as `huggingface_hub` matches them (Python's `fnmatch`): `*` any characters, also
//! `/`; `?` one; `[a-c]` and `[!a-c]` one of a set. `folder/` means everything in it. Case counts.

/// One element of a pattern.
#[derive(Debug)]
enum Token {
    Many,
    One,
    Is(char),
    Set { not: bool, ranges: Vec<(char, char)> },
}

/// A pattern, ready to match.
#[derive(Debug)]
pub(crate) struct Glob(Vec<Token>);

impl Glob {
    pub fn new(pattern: &str) -> Self {
        let mut chars: Vec<char> = pattern.chars().collect();
        if pattern.ends_with('/') {
            chars.push('*');
        }
        let (mut tokens, mut at) = (Vec::new(), 0);
        while at < chars.len() {
            let (token, length) = match chars[at] {
                '*' => (Token::Many, 1),
                '?' => (Token::One, 1),
                '[' => set(&chars[at..]).unwrap_or((Token::Is('['), 1)),
                c => (Token::Is(c), 1),
            };
            tokens.push(token);
            at += length;
        }
        Self(tokens)
    }

    /// Whether the whole of `text` fits. Time is at most pattern times text.
    pub fn matches(&self, text: &str) -> bool {
        let text: Vec<char> = text.chars().collect();
        let (mut p, mut t) = (0, 0);
        // Where to continue if the latest `*` has to match one character more.
        let mut retry = None;
        while t < text.len() {
            match self.0.get(p) {
                Some(Token::Many) => {
                    retry = Some((p, t));
                    p += 1;
                }
                Some(token) if token.fits(text[t]) => (p, t) = (p + 1, t + 1),
                _ => match &mut retry {
                    None => return false,
                    Some((star, from)) => {
                        *from += 1;
                        (p, t) = (*star + 1, *from);
                    }
                },
            }
        }
        self.0[p..].iter().all(|token| matches!(token, Token::Many))
    }
}

impl Token {
    fn fits(&self, c: char) -> bool {
        match self {
            Self::Many | Self::One => true,
            Self::Is(own) => *own == c,
            Self::Set { not, ranges } => ranges.iter().any(|&(a, b)| (a..=b).contains(&c)) != *not,
        }
    }
}

/// A set at the beginning of `chars` and its length; `None` if its bracket is never closed.
fn set(chars: &[char]) -> Option<(Token, usize)> {
    let not = chars.get(1) == Some(&'!');
    let first = if not { 2 } else { 1 };
    // A bracket right at the beginning is a member.
    let end = first + 1 + chars.get(first + 1..)?.iter().position(|&c| c == ']')?;
    let (mut ranges, mut at) = (Vec::new(), first);
    while at < end {
        let range = chars[at + 1] == '-' && at + 2 < end;
        let last = if range { at + 2 } else { at };
        ranges.push((chars[at], chars[last]));
        at = last + 1;
    }
    Some((Token::Set { not, ranges }, end + 1))
}

#[cfg(test)]
mod tests {
    use super::Glob;

    #[test]
    fn patterns_match_as_pythons_do() {
        for (pattern, text, expected) in [
            ("*.json", "config.json", true),
            ("*.json", "sub/config.json", true),
            ("*.json", "config.json5", false),
            ("*.JSON", "config.json", false),
            ("sub/", "sub/a/b", true),
            ("sub/", "subs", false),
            ("sub", "sub/a", false),
            ("model-0000?-of-*.safetensors", "model-00001-of-00030.safetensors", true),
            ("[a-c]*", "b", true),
            ("[!a-c]*", "b", false),
            ("[]]", "]", true),
            ("[a", "[a", true),
            ("[", "[", true),
            ("[a-]", "-", true),
            ("*Q4*", "x-Q4_K_M.gguf", true),
            ("*", "", true),
            ("", "", true),
            ("", "x", false),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXbYbZ", false),
            ("**", "x", true),
        ] {
            assert_eq!(Glob::new(pattern).matches(text), expected, "{pattern} on {text}");
        }
    }

    #[test]
    fn a_long_text_of_near_matches_ends() {
        let pattern = Glob::new(&("*a".repeat(40) + "b"));
        assert!(!pattern.matches(&"a".repeat(4000)));
    }
}
