//! SentencePiece `tokenizer.model` files: just enough of protocol buffers, every length checked.
//!
//! ```text
//! ModelProto     1: SentencePiece (repeated)   2: TrainerSpec   3: NormalizerSpec
//! SentencePiece  1: piece (string)   2: score (float)   3: type (enum; 1 normal if absent)
//! TrainerSpec    3: model_type (1 unigram if absent, 2 BPE)
//! NormalizerSpec 2: precompiled_charsmap (bytes)   3: add_dummy_prefix   4: remove_extra_whitespaces (both true if absent)
//! ```
//! A field is a varint `number << 3 | wire type`, then a varint (0), 8 bytes (1), a varint length and as many
//! bytes (2), or 4 bytes (5).

use std::path::Path;

use quern_tensor_io::{Error, Result, StringArray};

use crate::tokenizer::MAX_TOKENS;
use crate::tokenizer::vocabulary::TokenKind;

/// What a `tokenizer.model` says.
#[derive(Debug)]
pub(crate) struct SentencePieceModel {
    pub pieces: StringArray,
    pub scores: Vec<f32>,
    pub kinds: Vec<TokenKind>,
    /// Put a space in front of every text.
    pub add_dummy_prefix: bool,
}

const UNIGRAM: u64 = 1;
const BPE: u64 = 2;

/// Reads the bytes of `file`.
pub(crate) fn parse(file: &Path, bytes: &[u8]) -> Result<SentencePieceModel> {
    let mut model = SentencePieceModel {
        pieces: StringArray::new(),
        scores: Vec::new(),
        kinds: Vec::new(),
        add_dummy_prefix: true,
    };
    let (mut model_type, mut strips_spaces, mut has_charsmap) = (UNIGRAM, true, false);
    let mut fields = Fields { file, bytes, at: 0, base: 0 };
    while let Some((number, value)) = fields.next()? {
        match (number, value) {
            (1, Field::Bytes(inner)) => piece(inner, &mut model)?,
            (2, Field::Bytes(mut inner)) => {
                while let Some(field) = inner.next()? {
                    if let (3, Field::Number(v)) = field {
                        model_type = v;
                    }
                }
            }
            (3, Field::Bytes(mut inner)) => {
                while let Some(field) = inner.next()? {
                    match field {
                        (2, Field::Bytes(map)) => has_charsmap = !map.bytes.is_empty(),
                        (3, Field::Number(v)) => model.add_dummy_prefix = v != 0,
                        (4, Field::Number(v)) => strips_spaces = v != 0,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    if model.pieces.is_empty() {
        return Err(Error::malformed(file, "no SentencePiece vocabulary: it holds no pieces"));
    }
    let unsupported = |what: &str| Err(Error::unsupported(file, what));
    match model_type {
        BPE => {}
        UNIGRAM => return unsupported("SentencePiece unigram models are not supported (BPE models are)"),
        other => {
            return unsupported(&format!(
                "SentencePiece model type {other} is not supported (BPE models are)"
            ));
        }
    }
    if has_charsmap || strips_spaces {
        return unsupported(
            "SentencePiece models that normalize text are not supported (identity without removing spaces is)",
        );
    }
    Ok(model)
}

fn piece(mut fields: Fields<'_>, model: &mut SentencePieceModel) -> Result<()> {
    let (file, at) = (fields.file, fields.base);
    let (mut text, mut score, mut kind) = ("", 0.0, TokenKind::Normal);
    while let Some(field) = fields.next()? {
        match field {
            (1, Field::Bytes(inner)) => {
                text = std::str::from_utf8(inner.bytes).map_err(|_| {
                    Error::malformed(file, "a piece is not valid UTF-8").at(inner.base as u64)
                })?;
            }
            (2, Field::Fixed32(v)) => score = f32::from_bits(v),
            (3, Field::Number(v)) => {
                kind = i64::try_from(v).ok().and_then(TokenKind::from_number).ok_or_else(|| {
                    Error::malformed(file, format!("a piece has the unknown type {v}")).at(at as u64)
                })?;
            }
            _ => {}
        }
    }
    if score.is_nan() {
        return Err(Error::malformed(file, "a piece's score is not a number").at(at as u64));
    }
    if model.pieces.len() == MAX_TOKENS {
        return Err(Error::malformed(file, format!("more than {MAX_TOKENS} pieces")));
    }
    model.pieces.push(text);
    model.scores.push(score);
    model.kinds.push(kind);
    Ok(())
}

enum Field<'a> {
    Number(u64),
    Fixed32(u32),
    Fixed64,
    Bytes(Fields<'a>),
}

/// The fields of one message.
struct Fields<'a> {
    file: &'a Path,
    bytes: &'a [u8],
    at: usize,
    /// Where `bytes` starts in the file.
    base: usize,
}

impl<'a> Fields<'a> {
    fn error(&self, what: impl Into<String>) -> Error {
        Error::malformed(self.file, what).at((self.base + self.at) as u64)
    }

    fn next(&mut self) -> Result<Option<(u64, Field<'a>)>> {
        if self.at == self.bytes.len() {
            return Ok(None);
        }
        let key = self.varint()?;
        let value = match key & 7 {
            0 => Field::Number(self.varint()?),
            1 => {
                self.take(8)?;
                Field::Fixed64
            }
            2 => {
                let len = self.varint()?;
                let base = self.base + self.at;
                Field::Bytes(Fields { file: self.file, bytes: self.take(len)?, at: 0, base })
            }
            5 => {
                let b = self.take(4)?;
                Field::Fixed32(u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            }
            wire => return Err(self.error(format!("not a SentencePiece model: wire type {wire}"))),
        };
        Ok(Some((key >> 3, value)))
    }

    fn varint(&mut self) -> Result<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7F) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(self.error("not a SentencePiece model: a number longer than 64 bits"))
    }

    fn take(&mut self, len: u64) -> Result<&'a [u8]> {
        let left = self.bytes.len() - self.at;
        match usize::try_from(len) {
            Ok(len) if len <= left => {
                let taken = &self.bytes[self.at..self.at + len];
                self.at += len;
                Ok(taken)
            }
            _ => Err(self.error(format!("not a SentencePiece model: {len} bytes announced, {left} left"))),
        }
    }
}
