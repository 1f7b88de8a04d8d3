//! Calibration: the tokens on which a model is run to measure the inputs of its layers.
//!
//! ```text
//! text    tokenized whole, n tokens      |--s0--|..|--s1--|..|--s2--| … |--s(k-1)--|
//! JSONL   one record, one sequence       from its beginning, at most `context` tokens
//! ```
//!
//! A sequence has `context` tokens. If the tokenizer puts a beginning-of-text token before a text, every
//! sequence starts with it and holds `body = context - 1` tokens of the text, else `body = context`. Of a text
//! of n tokens, `k = min(samples, n / body)` sequences are taken, none overlapping another; sequence i begins
//! at token `i * (n - body) / (k - 1)`, rounded down: the first at the text's beginning, the last at its end.
//! Of records, the first `samples` with more than [`SHORTEST`] tokens are taken; shorter ones contribute little
//! and are dropped (as in GPT-QModel), longer ones are cut.

mod error;
mod read;

use quern_model::{EncodeOptions, Tokenizer};
use sha2::{Digest, Sha256};

pub use error::{Error, Result};
pub use read::{open, read, read_bytes};

/// The text that is taken where the caller names none: passages from public-domain books between dialogue,
/// lists, numbers, code and other languages, about 450 KB. `tools/make_calibration_text.py` chose the books.
pub const DEFAULT_TEXT: &str = concat!(
    include_str!("text/books-1.txt"),
    include_str!("text/conversations.txt"),
    include_str!("text/books-2.txt"),
    include_str!("text/code.txt"),
    include_str!("text/books-3.txt"),
    include_str!("text/languages.txt"),
    include_str!("text/books-4.txt"),
    include_str!("text/facts.txt"),
    include_str!("text/books-5.txt"),
);

/// The name of [`DEFAULT_TEXT`] in reports and files.
pub const DEFAULT_NAME: &str = "quern's calibration text";

/// Records of no more tokens than this are dropped.
pub const SHORTEST: usize = 10;

/// What to take samples of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum TextSource {
    /// [`DEFAULT_TEXT`].
    #[default]
    Default,
    /// One running text.
    Text(String),
    /// Separate texts (the records of a JSONL file), each with its own beginning.
    Records(Vec<String>),
}

impl TextSource {
    /// All of it as one text, as an importance matrix is made of: records follow each other on new lines.
    pub fn into_text(self) -> std::borrow::Cow<'static, str> {
        match self {
            Self::Default => DEFAULT_TEXT.into(),
            Self::Text(text) => text.into(),
            Self::Records(records) => records.join("\n").into(),
        }
    }
}

/// How many samples, and how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SampleOptions {
    /// Sequences to take, if the source has so many.
    pub samples: usize,
    /// Tokens in a sequence; records may give shorter ones.
    pub context: usize,
}

impl Default for SampleOptions {
    fn default() -> Self {
        Self { samples: 128, context: 512 }
    }
}

/// The sequences to run a model on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Samples {
    /// Tokens of each sequence.
    pub sequences: Vec<Vec<u32>>,
    /// Tokens in all sequences together.
    pub tokens: usize,
    /// Sequences asked for: more than there are if the source is short.
    pub wanted: usize,
    /// Records dropped because they had no more than [`SHORTEST`] tokens.
    pub dropped: usize,
}

impl Samples {
    fn new(sequences: Vec<Vec<u32>>, wanted: usize, dropped: usize) -> Self {
        let tokens = sequences.iter().map(Vec::len).sum();
        Self { sequences, tokens, wanted, dropped }
    }

    /// SHA-256, in lower-case hexadecimal digits, of each sequence's length (u64) and tokens (u32), little
    /// endian: equal for equal samples, so that a resumed job can check whether they are still the same.
    pub fn hash(&self) -> String {
        let mut hash = Sha256::new();
        for sequence in &self.sequences {
            hash.update((sequence.len() as u64).to_le_bytes());
            for token in sequence {
                hash.update(token.to_le_bytes());
            }
        }
        hex(hash)
    }
}

/// A calibration text with what identifies it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedText {
    /// The text.
    pub source: TextSource,
    /// The file's name without its folder, or [`DEFAULT_NAME`].
    pub name: String,
    /// SHA-256 of the file's bytes, in lower-case hexadecimal digits.
    pub sha256: String,
}

/// The digits of a hash.
pub(crate) fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Takes samples of `source` for a model with this tokenizer. Control tokens spelled out in a text are text.
///
/// # Errors
/// [`Error::Options`] for no samples or a context too short for text;
/// [`Error::Tokenizer`] if the text cannot be converted to tokens;
/// [`Error::TooShort`] if nothing of the source is longer than [`SHORTEST`] tokens.
pub fn samples(tokenizer: &Tokenizer, source: TextSource, options: SampleOptions) -> Result<Samples> {
    let SampleOptions { samples: wanted, context } = options;
    let bos = tokenizer.bos().filter(|_| tokenizer.add_bos());
    if wanted == 0 {
        return Err(Error::Options("0 samples were asked for; calibration needs at least 1".into()));
    }
    if context <= SHORTEST {
        let what = format!("a context of {context} tokens is too short; use at least {}", SHORTEST + 1);
        return Err(Error::Options(what));
    }
    let body = context - usize::from(bos.is_some());
    let encode =
        |text: &str| tokenizer.encode(text, EncodeOptions { add_special: false, parse_special: false });
    let sequence = |tokens: &[u32]| bos.into_iter().chain(tokens.iter().copied()).collect::<Vec<u32>>();
    let samples = match source {
        TextSource::Records(records) => {
            let (mut sequences, mut dropped) = (Vec::new(), 0);
            for record in &records {
                if sequences.len() == wanted {
                    break;
                }
                let tokens = encode(record)?;
                if tokens.len() <= SHORTEST {
                    dropped += 1;
                } else {
                    sequences.push(sequence(&tokens[..tokens.len().min(body)]));
                }
            }
            Samples::new(sequences, wanted, dropped)
        }
        text => {
            let tokens = encode(&text.into_text())?;
            let cut = |start| sequence(&tokens[start..tokens.len().min(start + body)]);
            let sequences = starts(tokens.len(), body, wanted).map(cut).collect();
            Samples::new(sequences, wanted, 0)
        }
    };
    if samples.sequences.is_empty() {
        return Err(Error::TooShort { dropped: samples.dropped });
    }
    Ok(samples)
}

/// Where the sequences of a text of `length` tokens begin. A text shorter than one sequence is one.
fn starts(length: usize, body: usize, wanted: usize) -> impl Iterator<Item = usize> {
    let count = match length / body {
        0 => usize::from(length > SHORTEST),
        whole => whole.min(wanted),
    };
    let last = length.saturating_sub(body) as u128;
    // count - 1 of them are between the first and the last
    let gaps = count.saturating_sub(1).max(1) as u128;
    (0..count).map(move |i| (i as u128 * last / gaps) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_are_spread_from_end_to_end_and_never_overlap() {
        assert_eq!(starts(100, 10, 4).collect::<Vec<_>>(), [0, 30, 60, 90]);
        assert_eq!(starts(100, 10, 10).collect::<Vec<_>>(), (0..10).map(|i| i * 10).collect::<Vec<_>>());
        assert_eq!(starts(109, 10, 99).collect::<Vec<_>>()[..3], [0, 11, 22]);
        assert_eq!(starts(25, 10, 1).collect::<Vec<_>>(), [0]);
        assert_eq!(starts(11, 100, 3).collect::<Vec<_>>(), [0]);
        assert_eq!(starts(SHORTEST, 100, 3).count(), 0);
        for (length, body, wanted) in [(1000, 7, 50), (1001, 13, 500), (12_345, 511, 128), (512, 511, 9)] {
            let starts: Vec<_> = starts(length, body, wanted).collect();
            assert_eq!(starts.len(), wanted.min(length / body));
            assert!(starts.windows(2).all(|w| w[1] - w[0] >= body), "{starts:?}");
            assert!(starts.last().is_none_or(|last| last + body <= length));
        }
    }
}
