//! Repacks rows of a layer as blocks of 32 columns; codes change only by the position of zero.
//!
//! ```text
//! q4_0   scale            q - z +  8    in nibbles
//! q5_0   scale            q - z + 16    in nibbles, fifth bits apart
//! q8_0   scale            q - z         in bytes
//! q4_1   scale  -z scale  q             in nibbles
//! ```

use std::ops::Range;

use zerocopy::{FromBytes, Immutable, KnownLayout};

use super::{Affine, Codes, Layout, RUN, TILE, tiles};
use crate::layout::{self, Block, F16, Q4_0, Q4_1, Q5_0, Q8_0, U32};
use crate::{Checkpoint, ElementType};

/// Codes of a block as it stores them, of each output.
type Packed<const N: usize> = [[u8; N]; TILE];

/// Codes of 5 bits as [`Q5_0`] stores them.
#[derive(FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Fives {
    qh: U32,
    qs: [u8; 16],
}

/// A run of columns to be packed: where it is, and what is added to each output's codes.
struct Run<'a> {
    checkpoint: &'a Checkpoint,
    tile: &'a Range<usize>,
    block: usize,
    order: Option<&'a [u32]>,
    shifts: &'a [u8],
}

impl Affine {
    /// Writes `rows` in blocks of this type, columns in this order: one that the layer's groups allow.
    pub fn blocks(
        &self,
        checkpoint: &Checkpoint,
        element_type: ElementType,
        order: Option<&[u32]>,
        rows: Range<usize>,
        out: &mut [u8],
    ) {
        match element_type {
            ElementType::Q4_0 => {
                let block = |d, _, qs: &_| Q4_0 { d, qs: *qs };
                self.place(checkpoint, order, rows, Some(8), out, Self::nibbles, block)
            }
            ElementType::Q4_1 => {
                let block = |d, m, qs: &_| Q4_1 { d, m, qs: *qs };
                self.place(checkpoint, order, rows, None, out, Self::nibbles, block)
            }
            ElementType::Q5_0 => {
                let block = |d, _, bytes: &[u8; 20]| {
                    let Fives { qh, qs } = zerocopy::transmute!(*bytes);
                    Q5_0 { d, qh, qs }
                };
                self.place(checkpoint, order, rows, Some(16), out, Self::fives, block)
            }
            ElementType::Q8_0 => {
                let block = |d, _, qs: &[u8; 32]| Q8_0 { d, qs: zerocopy::transmute!(*qs) };
                self.place(checkpoint, order, rows, Some(0), out, Self::bytes, block)
            }
            _ => crate::scheme::plain_rows(self.columns, rows, out, |rows, values| {
                self.decode(checkpoint, rows, values);
            }),
        }
    }

    /// Blocks of a scale (and minimum) and `N` bytes of codes, which `pack` packs and `block` puts together. `middle` is
    /// the code of zero; `None` if the minimum defines it.
    #[allow(clippy::too_many_arguments)]
    fn place<B: Block, const N: usize>(
        &self,
        checkpoint: &Checkpoint,
        order: Option<&[u32]>,
        rows: Range<usize>,
        middle: Option<u8>,
        out: &mut [u8],
        pack: impl Fn(&Self, Run, &mut Codes, &mut Packed<N>),
        block: impl Fn(F16, F16, &[u8; N]) -> B,
    ) {
        let row_bytes = self.columns / RUN * B::BYTES;
        let (mut codes, mut packed) = ([[0; TILE]; RUN], [[0; N]; TILE]);
        for (tile, out) in tiles(rows).zip(out.chunks_mut(TILE * row_bytes)) {
            let parameters = self.parameters(checkpoint, &tile);
            let width = tile.len();
            let head = |(&scale, &zero): (&f32, &u8)| {
                let d = F16::from_f32(scale);
                (d, F16::from_f32(-(f32::from(zero) * d.to_f32())))
            };
            let heads: Vec<_> = parameters.scales.iter().zip(&parameters.zeros).map(head).collect();
            let shift = |&zero: &u8| middle.map_or(0, |m| m.wrapping_sub(zero));
            let shifts: Vec<u8> = parameters.zeros.iter().map(shift).collect();
            for at in 0..self.columns / RUN {
                let first = order.map_or(at * RUN, |order| order[at * RUN] as usize);
                let group = self.group(first) * width;
                let shifts = &shifts[group..][..width];
                let run = Run { checkpoint, tile: &tile, block: at, order, shifts };
                pack(self, run, &mut codes, &mut packed);
                let rows = out.chunks_exact_mut(row_bytes);
                for ((row, &(d, m)), packed) in rows.zip(&heads[group..][..width]).zip(&packed) {
                    layout::blocks_mut(row)[at] = block(d, m, packed);
                }
            }
        }
    }

    fn run(&self, run: &Run, codes: &mut Codes) {
        let columns = run.block * RUN..(run.block + 1) * RUN;
        match run.order {
            None => self.codes(run.checkpoint, run.tile, columns, codes),
            Some(order) => {
                let columns = order[columns].iter().map(|&k| k as usize);
                self.codes(run.checkpoint, run.tile, columns, codes);
            }
        }
    }

    /// Whether all outputs of the run have this shift, and their codes are in words of this many bits, in order.
    fn are_words(&self, run: &Run, bits: u32, shift: u8) -> bool {
        !matches!(self.layout, Layout::Awq)
            && self.bits() == bits
            && run.order.is_none()
            && run.shifts.iter().all(|s| *s == shift)
    }

    fn nibbles(&self, run: Run, codes: &mut Codes, packed: &mut Packed<16>) {
        if self.are_words(&run, 4, 0) {
            return self.transpose_words(&run, packed);
        }
        self.run(&run, codes);
        let (low, high) = codes.split_at(RUN / 2);
        let mut bytes = [[0; TILE]; 16];
        for ((out, low), high) in bytes.iter_mut().zip(low).zip(high) {
            for (((out, low), high), shift) in out.iter_mut().zip(low).zip(high).zip(run.shifts) {
                *out = low.wrapping_add(*shift) & 15 | high.wrapping_add(*shift) << 4;
            }
        }
        transpose(&bytes, packed);
    }

    fn fives(&self, run: Run, codes: &mut Codes, packed: &mut Packed<20>) {
        self.run(&run, codes);
        let (low, high) = codes.split_at(RUN / 2);
        let mut bytes = [[0; TILE]; 20];
        let (fifths, nibbles) = bytes.split_at_mut(4);
        for ((out, low), high) in nibbles.iter_mut().zip(low).zip(high) {
            for (((out, low), high), shift) in out.iter_mut().zip(low).zip(high).zip(run.shifts) {
                *out = low.wrapping_add(*shift) & 15 | high.wrapping_add(*shift) << 4;
            }
        }
        for (out, eight) in fifths.iter_mut().zip(codes.as_chunks::<8>().0) {
            for (bit, codes) in eight.iter().enumerate() {
                for ((out, code), shift) in out.iter_mut().zip(codes).zip(run.shifts) {
                    *out |= (code.wrapping_add(*shift) >> 4 & 1) << bit;
                }
            }
        }
        transpose(&bytes, packed);
    }

    fn bytes(&self, run: Run, codes: &mut Codes, packed: &mut Packed<32>) {
        if self.are_words(&run, 8, 128) {
            return self.transpose_bytes(&run, packed);
        }
        self.run(&run, codes);
        for column in codes.iter_mut() {
            column.iter_mut().zip(run.shifts).for_each(|(q, shift)| *q = q.wrapping_add(*shift));
        }
        transpose(codes, packed);
    }

    /// Transposes the words of a block of 4-bit codes: four words to an output, of columns 0-7, 8-15, 16-23
    /// and 24-31.
    fn transpose_words(&self, run: &Run, packed: &mut Packed<16>) {
        let pair = |low, high| spread(u32::from_le_bytes(low)) | spread(u32::from_le_bytes(high)) << 4;
        self.words(run.checkpoint, run.tile, run.block * 4, |o, [a, b, c, d]| {
            let (low, high) = packed[o].split_at_mut(8);
            low.copy_from_slice(&pair(a, c).to_le_bytes());
            high.copy_from_slice(&pair(b, d).to_le_bytes());
        });
    }

    /// Transposes the words of a block of 8-bit codes, made signed: eight words to an output, four columns in each.
    fn transpose_bytes(&self, run: &Run, packed: &mut Packed<32>) {
        self.words(run.checkpoint, run.tile, run.block * (RUN / 4), |o, words: [_; RUN / 4]| {
            packed[o].iter_mut().zip(words.as_flattened()).for_each(|(out, q)| *out = q ^ 128);
        });
    }
}

/// From byte by byte to output by output.
fn transpose<const N: usize>(bytes: &[[u8; TILE]; N], packed: &mut Packed<N>) {
    for (o, packed) in packed.iter_mut().enumerate() {
        *packed = std::array::from_fn(|j| bytes[j][o]);
    }
}

/// Eight nibbles to eight bytes, the lowest first.
fn spread(word: u32) -> u64 {
    let x = u64::from(word);
    let x = (x | x << 16) & 0x0000_ffff_0000_ffff;
    let x = (x | x << 8) & 0x00ff_00ff_00ff_00ff;
    (x | x << 4) & 0x0f0f_0f0f_0f0f_0f0f
}
