//! Unpacks blocks of 16 weight rows to a [`Tile`].
//!
//! The raw words are transposed first, so that lane r of every vector is row r, and unpacked after: masks
//! and shifts on whole vectors, no shuffles, the same code at every level. A 4-byte word of packed
//! codes becomes 2 or 4 words of codes, each 4 consecutive values, which is the order tiles have. Only the
//! points of grid types are looked up row by row, and transposed after.

use std::mem::offset_of;

use quern_tensor_io::ElementType;
use quern_tensor_io::layout::{
    self, FP4, IQ1M, IQ1S, IQ2S, IQ2XS, IQ2XXS, IQ3S, IQ3XXS, IQ4NL, IQ4XS, MXFP4, NF4, NVFP4, Q1_0, Q2_0,
    Q2K, Q3K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0, TQ1_0, TQ2_0,
};

mod grid;
mod k;
mod mid;

use super::vectors::{VectorOp, Vectors, Words, dispatch};
use super::{DEPTH, Tile, transpose};
use crate::Matrix;
use crate::block::{self, e8m0_half, grid_types, no_block, tables};
use crate::dot::grid_codes;
use crate::simd::Level;

/// The zero point of q3_K's tiles: codes are `(scale - 32) * (q - 4) + 124`, from 0 to 252.
pub(super) const Q3_ZERO: i32 = 124;

/// Transposed blocks: 8 of 32 values, one after the other, 4 of 64, 2 of 128 or one of 256.
pub(super) struct Raw {
    /// Packed codes, in runs of 4 words.
    words: [Words; 64],
    /// The rest: scales and what does not come in fours.
    head: [Words; 16],
}

impl Raw {
    pub(super) const ZERO: Raw = Raw { words: [[0; 16]; 64], head: [[0; 16]; 16] };
}

/// Words of a block: runs (byte, words) of packed codes, and bytes of single words.
type Places = (&'static [(usize, usize)], &'static [usize]);

/// The words of a block from one field up to another one or its end.
macro_rules! run {
    ($block:ident, $first:ident) => {
        (offset_of!($block, $first), (size_of::<$block>() - offset_of!($block, $first)) / 4)
    };
    ($block:ident, $first:ident, $end:ident) => {
        (offset_of!($block, $first), (offset_of!($block, $end) - offset_of!($block, $first)) / 4)
    };
}

/// Which words of a block its unpacking needs. Runs come in fours of words; a single word holds the field it begins
/// with, and whatever follows.
fn places(element_type: ElementType) -> Places {
    use ElementType as T;
    /// Words of eight tails, one word from the next `step` bytes away.
    const fn tails(d: usize, first: usize, step: usize) -> [usize; 9] {
        let mut at = [d; 9];
        let mut i = 0;
        while i < 8 {
            at[1 + i] = first + i * step;
            i += 1;
        }
        at
    }
    const IQ2XXS_TAILS: [usize; 9] = tails(
        offset_of!(IQ2XXS, d),
        offset_of!(IQ2XXS, qs) + offset_of!(layout::grid::IndicesTail, tail),
        size_of::<layout::grid::IndicesTail>(),
    );
    const IQ3XXS_TAILS: [usize; 9] =
        tails(offset_of!(IQ3XXS, d), offset_of!(IQ3XXS, tails), size_of::<layout::grid::Tail>());
    const IQ1S_QH: usize = offset_of!(IQ1S, qh);
    match element_type {
        T::Q4_0 => (&[run!(Q4_0, qs)], &[offset_of!(Q4_0, d)]),
        T::IQ4NL => (&[run!(IQ4NL, qs)], &[offset_of!(IQ4NL, d)]),
        T::NF4 => (&[run!(NF4, qs)], &[offset_of!(NF4, d)]),
        T::FP4 => (&[run!(FP4, qs)], &[offset_of!(FP4, d)]),
        // d, and m after it.
        T::Q4_1 => (&[run!(Q4_1, qs)], &[offset_of!(Q4_1, d)]),
        T::Q5_0 => (&[run!(Q5_0, qs)], &[offset_of!(Q5_0, d), offset_of!(Q5_0, qh)]),
        T::Q5_1 => (&[run!(Q5_1, qs)], &[offset_of!(Q5_1, d), offset_of!(Q5_1, qh)]),
        T::Q8_0 => (&[run!(Q8_0, qs)], &[offset_of!(Q8_0, d)]),
        T::MXFP4 => (&[run!(MXFP4, qs)], &[offset_of!(MXFP4, e)]),
        T::Q1_0 => (&[run!(Q1_0, qs)], &[offset_of!(Q1_0, d)]),
        T::Q2_0 => (&[run!(Q2_0, qs)], &[offset_of!(Q2_0, d)]),
        T::NVFP4 => (&[run!(NVFP4, qs)], &[offset_of!(NVFP4, d)]),
        // What `k` reads by the names of fields: runs from the beginning of the block on.
        T::Q2K => (&[run!(Q2K, scales, d)], &[offset_of!(Q2K, d)]),
        T::Q3K => (&[run!(Q3K, hmask, scales), (offset_of!(Q3K, scales) - 4, 4)], &[offset_of!(Q3K, d)]),
        T::Q4K => (&[run!(Q4K, d)], &[]),
        T::Q5K => (&[run!(Q5K, d)], &[]),
        T::Q6K => (&[run!(Q6K, ql, d)], &[offset_of!(Q6K, d)]),
        T::IQ4XS => (&[run!(IQ4XS, qs)], &[offset_of!(IQ4XS, d), offset_of!(IQ4XS, scales_l)]),
        T::TQ1_0 => (&[run!(TQ1_0, qs, qh)], &[offset_of!(TQ1_0, qh), offset_of!(TQ1_0, d)]),
        T::TQ2_0 => (&[run!(TQ2_0, qs, d)], &[offset_of!(TQ2_0, d)]),
        // Scales only: the codes come row by row.
        T::IQ2XXS => (&[], &IQ2XXS_TAILS),
        T::IQ2XS => (&[], &[offset_of!(IQ2XS, d), offset_of!(IQ2XS, scales), offset_of!(IQ2XS, scales) + 4]),
        T::IQ2S => (&[], &[offset_of!(IQ2S, d), offset_of!(IQ2S, scales), offset_of!(IQ2S, scales) + 4]),
        T::IQ3XXS => (&[], &IQ3XXS_TAILS),
        T::IQ3S => (&[], &[offset_of!(IQ3S, d), offset_of!(IQ3S, scales)]),
        T::IQ1S => (&[], &[offset_of!(IQ1S, d), IQ1S_QH, IQ1S_QH + 4, IQ1S_QH + 8, IQ1S_QH + 12]),
        T::IQ1M => (&[], &[offset_of!(IQ1M, scales), offset_of!(IQ1M, scales) + 4]),
        no_block!() => (&[], &[]),
    }
}

/// Unpacks rows `first .. first + 16` (the last row again where there are fewer), columns
/// `256 * depth ..`; where a row ends earlier, scales and offsets are 0.
pub(super) fn tile(level: Level, w: &Matrix, first: usize, depth: usize, raw: &mut Raw, tile: &mut Tile) {
    let element_type = w.element_type();
    let (block, bytes) = (element_type.block_elements(), element_type.block_bytes());
    let begin = depth * DEPTH / block * bytes;
    let blocks = (DEPTH / block).min((w.row_bytes() - begin) / bytes);
    let rows: [&[u8]; 16] =
        std::array::from_fn(|r| &w.row((first + r).min(w.rows() - 1))[begin..begin + blocks * bytes]);
    let (runs, singles) = places(element_type);
    let (mut word, mut head) = (0, 0);
    for b in 0..blocks {
        for &(at, count) in runs {
            let out = raw.words[word..word + count].as_flattened_mut();
            transpose::words(level, &rows, b * bytes + at, count, out, 16);
            word += count;
        }
        for &at in singles {
            raw.head[head] = transpose::heads(level, &rows, b * bytes + at, bytes - at);
            head += 1;
        }
    }
    dispatch(level, Unpack { element_type, raw, blocks, tile });
    if block::grid::constants(element_type).is_some() {
        let mut codes = [[0u8; DEPTH]; 16];
        grid_codes(level, element_type, rows, &mut codes);
        transpose::words(level, &codes.each_ref().map(|c| &c[..]), 0, 64, tile.codes.as_flattened_mut(), 16);
    }
    let table = match element_type {
        ElementType::IQ4NL | ElementType::IQ4XS => tables::IQ4.map(|v| v as u8 ^ 0x80),
        ElementType::NF4 => tables::NF4.map(|v| v as u8 ^ 0x80),
        ElementType::FP4 => tables::FP4.map(|v| v as u8 ^ 0x80),
        ElementType::MXFP4 | ElementType::NVFP4 => tables::MXFP4.map(|v| (v + 12) as u8),
        ElementType::Q4_0 | ElementType::Q4_1 | ElementType::Q5_0 | ElementType::Q5_1 | ElementType::Q8_0 => {
            return;
        }
        ElementType::Q1_0 | ElementType::Q2_0 | ElementType::TQ1_0 | ElementType::TQ2_0 => return,
        ElementType::Q2K | ElementType::Q3K | ElementType::Q4K | ElementType::Q5K | ElementType::Q6K => {
            return;
        }
        grid_types!() | no_block!() => return,
    };
    look_up(level, &table, &mut tile.codes);
}

/// Replaces every code by its entry.
fn look_up(level: Level, table: &[u8; 16], codes: &mut [Words; 64]) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::*;
        #[target_feature(enable = "avx2")]
        fn avx2(table: &[u8; 16], codes: &mut [Words; 64]) {
            // SAFETY: 16 bytes; 32 bytes at a time of memory that is a multiple of 32 long.
            unsafe {
                let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
                for half in codes.as_flattened_mut().as_chunks_mut::<8>().0 {
                    let p = half.as_mut_ptr().cast();
                    _mm256_storeu_si256(p, _mm256_shuffle_epi8(table, _mm256_loadu_si256(p)));
                }
            }
        }
        if level.here() >= Level::Avx2 {
            // SAFETY: the CPU has AVX2.
            return unsafe { avx2(table, codes) };
        }
    }
    let _ = level;
    for word in codes.as_flattened_mut() {
        *word = u32::from_le_bytes(word.to_le_bytes().map(|code| table[usize::from(code & 15)]));
    }
}

struct Unpack<'a> {
    element_type: ElementType,
    raw: &'a Raw,
    blocks: usize,
    tile: &'a mut Tile,
}

const NIBBLES: u32 = 0x0f0f_0f0f;
const CRUMBS: u32 = 0x0303_0303;
const BITS: u32 = 0x0101_0101;

impl VectorOp for Unpack<'_> {
    #[inline(always)]
    fn call<S: Vectors>(self, s: S) {
        let Self { element_type, raw, blocks, tile } = self;
        let w = &raw.words;
        match element_type {
            ElementType::Q2K => k::q2_k(s, w, &raw.head[0], tile),
            ElementType::Q3K => k::q3_k(s, w, &raw.head[0], tile),
            ElementType::Q4K => k::q4_k(s, w, tile),
            ElementType::Q5K => k::q5_k(s, w, tile),
            ElementType::Q6K => k::q6_k(s, w, &raw.head[0], tile),
            ElementType::IQ4XS => k::iq4_xs(s, w, &raw.head, tile),
            ElementType::TQ1_0 => k::tq1_0(s, w, &raw.head, tile),
            ElementType::TQ2_0 => k::tq2_0(s, w, &raw.head[0], tile),
            grid_types!() => grid::scales(s, element_type, &raw.head, tile),
            ElementType::Q1_0 => {
                for b in 0..blocks {
                    mid::q1_0(s, raw, b, tile);
                }
                tile.scale[4 * blocks..].fill([0.0; 16]);
            }
            ElementType::Q2_0 => {
                for b in 0..blocks {
                    mid::q2_0(s, raw, b, tile);
                }
                tile.scale[2 * blocks..].fill([0.0; 16]);
            }
            ElementType::NVFP4 => {
                for b in 0..blocks {
                    mid::nvfp4(s, raw, b, tile);
                }
                tile.scale[4 * blocks..].fill([0.0; 16]);
            }
            ElementType::Q4_0
            | ElementType::Q4_1
            | ElementType::Q5_0
            | ElementType::Q5_1
            | ElementType::Q8_0
            | ElementType::IQ4NL
            | ElementType::MXFP4
            | ElementType::NF4
            | ElementType::FP4 => {
                for b in 0..blocks {
                    small(s, element_type, raw, b, tile);
                }
                for b in blocks..8 {
                    tile.scale[b] = [0.0; 16];
                    tile.offset[b] = [0.0; 16];
                }
            }
            no_block!() => debug_assert!(false, "{element_type} has no tiles"),
        }
    }
}

/// One of eight blocks of 32.
#[inline(always)]
fn small<S: Vectors>(s: S, element_type: ElementType, raw: &Raw, b: usize, tile: &mut Tile) {
    use ElementType as T;
    let five_bits = matches!(element_type, T::Q5_0 | T::Q5_1);
    let (run, singles) = (if element_type == T::Q8_0 { 8 } else { 4 }, if five_bits { 2 } else { 1 });
    let words = &raw.words[b * run..][..run];
    let head = &raw.head[b * singles..][..singles];
    let first = s.load(&head[0]);
    s.store_numbers(s.halves(first), &mut tile.scale[b]);
    match element_type {
        T::MXFP4 => tile.scale[b] = head[0].map(|e| e8m0_half(e as u8)),
        T::NF4 => tile.scale[b].iter_mut().for_each(|d| *d *= tables::NF4_STEP),
        T::FP4 => tile.scale[b].iter_mut().for_each(|d| *d *= tables::FP4_STEP),
        T::Q4_1 | T::Q5_1 => s.store_numbers(s.halves(s.shr(first, 16)), &mut tile.offset[b]),
        T::Q4_0 | T::Q5_0 | T::Q8_0 | T::IQ4NL => {}
        _ => unreachable!("{element_type} has no blocks of 32"),
    }
    let codes = &mut tile.codes[8 * b..8 * b + 8];
    if element_type == T::Q8_0 {
        for (word, code) in words.iter().zip(codes) {
            s.store(s.xor(s.load(word), s.splat(0x8080_8080)), code);
        }
        return;
    }
    for i in 0..4 {
        let x = s.load(&words[i]);
        let (mut low, mut high) = (s.mask(x, NIBBLES), s.mask(s.shr(x, 4), NIBBLES));
        if five_bits {
            let bits = s.load(&head[singles - 1]);
            low = s.or(low, s.shl(four_bits(s, bits, i), 4));
            high = s.or(high, s.shl(four_bits(s, bits, i + 4), 4));
        }
        s.store(low, &mut codes[i]);
        s.store(high, &mut codes[i + 4]);
    }
}

/// Bits 4 i .. 4 i + 4 to the low bits of four bytes.
#[inline(always)]
fn four_bits<S: Vectors>(s: S, x: S::U, i: usize) -> S::U {
    s.mask(s.mul(s.mask(s.shr(x, 4 * i), 15), s.splat(0x0020_4081)), BITS)
}

/// Byte j of words.
#[inline(always)]
fn byte<S: Vectors>(s: S, words: &[Words], j: usize) -> S::U {
    s.mask(s.shr(s.load(&words[j / 4]), j % 4 * 8), 255)
}
