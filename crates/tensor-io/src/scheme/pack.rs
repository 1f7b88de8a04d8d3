//! GPTQ's tensors, packed: a little-endian bit stream of 32-bit words down the columns of a weight.
//!
//! ```text
//! qweight  I32 [columns bits / 32][rows]   codes, packed along the columns of the weight
//! qzeros   I32 [groups][rows bits / 32]    zero points (v1: less one), packed along the rows
//! ```
//!
//! 32 columns of codes are `bits` rows of words: a part of the columns is a part of the tensor.

use std::ops::Range;

use super::affine::{Codes, RUN, TILE, tiles};
use super::stream::{self, Place, mask, place};

/// `qweight`, little-endian, of codes `[rows][columns]`, each below `2^bits`.
///
/// # Panics
/// If `codes` has another length, or `bits` is not 1 to 8.
pub fn qweight(codes: &[u8], rows: usize, columns: usize, bits: u32) -> Vec<u8> {
    assert_eq!(codes.len(), rows * columns);
    let words = stream::words(columns, bits).unwrap_or_default();
    let mut out = vec![0; words * rows * 4];
    pack(rows, 0..columns, bits, &mut out, |tile, run, gathered| {
        for (o, row) in tile.zip(0..TILE) {
            let own = &codes[o * columns..][run.clone()];
            own.iter().zip(&mut *gathered).for_each(|(q, column)| column[row] = *q);
        }
    });
    out
}

/// `qzeros`, little-endian, of zero points `[groups][rows]`, each below `2^bits`. `v2`: as they are; otherwise
/// less one, within its own field where that is all ones: what [`super::PackedLayer::to_gptq`] refuses to write,
/// since readers disagree about it.
///
/// # Panics
/// If `zeros` is not whole groups, or `bits` is not 1 to 8.
pub fn qzeros(zeros: &[u8], rows: usize, bits: u32, v2: bool) -> Vec<u8> {
    assert!((1..=8).contains(&bits) && zeros.len().is_multiple_of(rows.max(1)));
    let less = u8::from(!v2);
    let stored = |group: &[u8]| stream::pack(group.iter().map(|z| z.wrapping_sub(less) & mask(bits)), bits);
    zeros.chunks_exact(rows.max(1)).flat_map(stored).collect()
}

/// 32-bit words that `codes` codes of `bits` bits take, `usize::MAX` if that is too many.
pub fn words(codes: usize, bits: u32) -> usize {
    stream::words(codes, bits).unwrap_or(usize::MAX)
}

/// The words of some codes, each below `2^bits`, along a row as compressed-tensors has them.
///
/// # Panics
/// If `out` is not 4 bytes a word.
pub fn row(codes: &[u8], bits: u32, out: &mut [u8]) {
    assert_eq!(Some(out.len()), stream::words(codes.len(), bits).and_then(|n| n.checked_mul(4)));
    stream::pack_into(codes, bits, out);
}

/// `weight_zero_point` of compressed-tensors, little-endian, `[words][groups]`: zero points `[groups][rows]` packed down
/// the outputs.
///
/// # Panics
/// If `zeros` is not whole groups, or `bits` is not 1 to 8.
pub fn zero_points(zeros: &[u8], rows: usize, bits: u32) -> Vec<u8> {
    assert!((1..=8).contains(&bits) && zeros.len().is_multiple_of(rows.max(1)));
    let packed: Vec<Vec<u8>> =
        zeros.chunks_exact(rows.max(1)).map(|zeros| stream::pack(zeros.iter().copied(), bits)).collect();
    let (height, groups) = (packed.first().map_or(0, |words| words.len() / 4), packed.len());
    (0..height * groups).flat_map(|i| packed[i % groups][i / groups * 4..][..4].to_vec()).collect()
}

/// Packs some columns; `gather` gives their codes by tiles of outputs and runs of columns. Columns begin
/// at a multiple of 32; `out` takes their words.
pub(super) fn pack(
    rows: usize,
    columns: Range<usize>,
    bits: u32,
    out: &mut [u8],
    gather: impl Fn(Range<usize>, Range<usize>, &mut Codes),
) {
    assert!((1..=8).contains(&bits) && columns.start.is_multiple_of(RUN));
    let out = out.as_chunks_mut::<4>().0;
    assert_eq!(Some(out.len()), stream::words(columns.len(), bits).and_then(|n| n.checked_mul(rows)));
    let mut codes = [[0; TILE]; RUN];
    for tile in tiles(0..rows) {
        for (run, out) in columns.clone().step_by(RUN).zip(out.chunks_mut(bits as usize * rows)) {
            let run = run..columns.end.min(run + RUN);
            gather(tile.clone(), run.clone(), &mut codes);
            let mut words = [[0u32; TILE]; 8];
            for (k, codes) in codes[..run.len()].iter().enumerate() {
                let Place { word, shift, straddles } = place(k, bits);
                words[word].iter_mut().zip(codes).for_each(|(w, &q)| *w |= u32::from(q) << shift);
                if straddles {
                    let high = words[word + 1].iter_mut().zip(codes);
                    high.for_each(|(w, &q)| *w |= u32::from(q) >> (32 - shift));
                }
            }
            for (words, out) in words.iter().zip(out.chunks_exact_mut(rows)) {
                out[tile.clone()].iter_mut().zip(words).for_each(|(out, w)| *out = w.to_le_bytes());
            }
        }
    }
}
