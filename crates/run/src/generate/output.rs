//! Converts generated tokens to text.

use std::borrow::Cow;

use quern_model::{StreamDecoder, TokenKind, Tokenizer};

use super::Listener;
use super::stops::Stops;

/// The bytes of a token; a control token's name if it is to be seen.
pub(super) fn text_of(tokenizer: &Tokenizer, token: u32, special: bool) -> Cow<'_, [u8]> {
    if special && tokenizer.token_kind(token) == Some(TokenKind::Control) {
        return Cow::Borrowed(tokenizer.piece(token).unwrap_or_default().as_bytes());
    }
    tokenizer.token_bytes(token)
}

/// Collects the text and passes it on.
pub(super) struct Output<'a, 'l> {
    pub tokenizer: &'a Tokenizer,
    pub decoder: StreamDecoder,
    pub stops: Stops<'a>,
    pub special: bool,
    pub text: String,
    pub listener: &'l mut dyn Listener,
}

impl<'a> Output<'a, '_> {
    /// One more token. Returns the stop text that it completes.
    pub fn token(&mut self, token: u32) -> Option<&'a str> {
        let piece = self.decoder.push(&text_of(self.tokenizer, token, self.special));
        let (text, found) = self.stops.push(&piece);
        self.emit(&text);
        found
    }

    /// Nothing more follows; what was held back is text unless a stop text was found.
    pub fn finish(mut self, stopped: bool) -> String {
        if !stopped {
            let rest = self.decoder.finish();
            let text = self.stops.push(&rest).0 + &self.stops.finish();
            self.emit(&text);
        }
        self.text
    }

    fn emit(&mut self, piece: &str) {
        if !piece.is_empty() {
            self.text.push_str(piece);
            self.listener.text(piece);
        }
    }
}
