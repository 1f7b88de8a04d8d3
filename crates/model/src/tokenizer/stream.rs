//! Decodes text from bytes that arrive in pieces: a character may be spread over several tokens.

/// Converts bytes to text as soon as they form complete characters.
#[derive(Clone, Debug, Default)]
pub struct StreamDecoder {
    pending: Vec<u8>,
    drop_space: bool,
}

impl StreamDecoder {
    /// A decoder that keeps everything.
    pub fn new() -> Self {
        Self::default()
    }

    /// A decoder that drops one space if it is the very first byte.
    pub(crate) fn dropping_space(drop_space: bool) -> Self {
        Self { pending: Vec::new(), drop_space }
    }

    /// Takes more bytes and gives the text that is complete now. An incomplete character at the end is kept
    /// for the next call; bytes that can never become UTF-8 become U+FFFD.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        let mut bytes = bytes;
        if self.drop_space && !bytes.is_empty() {
            self.drop_space = false;
            bytes = bytes.strip_prefix(b" ").unwrap_or(bytes);
        }
        self.pending.extend_from_slice(bytes);
        let mut text = String::new();
        let mut rest = self.pending.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    rest = &[];
                    break;
                }
                Err(e) => {
                    let (valid, after) = rest.split_at(e.valid_up_to());
                    text.push_str(std::str::from_utf8(valid).unwrap_or_default());
                    rest = after;
                    let Some(bad) = e.error_len() else { break };
                    text.push(char::REPLACEMENT_CHARACTER);
                    rest = &rest[bad..];
                }
            }
        }
        self.pending = rest.to_vec();
        text
    }

    /// What is left at the end: U+FFFD for an incomplete character, else nothing.
    pub fn finish(&mut self) -> String {
        let rest = std::mem::take(&mut self.pending);
        String::from_utf8_lossy(&rest).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_arrive_whole() {
        let mut stream = StreamDecoder::new();
        let given: Vec<String> = "a№🙂".bytes().map(|b| stream.push(&[b])).collect();
        assert_eq!(given, ["a", "", "", "№", "", "", "", "🙂"]);
        assert_eq!(stream.finish(), "");
    }

    #[test]
    fn bad_bytes_are_replaced_and_do_not_block() {
        let mut stream = StreamDecoder::new();
        assert_eq!(stream.push(b"a\xFFb\xE2\x84"), "a\u{FFFD}b");
        assert_eq!(stream.push(b"x"), "\u{FFFD}x");
        assert_eq!(stream.push(b"\xF0\x9F"), "");
        assert_eq!(stream.finish(), "\u{FFFD}");
    }

    #[test]
    fn only_the_first_space_is_dropped() {
        let mut stream = StreamDecoder::dropping_space(true);
        assert_eq!(stream.push(b""), "");
        assert_eq!(stream.push(b"  a"), " a");
        assert_eq!(stream.push(b" b"), " b");
    }
}
