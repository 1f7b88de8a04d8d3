//! What merges pieces, of either kind of tokenizer.

use std::collections::HashSet;
use std::path::Path;

use quern_tensor_io::{Error, Result, StringArray};

use crate::tokenizer::bpe::{Bpe, BpeOptions};
use crate::tokenizer::pre_tokenizer::recognize::FileRule;
use crate::tokenizer::vocabulary::Vocabulary;

use super::SourceModel;
use super::tokenizer_json::{ByteLevelParts, SentencePieceParts};

/// With `cut`, merges of pieces that were left out are left out.
pub(super) fn finish_byte_level(
    parts: ByteLevelParts,
    model_type: Option<String>,
    pieces: &StringArray,
    cut: bool,
) -> SourceModel {
    let ByteLevelParts {
        mut merges,
        pipeline,
        ignore_merges,
        by_rank,
        normalizer,
        pre_tokenizer,
        unknown,
        ..
    } = parts;
    if cut {
        let known: HashSet<&str> = pieces.iter().collect();
        let pair = |i: usize| (merges.get(2 * i).unwrap_or(""), merges.get(2 * i + 1).unwrap_or(""));
        let pairs = (0..merges.len() / 2).map(pair);
        let fits = |(a, b): &(&str, &str)| {
            known.contains(a) && known.contains(b) && known.contains([*a, *b].concat().as_str())
        };
        merges = pairs.filter(fits).flat_map(|(a, b)| [a, b]).collect();
    }
    let unknown = find(pieces, unknown.as_deref());
    let rule = FileRule { normalizer, pre_tokenizer, ignore_merges, model_type };
    // The library looks for the whole word first, which GGUF's names of rules do not say of its vocabularies.
    let options =
        BpeOptions { ignore_merges: ignore_merges || by_rank, by_rank, unknown, ..BpeOptions::default() };
    SourceModel::ByteLevel { merges, pipeline, options, rule }
}

/// The list of merges of a SentencePiece tokenizer, and how the file says they are used.
pub(super) fn by_merges(parts: SentencePieceParts, pieces: &StringArray) -> (StringArray, BpeOptions) {
    let options = BpeOptions {
        ignore_merges: parts.ignore_merges,
        by_rank: false,
        byte_fallback: true,
        unknown: find(pieces, parts.unknown.as_deref()),
        fuse_unknown: parts.fuse_unknown,
    };
    (parts.merges, options)
}

pub(super) fn find(pieces: &StringArray, wanted: Option<&str>) -> Option<u32> {
    let wanted = wanted?;
    pieces.iter().position(|piece| piece == wanted).map(|id| id as u32)
}

/// The merges of a file; one that does not fit the vocabulary is an error, as it is for the tokenizers library.
pub(super) fn bpe(
    file: &Path,
    vocabulary: &Vocabulary,
    merges: &StringArray,
    options: BpeOptions,
) -> Result<Bpe> {
    if options.by_rank {
        return Ok(Bpe::by_rank(vocabulary, options));
    }
    let pair = |i: usize| (merges.get(2 * i).unwrap_or(""), merges.get(2 * i + 1).unwrap_or(""));
    let (bpe, _, misfit) = Bpe::new(vocabulary, (0..merges.len() / 2).map(pair), options);
    match misfit {
        None => Ok(bpe),
        Some(misfit) => {
            let (rank, piece) = (misfit.rank, misfit.piece);
            let what = format!("merge {rank} needs the piece {piece:?}, which the vocabulary does not have");
            Err(Error::malformed(file, what))
        }
    }
}
