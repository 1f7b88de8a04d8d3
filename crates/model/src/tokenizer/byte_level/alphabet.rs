//! GPT-2's alphabet: one printable character for each byte, so that pieces of bytes can be written as text.
//!
//! Bytes that print in Latin-1 (`!` to `~`, `¡` to `¬`, `®` to `ÿ`) stand for themselves; the others, in
//! ascending order, for U+0100, U+0101 …; so a space is `Ġ` (U+0120) and a line feed `Ċ`.

/// One past the last character of the alphabet.
pub(crate) const END: usize = 0x144;

const fn prints(byte: u8) -> bool {
    matches!(byte, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF)
}

const CHARS: [char; 256] = {
    let mut chars = ['\0'; 256];
    let (mut byte, mut next) = (0, 0x100);
    while byte < 256 {
        let code = if prints(byte as u8) {
            byte as u32
        } else {
            next += 1;
            next - 1
        };
        chars[byte] = match char::from_u32(code) {
            Some(c) => c,
            None => unreachable!(),
        };
        byte += 1;
    }
    chars
};

const BYTES: [Option<u8>; END] = {
    let mut bytes = [None; END];
    let mut byte = 0;
    while byte < 256 {
        bytes[CHARS[byte] as usize] = Some(byte as u8);
        byte += 1;
    }
    bytes
};

/// The character for a byte.
pub(crate) fn char_of(byte: u8) -> char {
    CHARS[usize::from(byte)]
}

/// The byte a character stands for.
pub(crate) fn byte_of(c: char) -> Option<u8> {
    BYTES.get(c as usize).copied().flatten()
}

/// The bytes a piece stands for; `None` if a character is not of the alphabet.
pub(crate) fn decode(piece: &str) -> Option<Vec<u8>> {
    piece.chars().map(byte_of).collect()
}

/// Text as pieces are spelled.
pub(crate) fn encode(text: &str) -> String {
    text.bytes().map(char_of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_bytes_have_their_own_character() {
        assert_eq!(
            tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet(),
            CHARS.into_iter().collect()
        );
        for byte in 0..=255 {
            assert_eq!(byte_of(char_of(byte)), Some(byte));
        }
        assert_eq!((char_of(b' '), char_of(b'\n'), char_of(0xAD)), ('Ġ', 'Ċ', '\u{143}'));
        assert_eq!(decode("Ġnaïve"), None.or(Some(b" na\xEFve".to_vec())));
        assert_eq!((decode("東"), decode(&encode("東"))), (None, Some("東".as_bytes().to_vec())));
    }
}
