//! Reads codes, scales and zero points of a tile of outputs from the tensors they are packed in.

use std::ops::Range;

use super::{Affine, Codes, Layout, RUN, TILE};
use crate::scheme::stream::{self, Place, mask};
use crate::{Checkpoint, ElementType, decode};

/// Scales and zero points of some outputs, `[groups][outputs]`.
pub(in crate::scheme) struct Parameters {
    pub scales: Vec<f32>,
    pub zeros: Vec<u8>,
}

impl Affine {
    pub(super) fn data<'a>(&self, checkpoint: &'a Checkpoint, index: usize) -> (ElementType, &'a [u8]) {
        let info = &checkpoint.tensors()[index];
        (info.element_type, checkpoint.data(info))
    }

    /// Scales and zero points of the outputs `tile`.
    pub fn parameters(&self, checkpoint: &Checkpoint, tile: &Range<usize>) -> Parameters {
        let (element_type, scales) = self.data(checkpoint, self.scales);
        let size = element_type.block_bytes();
        let mut parameters = Parameters {
            scales: vec![0.0; self.group_count * tile.len()],
            zeros: vec![0; self.group_count * tile.len()],
        };
        if let Layout::Rows { bits, padded } = self.layout {
            let rows =
                &scales[tile.start * self.group_count * size..][..tile.len() * self.group_count * size];
            let mut by_row = vec![0.0; parameters.scales.len()];
            let known = decode::to_f32(element_type, rows, &mut by_row);
            debug_assert!(known, "the type was checked when the layer was read");
            turn(&by_row, tile.len(), &mut parameters.scales);
            match self.zero {
                Some(zero) => parameters.zeros.fill(zero),
                None => self.zeros_down(checkpoint, bits, padded, tile, &mut parameters.zeros),
            }
            return parameters;
        }
        let rows = scales.chunks_exact(self.rows * size);
        for (row, out) in rows.zip(parameters.scales.chunks_exact_mut(tile.len())) {
            let known = decode::to_f32(element_type, &row[tile.start * size..tile.end * size], out);
            debug_assert!(known, "the type was checked when the layer was read");
        }
        if let Some(zero) = self.zero {
            parameters.zeros.fill(zero);
            return parameters;
        }
        let words = self.data(checkpoint, self.qzeros).1.as_chunks::<4>().0;
        let rows = words.chunks_exact(words.len() / self.group_count);
        for (row, out) in rows.zip(parameters.zeros.chunks_exact_mut(tile.len())) {
            match self.layout {
                Layout::Gptq { bits, v2 } => {
                    let less = u8::from(!v2);
                    for (zero, o) in out.iter_mut().zip(tile.clone()) {
                        *zero = stream::code(row, o, bits).wrapping_add(less) & mask(bits);
                    }
                }
                Layout::Awq => interleaved(row, tile, out),
                Layout::Rows { .. } => {} // done above
            }
        }
        parameters
    }

    /// Zero points packed down the outputs, `[words][groups]`.
    fn zeros_down(
        &self,
        checkpoint: &Checkpoint,
        bits: u32,
        padded: bool,
        tile: &Range<usize>,
        zeros: &mut [u8],
    ) {
        let words = self.data(checkpoint, self.qzeros).1.as_chunks::<4>().0;
        let row = |word: usize| words[word * self.group_count..][..self.group_count].iter();
        for (i, o) in tile.clone().enumerate() {
            let Place { word, shift, straddles } = Layout::place(bits, padded, o);
            let out = zeros[i..].iter_mut().step_by(tile.len());
            for ((zero, low), group) in out.zip(row(word)).zip(0..) {
                let low = u32::from_le_bytes(*low) >> shift;
                let high = match straddles {
                    true => u32::from_le_bytes(words[(word + 1) * self.group_count + group]) << (32 - shift),
                    false => 0,
                };
                *zero = (low | high) as u8 & mask(bits);
            }
        }
    }

    /// Codes of some columns, at most 32, of the outputs `tile`.
    pub fn codes(
        &self,
        checkpoint: &Checkpoint,
        tile: &Range<usize>,
        columns: impl Iterator<Item = usize>,
        codes: &mut Codes,
    ) {
        let words = self.data(checkpoint, self.qweight).1.as_chunks::<4>().0;
        if let Layout::Rows { bits, padded } = self.layout {
            let mut places = [Place::default(); RUN];
            let count =
                columns.zip(&mut places).map(|(k, place)| *place = Layout::place(bits, padded, k)).count();
            let rows = words.chunks_exact(words.len() / self.rows);
            for (o, row) in rows.skip(tile.start).take(tile.len()).enumerate() {
                for (place, column) in places[..count].iter().zip(&mut *codes) {
                    column[o] = stream::code_at(row, *place, bits);
                }
            }
            return;
        }
        for (k, out) in columns.zip(codes) {
            let out = &mut out[..tile.len()];
            match self.layout {
                Layout::Rows { .. } => {} // done above
                Layout::Awq => interleaved(&words[k * (self.rows / 8)..][..self.rows / 8], tile, out),
                Layout::Gptq { bits, .. } => {
                    let place = stream::place(k, bits);
                    let row = |word| words[word * self.rows + tile.start..][..tile.len()].iter();
                    let at = |w: &[u8; 4]| u32::from_le_bytes(*w) >> place.shift;
                    if place.straddles {
                        let both = row(place.word).zip(row(place.word + 1));
                        for (q, (low, high)) in out.iter_mut().zip(both) {
                            let high = u32::from_le_bytes(*high) << (32 - place.shift);
                            *q = (at(low) | high) as u8 & mask(bits);
                        }
                    } else {
                        out.iter_mut().zip(row(place.word)).for_each(|(q, w)| *q = at(w) as u8 & mask(bits));
                    }
                }
            }
        }
    }

    /// The `N` words of each output of `tile` from the `first` on: GPTQ and compressed-tensors.
    pub(super) fn words<const N: usize>(
        &self,
        checkpoint: &Checkpoint,
        tile: &Range<usize>,
        first: usize,
        mut take: impl FnMut(usize, [[u8; 4]; N]),
    ) {
        let words = self.data(checkpoint, self.qweight).1.as_chunks::<4>().0;
        if let Layout::Rows { .. } = self.layout {
            let rows = words.chunks_exact(words.len() / self.rows).skip(tile.start).take(tile.len());
            rows.enumerate().for_each(|(o, row)| take(o, std::array::from_fn(|i| row[first + i])));
            return;
        }
        let row = |i: usize| &words[(first + i) * self.rows + tile.start..][..tile.len()];
        let rows: [_; N] = std::array::from_fn(row);
        (0..tile.len()).for_each(|o| take(o, rows.map(|row| row[o])));
    }
}

/// From `[outputs][groups]` to `[groups][outputs]`.
fn turn(by_row: &[f32], rows: usize, by_group: &mut [f32]) {
    let groups = by_row.len() / rows;
    for (g, out) in by_group.chunks_exact_mut(rows).enumerate() {
        out.iter_mut().zip(by_row[g..].iter().step_by(groups)).for_each(|(out, scale)| *out = *scale);
    }
}

/// Codes of the outputs in `tile` from a row of AWQ's words.
fn interleaved(row: &[[u8; 4]], tile: &Range<usize>, out: &mut [u8]) {
    // In the word: outputs 0 2 4 6 below, 1 3 5 7 above; each half becomes every other byte.
    let half = |x: u64| {
        let x = (x | x << 24) & 0x0000_00ff_0000_00ff;
        (x | x << 12) & 0x000f_000f_000f_000f
    };
    let bytes = |word: &[u8; 4]| {
        let word = u64::from(u32::from_le_bytes(*word));
        (half(word & 0xffff) | half(word >> 16) << 8).to_le_bytes()
    };
    let words = &row[tile.start / 8..tile.end.div_ceil(8)];
    if tile.start.is_multiple_of(8) && out.len().is_multiple_of(8) {
        out.as_chunks_mut().0.iter_mut().zip(words).for_each(|(out, word)| *out = bytes(word));
        return;
    }
    let mut buffer = [[0; 8]; TILE / 8 + 1];
    buffer.iter_mut().zip(words).for_each(|(out, word)| *out = bytes(word));
    out.copy_from_slice(&buffer.as_flattened()[tile.start % 8..][..tile.len()]);
}
