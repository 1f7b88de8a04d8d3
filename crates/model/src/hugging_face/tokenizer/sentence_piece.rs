//! `tokenizer.model`: a SentencePiece model, as protocol buffers (the messages are drawn in
//! `tokenizer/directory/protobuf.rs`).
//!
//! Ids are places in the list, so tokens that only fill up the middle are kept as unused pieces.

use quern_tensor_io::Metadata;

use crate::tokenizer::{SpacePrefix, TokenKind, Tokenizer};

use super::Tokens;

const BPE: u64 = 2;

pub(super) fn model(tokenizer: &Tokenizer, tokens: &Tokens, metadata: &Metadata) -> Vec<u8> {
    let scores = metadata.f32s("tokenizer.ggml.scores").unwrap_or_default();
    let mut out = Message::default();
    let mut next = 0;
    for entry in &tokens.0 {
        for id in next..entry.id {
            piece(&mut out, &format!("[PAD{id}]"), 0.0, TokenKind::Unused);
        }
        next = entry.id + 1;
        let kind = match entry.kind {
            // The one piece for what cannot be spelled has a kind of its own; GGUF files often call it control.
            _ if tokenizer.unk() == Some(entry.id) => TokenKind::Unknown,
            TokenKind::Unknown => TokenKind::Control,
            kind => kind,
        };
        let score = match kind {
            TokenKind::Normal | TokenKind::Unused => scores.get(entry.id as usize).copied().unwrap_or(0.0),
            _ => 0.0,
        };
        piece(&mut out, &entry.text, score, kind);
    }
    out.message(2, &trainer(tokenizer, tokens, next));
    let mut normalizer = Message::default();
    normalizer.bytes(1, b"identity");
    normalizer.number(3, u64::from(tokenizer.prefix() != Some(SpacePrefix::Never)));
    normalizer.number(4, 0); // remove_extra_whitespaces
    normalizer.number(5, 1); // escape_whitespaces
    out.message(3, &normalizer);
    out.0
}

fn piece(out: &mut Message, text: &str, score: f32, kind: TokenKind) {
    let mut piece = Message::default();
    piece.bytes(1, text.as_bytes());
    piece.float(2, score);
    piece.number(3, kind as u64);
    out.message(1, &piece);
}

fn trainer(tokenizer: &Tokenizer, tokens: &Tokens, count: u32) -> Message {
    let mut trainer = Message::default();
    trainer.number(3, BPE);
    trainer.number(4, count.into());
    trainer.number(35, 1); // byte_fallback
    let ids = tokenizer.special_ids();
    let named = [(40, 45, ids.unk), (41, 46, ids.bos), (42, 47, ids.eos), (43, 48, ids.pad)];
    for (number, _, id) in named {
        // -1, sign-extended, is none.
        trainer.number(number, id.filter(|_| tokens.text(id).is_some()).map_or(u64::MAX, u64::from));
    }
    for (_, number, id) in named {
        if let Some(text) = tokens.text(id) {
            trainer.bytes(number, text.as_bytes());
        }
    }
    trainer
}

/// A message while it is written.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn number(&mut self, field: u64, value: u64) {
        self.varint(field << 3);
        self.varint(value);
    }

    fn float(&mut self, field: u64, value: f32) {
        self.varint(field << 3 | 5);
        self.0.extend(value.to_le_bytes());
    }

    fn bytes(&mut self, field: u64, value: &[u8]) {
        self.varint(field << 3 | 2);
        self.varint(value.len() as u64);
        self.0.extend(value);
    }

    fn message(&mut self, field: u64, value: &Message) {
        self.bytes(field, &value.0);
    }
}
