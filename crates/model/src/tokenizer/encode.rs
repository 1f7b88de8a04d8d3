//! From text to tokens.

use std::borrow::Cow;

use quern_tensor_io::{Error, Result};

use super::bpe::Encoder;
use super::space_prefix::Place;
use super::special::Fragment;
use super::{EncodeOptions, Engine, SpacePrefix, Tokenizer, spm, vocabulary};
use crate::pattern::PatternError;

/// What encodes words.
enum Words<'a> {
    Scores(spm::Encoder<'a>),
    Merges(Encoder<'a>),
}

impl Tokenizer {
    /// The tokens of `text`.
    ///
    /// Beside the tokens, this takes at most twelve bytes of memory for each byte of the text, and for prose less than two.
    ///
    /// # Errors
    /// The rules by which the tokenizer's file normalizes and cuts text make far more of the text, or take far longer, than
    /// those of any known tokenizer.
    pub fn encode(&self, text: &str, options: EncodeOptions) -> Result<Vec<u32>> {
        let mut out = Vec::new();
        if options.add_special && self.add_bos {
            out.extend(self.ids.bos);
            out.extend(self.after_bos());
        }
        let mut place = Place { first: true, after_special: true };
        let mut words = match &self.engine {
            Engine::SentencePiece(_, None) => Words::Scores(spm::Encoder::new(&self.vocabulary, text.len())),
            Engine::SentencePiece(_, Some(bpe)) => Words::Merges(bpe.encoder(&self.vocabulary, text.len())),
            Engine::ByteLevel(engine) => Words::Merges(engine.encoder(&self.vocabulary, text.len())),
        };
        for fragment in self.special.split(text, options.parse_special) {
            match fragment {
                Fragment::Token(id) => {
                    out.push(id);
                    place.after_special = true;
                }
                Fragment::Text(raw) => match (&self.engine, &mut words) {
                    (Engine::ByteLevel(engine), Words::Merges(encoder)) => {
                        engine.encode(encoder, raw, &mut out).map_err(|what| self.too_much(&what))?;
                    }
                    (Engine::SentencePiece(prefix, _), words) => {
                        self.encode_sentence_piece(raw, *prefix, words, &mut place, &mut out);
                    }
                    (Engine::ByteLevel(_), Words::Scores(_)) => {}
                },
            }
            place.first = false;
        }
        if options.add_special && self.add_eos {
            out.extend(self.ids.eos);
        }
        Ok(out)
    }

    fn too_much(&self, what: &PatternError) -> Error {
        let what = format!("{what}: the file is damaged or made to do harm; take it from the original model");
        Error::malformed(&self.file, what)
    }

    /// Text between special tokens.
    fn encode_sentence_piece(
        &self,
        raw: &str,
        prefix: SpacePrefix,
        words: &mut Words<'_>,
        place: &mut Place,
        out: &mut Vec<u32>,
    ) {
        let mut escaped = String::new();
        let encoder = match words {
            Words::Merges(encoder) => {
                prefix.escape(raw, place, &mut escaped);
                return spm::encode_by_merges(&self.vocabulary, encoder, &escaped, out);
            }
            Words::Scores(encoder) => encoder,
        };
        let spaced = match raw.contains(vocabulary::SPACE) {
            true => Cow::Owned(raw.replace(vocabulary::SPACE, " ")),
            false => Cow::Borrowed(raw),
        };
        for fragment in self.special.split_blanks(&spaced) {
            match fragment {
                Fragment::Token(id) => out.push(id),
                Fragment::Text(text) => {
                    escaped.clear();
                    prefix.escape(text, place, &mut escaped);
                    encoder.encode(&escaped, out);
                }
            }
            place.first = false;
            place.after_special = matches!(fragment, Fragment::Token(_));
        }
    }
}
