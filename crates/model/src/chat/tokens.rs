//! The tokens of a Jinja expression.

/// What a token is, as far as the operands of `%` depend on it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind {
    Name,
    Text,
    Number,
    /// `(`, `[` or `{`
    Open(u8),
    Close,
    /// `%`
    Percent,
    /// `*`, `/` or `//`
    Times,
    /// `**`
    Power,
    Dot,
    Pipe,
    Plus,
    Minus,
    Other,
}

/// A token and its position.
#[derive(Clone, Copy, Debug)]
pub(super) struct Token {
    pub kind: Kind,
    pub start: usize,
    pub end: usize,
}

/// The tokens of an expression from `at` on, and where its tag ends: behind `}}`, or `%}` for `close` `%`.
pub(super) fn tokens(source: &str, mut at: usize, close: u8) -> Option<(Vec<Token>, usize)> {
    let bytes = source.as_bytes();
    let closes = |at: usize| bytes.get(at) == Some(&close) && bytes.get(at + 1) == Some(&b'}');
    let mut tokens = Vec::new();
    let mut depth = 0usize;
    loop {
        let &byte = bytes.get(at)?;
        if depth == 0 {
            if closes(at) {
                return Some((tokens, at + 2));
            }
            if matches!(byte, b'-' | b'+') && closes(at + 1) {
                return Some((tokens, at + 3));
            }
        }
        let start = at;
        at += 1;
        let kind = match byte {
            _ if byte.is_ascii_whitespace() => continue,
            b'"' | b'\'' => {
                loop {
                    match bytes.get(at)? {
                        b'\\' => at += 2,
                        &b if b == byte => break,
                        _ => at += 1,
                    }
                }
                at += 1;
                Kind::Text
            }
            b'0'..=b'9' => {
                at = end_of_number(bytes, at);
                Kind::Number
            }
            b'a'..=b'z' | b'A'..=b'Z' | b'_' | 0x80.. => {
                let part = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_' || *b >= 0x80;
                at += bytes[at..].iter().take_while(|b| part(b)).count();
                Kind::Name
            }
            b'(' | b'[' | b'{' => {
                depth += 1;
                Kind::Open(byte)
            }
            b')' | b']' | b'}' => {
                depth = depth.saturating_sub(1);
                Kind::Close
            }
            b'*' | b'/' => {
                let twice = bytes.get(at) == Some(&byte);
                at += usize::from(twice);
                if twice && byte == b'*' { Kind::Power } else { Kind::Times }
            }
            b'%' => Kind::Percent,
            b'.' => Kind::Dot,
            b'|' => Kind::Pipe,
            b'+' => Kind::Plus,
            b'-' => Kind::Minus,
            _ => Kind::Other,
        };
        tokens.push(Token { kind, start, end: at });
    }
}

/// Where a number that began before `at` ends: `10`, `1_000`, `0xff`, `1.5e-3`; not at the dot of `1.real`.
fn end_of_number(bytes: &[u8], mut at: usize) -> usize {
    loop {
        let next = bytes.get(at).copied().unwrap_or(b' ');
        let digit_follows = bytes.get(at + 1).is_some_and(u8::is_ascii_digit);
        let exponent = matches!(bytes[at - 1], b'e' | b'E');
        match next {
            b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'_' => at += 1,
            b'.' if digit_follows => at += 1,
            b'+' | b'-' if exponent && digit_follows => at += 1,
            _ => return at,
        }
    }
}
