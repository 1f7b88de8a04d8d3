//! Layers of integer codes with a scale and a zero point by group of columns: GPTQ and AWQ.
//!
//! ```text
//!            GPTQ, b bits                       AWQ, 4 bits
//! qweight    [in b/32][out], codes down         [in][out/8], codes along a row, a word's eight in the
//!                                               order 0 2 4 6 1 3 5 7
//! qzeros     [groups][out b/32]                 [groups][out/8], in that order too
//! scales     [groups][out]                      the same
//!
//! W[o, k] = scales[g, o] (q[k, o] - z[g, o]),  g = the group of column k
//! ```
//!
//! Both keep a column's codes of neighbouring outputs side by side, where blocks want an output's codes of
//! neighbouring columns. So [`TILE`] outputs are taken at a time, 32 columns by 32 columns: whole cache lines
//! are read, and the turn happens in the first-level cache.

use std::ops::Range;

use half::f16;

use super::BlockForm;
use super::stream::{self, mask};
use crate::{Checkpoint, ElementType, decode};

/// Outputs taken at a time. Each column's codes lie on a page of their own: many outputs a visit keep the cost of
/// address translation down.
const TILE: usize = 256;

/// Columns of a block.
const RUN: usize = 32;

/// Codes of a run of columns: `[RUN][TILE]`.
type Codes = [[u8; TILE]; RUN];

/// Where codes lie.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Layout {
    Gptq {
        bits: u32,
        /// Zero points as they are, not less one.
        v2: bool,
    },
    Awq,
}

/// Which group a column belongs to.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Groups {
    /// Column `k` to group `k / size`.
    Even(usize),
    /// As `g_idx` says, every entry below the number of groups.
    Listed(Vec<u32>),
}

/// A layer, its tensors given by their indices in [`Checkpoint::tensors`], shapes and types checked.
#[derive(Debug)]
pub(super) struct Affine {
    pub layout: Layout,
    pub rows: usize,
    pub columns: usize,
    pub group_count: usize,
    pub groups: Groups,
    pub qweight: usize,
    pub qzeros: usize,
    pub scales: usize,
    /// The zero point, where all are the same.
    pub zero: Option<u8>,
}

/// Scales and zero points of some outputs, `[groups][outputs]`.
struct Parameters {
    scales: Vec<f32>,
    zeros: Vec<u8>,
}

impl Affine {
    pub fn bits(&self) -> u32 {
        match self.layout {
            Layout::Gptq { bits, .. } => bits,
            Layout::Awq => 4,
        }
    }

    /// Whether zero points are all in the middle.
    pub fn symmetric(&self) -> bool {
        self.zero == Some(1 << (self.bits() - 1))
    }

    pub fn decode(&self, checkpoint: &Checkpoint, rows: Range<usize>, out: &mut [f32]) {
        let mut codes = [[0; TILE]; RUN];
        for (tile, out) in tiles(rows).zip(out.chunks_mut(TILE * self.columns)) {
            let parameters = self.parameters(checkpoint, &tile);
            let width = tile.len();
            for first in (0..self.columns).step_by(RUN) {
                let columns = first..self.columns.min(first + RUN);
                self.codes(checkpoint, &tile, columns.clone(), &mut codes);
                let groups: Vec<_> = columns.clone().map(|k| self.group(k) * width).collect();
                let one_group = groups.iter().all(|g| *g == groups[0]);
                for (o, row) in (0..TILE).zip(out.chunks_exact_mut(self.columns)) {
                    let own: [u8; RUN] = std::array::from_fn(|c| codes[c][o]);
                    let values = row[columns.clone()].iter_mut().zip(&own);
                    if one_group {
                        let at = groups[0] + o;
                        let (scale, zero) = (parameters.scales[at], i16::from(parameters.zeros[at]));
                        values.for_each(|(v, q)| *v = scale * f32::from(i16::from(*q) - zero));
                    } else {
                        for ((v, q), group) in values.zip(&groups) {
                            let zero = i16::from(parameters.zeros[group + o]);
                            *v = parameters.scales[group + o] * f32::from(i16::from(*q) - zero);
                        }
                    }
                }
            }
        }
    }

    pub fn block_form(&self) -> BlockForm {
        let plain = BlockForm { element_type: ElementType::F16, exact: false, permutation: None };
        if !self.columns.is_multiple_of(RUN) {
            return plain;
        }
        let permutation = match &self.groups {
            _ if self.group_count == 1 => None,
            Groups::Even(size) if size.is_multiple_of(RUN) => None,
            Groups::Even(_) => return plain,
            Groups::Listed(groups) => {
                let mut order: Vec<u32> = (0..self.columns as u32).collect();
                order.sort_by_key(|&k| groups[k as usize]);
                let group = |k: &u32| groups[*k as usize];
                if order.chunks_exact(RUN).any(|run| group(&run[0]) != group(&run[RUN - 1])) {
                    return plain;
                }
                Some(order)
            }
        };
        let element_type = match (self.bits(), self.symmetric()) {
            (2 | 3, _) | (4, true) => ElementType::Q4_0, // q - z lies within -8..=7 whatever the zero point
            (4, false) => ElementType::Q4_1,
            (8, true) => ElementType::Q8_0,
            _ => return plain,
        };
        BlockForm { element_type, exact: true, permutation }
    }

    pub fn blocks(&self, checkpoint: &Checkpoint, form: &BlockForm, rows: Range<usize>, out: &mut [u8]) {
        let order = form.permutation.as_deref();
        match form.element_type {
            ElementType::Q4_0 => self.nibbles::<2, 18>(checkpoint, order, rows, out),
            ElementType::Q4_1 => self.nibbles::<4, 20>(checkpoint, order, rows, out),
            ElementType::Q8_0 => self.bytes(checkpoint, order, rows, out),
            _ => super::plain_rows(self.columns, rows, out, |rows, values| {
                self.decode(checkpoint, rows, values);
            }),
        }
    }

    /// `q4_0` (`HEAD` = 2, codes moved so that zero is 8) or `q4_1` (`HEAD` = 4, codes as they are).
    fn nibbles<const HEAD: usize, const BLOCK: usize>(
        &self,
        checkpoint: &Checkpoint,
        order: Option<&[u32]>,
        rows: Range<usize>,
        out: &mut [u8],
    ) {
        let row_bytes = self.columns / RUN * BLOCK;
        let mut codes = [[0; TILE]; RUN];
        let mut packed = [[0; 16]; TILE];
        for (tile, out) in tiles(rows).zip(out.chunks_mut(TILE * row_bytes)) {
            let parameters = self.parameters(checkpoint, &tile);
            let width = tile.len();
            let head = |(&scale, &zero): (&f32, &u8)| -> [u8; HEAD] {
                let d = f16::from_f32(scale);
                let m = f16::from_f32(-(f32::from(zero) * d.to_f32()));
                let [d, m] = [d.to_le_bytes(), m.to_le_bytes()];
                std::array::from_fn(|i| if i < 2 { d[i] } else { m[i - 2] })
            };
            let heads: Vec<_> = parameters.scales.iter().zip(&parameters.zeros).map(head).collect();
            let shifts: Vec<u8> = match HEAD {
                2 => parameters.zeros.iter().map(|&zero| 8u8.wrapping_sub(zero)).collect(),
                _ => vec![0; parameters.zeros.len()],
            };
            let as_they_are = shifts.iter().all(|&s| s == 0);
            for block in 0..self.columns / RUN {
                let group = self.group_of_run(block * RUN, order) * width;
                if self.layout.is_gptq4() && as_they_are && order.is_none() {
                    self.turn_words(checkpoint, &tile, block, &mut packed);
                } else {
                    self.run(checkpoint, &tile, block * RUN, order, &mut codes);
                    pack(&codes, &shifts[group..][..width], &mut packed);
                }
                let rows = out.chunks_exact_mut(row_bytes);
                for ((row, head), packed) in rows.zip(&heads[group..][..width]).zip(&packed) {
                    let place = &mut row[block * BLOCK..][..BLOCK];
                    place[..HEAD].copy_from_slice(head);
                    place[HEAD..].copy_from_slice(packed);
                }
            }
        }
    }

    /// `q8_0`, zero points all 128.
    fn bytes(&self, checkpoint: &Checkpoint, order: Option<&[u32]>, rows: Range<usize>, out: &mut [u8]) {
        const BLOCK: usize = 34;
        let row_bytes = self.columns / RUN * BLOCK;
        let mut codes = [[0; TILE]; RUN];
        let mut packed = [[0; RUN]; TILE];
        for (tile, out) in tiles(rows).zip(out.chunks_mut(TILE * row_bytes)) {
            let parameters = self.parameters(checkpoint, &tile);
            let width = tile.len();
            for block in 0..self.columns / RUN {
                let group = self.group_of_run(block * RUN, order) * width;
                if order.is_none() {
                    self.turn_bytes(checkpoint, &tile, block, &mut packed);
                } else {
                    self.run(checkpoint, &tile, block * RUN, order, &mut codes);
                    for (o, packed) in packed.iter_mut().enumerate() {
                        *packed = std::array::from_fn(|c| codes[c][o] ^ 128);
                    }
                }
                let rows = out.chunks_exact_mut(row_bytes);
                for ((row, scale), packed) in rows.zip(&parameters.scales[group..][..width]).zip(&packed) {
                    let place = &mut row[block * BLOCK..][..BLOCK];
                    place[..2].copy_from_slice(&f16::from_f32(*scale).to_le_bytes());
                    place[2..].copy_from_slice(packed);
                }
            }
        }
    }

    fn group(&self, column: usize) -> usize {
        match &self.groups {
            Groups::Even(size) => column / size,
            Groups::Listed(groups) => groups[column] as usize,
        }
    }

    fn group_of_run(&self, first: usize, order: Option<&[u32]>) -> usize {
        self.group(order.map_or(first, |order| order[first] as usize))
    }

    fn data<'a>(&self, checkpoint: &'a Checkpoint, index: usize) -> (ElementType, &'a [u8]) {
        let info = &checkpoint.tensors()[index];
        (info.element_type, checkpoint.data(info))
    }

    fn parameters(&self, checkpoint: &Checkpoint, tile: &Range<usize>) -> Parameters {
        let (element_type, scales) = self.data(checkpoint, self.scales);
        let size = element_type.block_bytes();
        let mut parameters = Parameters {
            scales: vec![0.0; self.group_count * tile.len()],
            zeros: vec![0; self.group_count * tile.len()],
        };
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
            }
        }
        parameters
    }

    /// Codes of the 32 columns of a block.
    fn run(
        &self,
        checkpoint: &Checkpoint,
        tile: &Range<usize>,
        first: usize,
        order: Option<&[u32]>,
        codes: &mut Codes,
    ) {
        match order {
            None => self.codes(checkpoint, tile, first..first + RUN, codes),
            Some(order) => {
                self.codes(checkpoint, tile, order[first..][..RUN].iter().map(|&k| k as usize), codes)
            }
        }
    }

    /// Codes of some columns, at most 32.
    fn codes(
        &self,
        checkpoint: &Checkpoint,
        tile: &Range<usize>,
        columns: impl Iterator<Item = usize>,
        codes: &mut Codes,
    ) {
        let words = self.data(checkpoint, self.qweight).1.as_chunks::<4>().0;
        for (k, out) in columns.zip(codes) {
            let out = &mut out[..tile.len()];
            match self.layout {
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

    /// Turns the words of a block of 4-bit codes: four words to an output, of columns 0-7, 8-15, 16-23
    /// and 24-31.
    fn turn_words(
        &self,
        checkpoint: &Checkpoint,
        tile: &Range<usize>,
        block: usize,
        packed: &mut [[u8; 16]; TILE],
    ) {
        let words = self.data(checkpoint, self.qweight).1.as_chunks::<4>().0;
        let row = |i: usize| &words[(block * 4 + i) * self.rows + tile.start..][..tile.len()];
        let rows = row(0).iter().zip(row(1)).zip(row(2)).zip(row(3));
        for ((((a, b), c), d), out) in rows.zip(packed) {
            let pair = |low: &[u8; 4], high: &[u8; 4]| {
                spread(u32::from_le_bytes(*low)) | spread(u32::from_le_bytes(*high)) << 4
            };
            out[..8].copy_from_slice(&pair(a, c).to_le_bytes());
            out[8..].copy_from_slice(&pair(b, d).to_le_bytes());
        }
    }

    /// Turns the words of a block of 8-bit codes, made signed: eight words to an output, four columns in each.
    fn turn_bytes(
        &self,
        checkpoint: &Checkpoint,
        tile: &Range<usize>,
        block: usize,
        packed: &mut [[u8; RUN]; TILE],
    ) {
        let words = self.data(checkpoint, self.qweight).1.as_chunks::<4>().0;
        for i in 0..RUN / 4 {
            let row = &words[(block * (RUN / 4) + i) * self.rows + tile.start..][..tile.len()];
            for (out, word) in packed.iter_mut().zip(row) {
                out[i * 4..i * 4 + 4].copy_from_slice(&word.map(|q| q ^ 128));
            }
        }
    }
}

impl Layout {
    fn is_gptq4(self) -> bool {
        matches!(self, Self::Gptq { bits: 4, .. })
    }
}

/// `rows` in pieces of at most [`TILE`].
fn tiles(rows: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let end = rows.end;
    rows.step_by(TILE).map(move |start| start..end.min(start + TILE))
}

/// Eight nibbles to eight bytes, the lowest first.
fn spread(word: u32) -> u64 {
    let x = u64::from(word);
    let x = (x | x << 16) & 0x0000_ffff_0000_ffff;
    let x = (x | x << 8) & 0x00ff_00ff_00ff_00ff;
    (x | x << 4) & 0x0f0f_0f0f_0f0f_0f0f
}

/// Codes of the outputs in `tile` from a row of AWQ's words.
fn interleaved(row: &[[u8; 4]], tile: &Range<usize>, out: &mut [u8]) {
    // In the word: outputs 0 2 4 6 below, 1 3 5 7 above; each half goes to every other byte.
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

/// Nibbles of a block, turned, each moved by its output's shift.
fn pack(codes: &Codes, shifts: &[u8], packed: &mut [[u8; 16]; TILE]) {
    let (low, high) = codes.split_at(RUN / 2);
    let mut bytes = [[0; TILE]; 16];
    for ((out, low), high) in bytes.iter_mut().zip(low).zip(high) {
        for (((out, low), high), shift) in out.iter_mut().zip(low).zip(high).zip(shifts) {
            *out = low.wrapping_add(*shift) | high.wrapping_add(*shift) << 4;
        }
    }
    for (o, packed) in packed.iter_mut().enumerate() {
        *packed = std::array::from_fn(|j| bytes[j][o]);
    }
}
