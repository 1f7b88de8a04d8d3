//! The pieces of a vocabulary: text, score, kind, and a hash table from text to id.
//!
//! The table holds ids only (open addressing, linear probing, at most half full) and compares against the
//! pieces' own text, so that loading a vocabulary allocates twice, not once a piece.

use std::borrow::Cow;
use std::collections::BTreeSet;

use quern_tensor_io::StringArray;

use super::byte_level::alphabet;
use super::hash::Key;

/// U+2581, which stands for a space inside pieces.
pub(crate) const SPACE: char = '\u{2581}';

/// What a token is, with GGUF's (and SentencePiece's) number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum TokenKind {
    /// A piece of text.
    Normal = 1,
    /// Stands for what the vocabulary cannot spell.
    Unknown = 2,
    /// Has no text: beginning and end of text and their like.
    Control = 3,
    /// Text added to the vocabulary, always taken whole.
    UserDefined = 4,
    /// Not used.
    Unused = 5,
    /// One byte, spelled `<0xNN>`.
    Byte = 6,
}

impl TokenKind {
    /// The kind of this number.
    pub fn from_number(number: i64) -> Option<Self> {
        Some(match number {
            1 => Self::Normal,
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => return None,
        })
    }
}

const EMPTY: u32 = u32::MAX;

/// How ordinary pieces are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spelling {
    /// Text, with U+2581 for each space; single bytes as `<0xNN>`.
    SentencePiece,
    /// One character of GPT-2's alphabet for each byte.
    ByteLevel,
}

/// All tokens of a model.
#[derive(Clone, Debug)]
pub(crate) struct Vocabulary {
    spelling: Spelling,
    pieces: StringArray,
    /// Of SentencePiece's pieces; else empty.
    scores: Vec<f32>,
    kinds: Vec<TokenKind>,
    table: Vec<u32>,
    key: Key,
    /// Bytes of the longest piece.
    longest: usize,
    bytes: Box<[Option<u32>; 256]>,
    unknown: Option<u32>,
    /// Characters that precede a space within a piece, ascending; `None` if the space itself is no piece.
    before_space: Option<Vec<char>>,
}

impl Vocabulary {
    /// SentencePiece's. The three lists must have the same length, below 2^31. Of equal pieces the first is found.
    pub fn new(pieces: StringArray, scores: Vec<f32>, kinds: Vec<TokenKind>, unknown: Option<u32>) -> Self {
        debug_assert!(pieces.len() == scores.len());
        let mut vocabulary = Self::build(Spelling::SentencePiece, pieces, kinds, unknown);
        vocabulary.scores = scores;
        for id in 0..vocabulary.pieces.len() as u32 {
            if vocabulary.kind(id) == Some(TokenKind::Byte)
                && let Some(byte) = vocabulary.piece(id).and_then(parse_byte)
            {
                vocabulary.bytes[usize::from(byte)].get_or_insert(id);
            }
        }
        vocabulary.before_space = vocabulary.find_before_space();
        vocabulary
    }

    /// Byte-level BPE's; the same rules apply to the lists.
    pub fn byte_level(pieces: StringArray, kinds: Vec<TokenKind>, unknown: Option<u32>) -> Self {
        Self::build(Spelling::ByteLevel, pieces, kinds, unknown)
    }

    fn build(spelling: Spelling, pieces: StringArray, kinds: Vec<TokenKind>, unknown: Option<u32>) -> Self {
        debug_assert!(pieces.len() == kinds.len());
        let slots = (pieces.len() * 2).next_power_of_two().max(2);
        let mut vocabulary = Self {
            spelling,
            table: vec![EMPTY; slots],
            key: Key::random(),
            longest: pieces.iter().map(str::len).max().unwrap_or(0),
            bytes: Box::new([None; 256]),
            pieces,
            scores: Vec::new(),
            kinds,
            unknown,
            before_space: None,
        };
        for id in 0..vocabulary.pieces.len() as u32 {
            let slot = vocabulary.slot(vocabulary.pieces.get(id as usize).unwrap_or_default());
            if vocabulary.table[slot] == EMPTY {
                vocabulary.table[slot] = id;
            }
        }
        vocabulary
    }

    fn find_before_space(&self) -> Option<Vec<char>> {
        self.merged(SPACE.encode_utf8(&mut [0; 4]))?;
        let mut found = BTreeSet::new();
        for piece in self.pieces.iter() {
            found.extend(piece.match_indices(SPACE).filter_map(|(at, _)| piece[..at].chars().next_back()));
        }
        Some(found.into_iter().collect())
    }

    /// Whether some piece holds `c` followed by a space. (Always, if the space is no piece itself: then it may
    /// be part of a run of unknown characters, which must stay together.)
    pub fn joins_space(&self, c: char) -> bool {
        self.before_space.as_ref().is_none_or(|found| found.binary_search(&c).is_ok())
    }

    /// The slot that holds `piece`, or the free one where it belongs.
    fn slot(&self, piece: &str) -> usize {
        let mask = self.table.len() - 1;
        let mut slot = self.key.bytes(piece.as_bytes()) as usize & mask;
        while self.table[slot] != EMPTY && self.pieces.get(self.table[slot] as usize) != Some(piece) {
            slot = (slot + 1) & mask;
        }
        slot
    }

    pub fn len(&self) -> usize {
        self.pieces.len()
    }

    /// Bytes of the longest piece.
    pub fn longest(&self) -> usize {
        self.longest
    }

    pub fn find(&self, piece: &str) -> Option<u32> {
        let id = self.table[self.slot(piece)];
        (id != EMPTY).then_some(id)
    }

    pub fn piece(&self, id: u32) -> Option<&str> {
        self.pieces.get(id as usize)
    }

    pub fn kinds(&self) -> &[TokenKind] {
        &self.kinds
    }

    pub fn kind(&self, id: u32) -> Option<TokenKind> {
        self.kinds.get(id as usize).copied()
    }

    /// The piece that merging may produce from this text, with its score. Control, unknown and byte tokens
    /// are never made from text, whatever it spells (SentencePiece keeps them in a table of their own).
    pub fn merged(&self, text: &str) -> Option<(u32, f32)> {
        let id = self.find(text)?;
        let plain =
            matches!(self.kinds[id as usize], TokenKind::Normal | TokenKind::UserDefined | TokenKind::Unused);
        plain.then(|| (id, self.scores[id as usize]))
    }

    /// The token for one byte.
    pub fn byte(&self, byte: u8) -> Option<u32> {
        self.bytes[usize::from(byte)]
    }

    /// The token for what cannot be spelled.
    pub fn unknown(&self) -> Option<u32> {
        self.unknown
    }

    /// The bytes a token stands for.
    pub fn bytes(&self, id: u32) -> Cow<'_, [u8]> {
        let (Some(piece), Some(kind)) = (self.piece(id), self.kind(id)) else { return Cow::Borrowed(&[]) };
        match kind {
            TokenKind::Control | TokenKind::Unused => Cow::Borrowed(&[]),
            TokenKind::UserDefined if self.spelling == Spelling::ByteLevel => Cow::Borrowed(piece.as_bytes()),
            _ if self.spelling == Spelling::ByteLevel => match alphabet::decode(piece) {
                Some(bytes) => Cow::Owned(bytes),
                // As in the tokenizers library.
                None => Cow::Borrowed(piece.as_bytes()),
            },
            TokenKind::Byte => Cow::Owned(parse_byte(piece).into_iter().collect()),
            // As SentencePiece prints it.
            TokenKind::Unknown => Cow::Borrowed(" \u{2047} ".as_bytes()),
            TokenKind::Normal | TokenKind::UserDefined if piece.contains(SPACE) => {
                Cow::Owned(piece.replace(SPACE, " ").into_bytes())
            }
            TokenKind::Normal | TokenKind::UserDefined => Cow::Borrowed(piece.as_bytes()),
        }
    }
}

/// The byte that `<0xNN>` spells.
pub(crate) fn parse_byte(piece: &str) -> Option<u8> {
    let digits = piece.strip_prefix("<0x")?.strip_suffix('>')?;
    let plain = digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_hexdigit());
    plain.then(|| u8::from_str_radix(digits, 16).ok()).flatten()
}

/// Appends `text` with U+2581 for each space.
pub(crate) fn escape_spaces(text: &str, out: &mut String) {
    for (i, part) in text.split(' ').enumerate() {
        if i > 0 {
            out.push(SPACE);
        }
        out.push_str(part);
    }
}
