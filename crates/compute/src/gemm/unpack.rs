//! Blocks of 16 weight rows to a [`Tile`].
//!
//! The raw words are transposed first, so that lane r of every vector is row r, and unpacked after: masks
//! and shifts on whole vectors, no shuffles, the same code at every level. A 4-byte word of packed
//! codes becomes 2 or 4 words of codes, each 4 consecutive values, which is the order tiles have. Only the
//! points of grid types are looked up row by row, and transposed after.

use quern_tensor_io::ElementType;

mod grid;
mod mid;

use super::vectors::{VectorOp, Vectors, Words, dispatch};
use super::{DEPTH, Tile, transpose};
use crate::Matrix;
use crate::block::{self, e8m0_half, tables};
use crate::dot::grid_codes;
use crate::simd::Level;

/// What stands for 0 in q3_K's tiles: codes are `(scale - 32) * (q - 4) + 124`, from 0 to 252.
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

/// Where a type's words lie in a block: runs (byte, words) of packed codes, and bytes of single words.
fn places(element_type: ElementType) -> (&'static [(usize, usize)], &'static [usize]) {
    use ElementType as T;
    match element_type {
        T::Q4_0 | T::IQ4NL | T::NF4 | T::FP4 => (&[(2, 4)], &[0]),
        T::Q4_1 => (&[(4, 4)], &[0]),
        T::Q5_0 => (&[(6, 4)], &[0, 2]),
        T::Q5_1 => (&[(8, 4)], &[0, 4]),
        T::Q8_0 => (&[(2, 8)], &[0]),
        T::MXFP4 => (&[(1, 4)], &[0]),
        T::Q2K => (&[(0, 20)], &[80]),
        T::Q3K => (&[(0, 24), (92, 4)], &[108]),
        T::Q4K => (&[(0, 36)], &[]),
        T::Q5K => (&[(0, 44)], &[]),
        T::Q6K => (&[(0, 52)], &[208]),
        T::IQ4XS => (&[(8, 32)], &[0, 4]),
        T::TQ1_0 => (&[(0, 12)], &[48, 52]),
        T::TQ2_0 => (&[(0, 16)], &[64]),
        T::Q1_0 | T::Q2_0 => (&[(2, 4)], &[0]),
        T::NVFP4 => (&[(4, 8)], &[0]),
        // Scales only: the codes come row by row.
        T::IQ2XXS => (&[], &[0, 6, 14, 22, 30, 38, 46, 54, 62]),
        T::IQ2XS => (&[], &[0, 66, 70]),
        T::IQ2S => (&[], &[0, 74, 78]),
        T::IQ3XXS => (&[], &[0, 66, 70, 74, 78, 82, 86, 90, 94]),
        T::IQ3S => (&[], &[0, 106]),
        T::IQ1S => (&[], &[0, 34, 38, 42, 46]),
        T::IQ1M => (&[], &[48, 52]),
        _ => (&[], &[]),
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
    if block::grid::zero(element_type).is_some() {
        let mut codes = [[0u8; DEPTH]; 16];
        grid_codes(level, element_type, rows, &mut codes);
        transpose::words(level, &codes.each_ref().map(|c| &c[..]), 0, 64, tile.codes.as_flattened_mut(), 16);
    }
    let table = match element_type {
        ElementType::IQ4NL | ElementType::IQ4XS => tables::IQ4.map(|v| v as u8 ^ 0x80),
        ElementType::NF4 => tables::NF4.map(|v| v as u8 ^ 0x80),
        ElementType::FP4 => tables::FP4.map(|v| v as u8 ^ 0x80),
        ElementType::MXFP4 | ElementType::NVFP4 => tables::MXFP4.map(|v| (v + 12) as u8),
        _ => return,
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
        if level.min(Level::best()) >= Level::Avx2 {
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
const EVEN: u32 = 0x00ff_00ff;

impl VectorOp for Unpack<'_> {
    #[inline(always)]
    fn call<S: Vectors>(self, s: S) {
        let Self { element_type, raw, blocks, tile } = self;
        let w = &raw.words;
        match element_type {
            ElementType::Q2K => q2_k(s, w, &raw.head[0], tile),
            ElementType::Q3K => q3_k(s, w, &raw.head[0], tile),
            ElementType::Q4K => q4_k(s, w, tile),
            ElementType::Q5K => q5_k(s, w, tile),
            ElementType::Q6K => q6_k(s, w, &raw.head[0], tile),
            ElementType::IQ4XS => iq4_xs(s, w, &raw.head, tile),
            ElementType::TQ1_0 => tq1_0(s, w, &raw.head, tile),
            ElementType::TQ2_0 => {
                s.store_numbers(s.halves(s.load(&raw.head[0])), &mut tile.scale[0]);
                crumbs(s, w, &mut tile.codes);
            }
            _ if block::grid::zero(element_type).is_some() => {
                grid::scales(s, element_type, &raw.head, tile);
            }
            ElementType::Q1_0 | ElementType::Q2_0 | ElementType::NVFP4 => {
                (0..blocks).for_each(|b| mid::block(s, element_type, raw, b, tile));
                let sub = if element_type == ElementType::NVFP4 { 16 } else { 32 };
                tile.scale[blocks * element_type.block_elements() / sub..].fill([0.0; 16]);
            }
            small => {
                for b in 0..blocks {
                    self::small(s, small, raw, b, tile);
                }
                for b in blocks..8 {
                    tile.scale[b] = [0.0; 16];
                    tile.offset[b] = [0.0; 16];
                }
            }
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
        _ => {}
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

/// Byte j of a run of words.
#[inline(always)]
fn byte<S: Vectors>(s: S, words: &[Words], j: usize) -> S::U {
    s.mask(s.shr(s.load(&words[j / 4]), j % 4 * 8), 255)
}

/// The scales and minima of q4_K and q5_K.
#[inline(always)]
fn scales_6bit<S: Vectors>(s: S, w: &[Words; 64], tile: &mut Tile) {
    let first = s.load(&w[0]);
    let d = s.halves(first);
    let dmin = s.halves(s.xor(s.shr(first, 16), s.splat(0x8000)));
    let packed = &w[1..4];
    for j in 0..4 {
        let (low, mid, high) = (byte(s, packed, j), byte(s, packed, j + 4), byte(s, packed, j + 8));
        let (top_scale, top_min) = (s.shl(s.shr(low, 6), 4), s.shl(s.shr(mid, 6), 4));
        let pairs = [
            (j, s.mask(low, 63), s.mask(mid, 63)),
            (j + 4, s.or(s.mask(high, 15), top_scale), s.or(s.shr(high, 4), top_min)),
        ];
        for (j, scale, min) in pairs {
            s.store_numbers(s.times(d, s.numbers(scale)), &mut tile.scale[j]);
            s.store_numbers(s.times(dmin, s.numbers(min)), &mut tile.offset[j]);
        }
    }
}

#[inline(always)]
fn q4_k<S: Vectors>(s: S, w: &[Words; 64], tile: &mut Tile) {
    scales_6bit(s, w, tile);
    for g in 0..4 {
        for i in 0..8 {
            let x = s.load(&w[4 + 8 * g + i]);
            s.store(s.mask(x, NIBBLES), &mut tile.codes[16 * g + i]);
            s.store(s.mask(s.shr(x, 4), NIBBLES), &mut tile.codes[16 * g + 8 + i]);
        }
    }
}

#[inline(always)]
fn q5_k<S: Vectors>(s: S, w: &[Words; 64], tile: &mut Tile) {
    scales_6bit(s, w, tile);
    for g in 0..4 {
        for i in 0..8 {
            let (x, h) = (s.load(&w[12 + 8 * g + i]), s.load(&w[4 + i]));
            for k in 0..2 {
                let fifth = s.shl(s.mask(s.shr(h, 2 * g + k), BITS), 4);
                let code = s.or(s.mask(s.shr(x, 4 * k), NIBBLES), fifth);
                s.store(code, &mut tile.codes[16 * g + 8 * k + i]);
            }
        }
    }
}

/// Signed scales under one d: `d * scale[j]`.
#[inline(always)]
fn signed_scale<S: Vectors>(s: S, d: S::F, scale: S::U, tile: &mut Tile, j: usize) {
    s.store_numbers(s.times(d, s.numbers(scale)), &mut tile.scale[j]);
}

#[inline(always)]
fn q6_k<S: Vectors>(s: S, w: &[Words; 64], d: &Words, tile: &mut Tile) {
    let d = s.halves(s.load(d));
    for j in 0..16 {
        // Sign-extended: (b ^ 128) - 128.
        let b = s.xor(byte(s, &w[48..52], j), s.splat(128));
        signed_scale(s, d, s.add(b, s.splat(128u32.wrapping_neg())), tile, j);
    }
    for half in 0..2 {
        for i in 0..8 {
            let (a, b) = (s.load(&w[16 * half + i]), s.load(&w[16 * half + 8 + i]));
            let h = s.load(&w[32 + 8 * half + i]);
            for (k, low) in [a, b, s.shr(a, 4), s.shr(b, 4)].into_iter().enumerate() {
                let high = s.mask(s.shr(h, 2 * k), CRUMBS);
                let code = s.or(s.mask(low, NIBBLES), s.shl(high, 4));
                s.store(code, &mut tile.codes[32 * half + 8 * k + i]);
            }
        }
    }
}

/// Two-bit codes.
#[inline(always)]
fn crumbs<S: Vectors>(s: S, qs: &[Words], codes: &mut [Words; 64]) {
    for half in 0..2 {
        for i in 0..8 {
            let x = s.load(&qs[8 * half + i]);
            for k in 0..4 {
                s.store(s.mask(s.shr(x, 2 * k), CRUMBS), &mut codes[32 * half + 8 * k + i]);
            }
        }
    }
}

#[inline(always)]
fn q2_k<S: Vectors>(s: S, w: &[Words; 64], d: &Words, tile: &mut Tile) {
    let d = s.load(d);
    s.store_numbers(s.halves(d), &mut tile.scale[0]);
    let dmin = s.halves(s.xor(s.shr(d, 16), s.splat(0x8000)));
    crumbs(s, &w[4..20], &mut tile.codes);
    for j in 0..16 {
        let packed = byte(s, &w[..4], j);
        let scale = s.mask(packed, 15);
        s.store_numbers(s.times(dmin, s.numbers(s.shr(packed, 4))), &mut tile.offset[j]);
        // At most 3 * 15 = 45: no carry from one byte to the next.
        for q in &mut tile.codes[4 * j..4 * j + 4] {
            s.store(s.mul(s.load(q), scale), q);
        }
    }
}

#[inline(always)]
fn q3_k<S: Vectors>(s: S, w: &[Words; 64], d: &Words, tile: &mut Tile) {
    s.store_numbers(s.halves(s.load(d)), &mut tile.scale[0]);
    let packed = &w[25..28];
    crumbs(s, &w[8..24], &mut tile.codes);
    for j in 0..16 {
        let low = s.mask(s.shr(byte(s, packed, j % 8), j / 8 * 4), 15);
        let high = s.mask(s.shr(byte(s, packed, 8 + j % 4), j / 4 * 2), 3);
        let scale = s.add(s.or(low, s.shl(high, 4)), s.splat(32u32.wrapping_neg()));
        // scale (q - 4) + 124, two bytes at a time in 16-bit halves: linear, so that borrows between the
        // halves cancel.
        let offset = s.add(s.mul(scale, s.splat(4u32.wrapping_neg())), s.splat(Q3_ZERO as u32));
        let offset = s.mul(offset, s.splat(0x0001_0001));
        for step in 4 * j..4 * j + 4 {
            let third = s.shl(s.mask(s.shr(s.load(&w[step % 8]), step / 8), BITS), 2);
            let q = s.or(s.load(&tile.codes[step]), third);
            let even = s.add(s.mul(s.mask(q, EVEN), scale), offset);
            let odd = s.add(s.mul(s.mask(s.shr(q, 8), EVEN), scale), offset);
            s.store(s.or(even, s.shl(odd, 8)), &mut tile.codes[step]);
        }
    }
}

#[inline(always)]
fn iq4_xs<S: Vectors>(s: S, w: &[Words; 64], head: &[Words; 16], tile: &mut Tile) {
    let (first, low) = (s.load(&head[0]), s.load(&head[1]));
    let d = s.halves(first);
    for j in 0..8 {
        let high = s.mask(s.shr(first, 16 + 2 * j), 3);
        let scale = s.or(s.mask(s.shr(low, 4 * j), 15), s.shl(high, 4));
        signed_scale(s, d, s.add(scale, s.splat(32u32.wrapping_neg())), tile, j);
        for i in 0..4 {
            let x = s.load(&w[4 * j + i]);
            s.store(s.mask(x, NIBBLES), &mut tile.codes[8 * j + i]);
            s.store(s.mask(s.shr(x, 4), NIBBLES), &mut tile.codes[8 * j + 4 + i]);
        }
    }
}

/// One trit of every other byte.
#[inline(always)]
fn half_the_trits<S: Vectors>(s: S, x: S::U, power: u32) -> S::U {
    // The fraction's low byte times 3: its carry is the trit.
    let fraction = s.mask(s.mul(s.mask(x, EVEN), s.splat(power)), EVEN);
    s.mask(s.shr(s.mul(fraction, s.splat(3)), 8), EVEN)
}

/// One trit of each byte.
#[inline(always)]
fn trits<S: Vectors>(s: S, x: &Words, power: u32) -> S::U {
    let x = s.load(x);
    s.or(half_the_trits(s, x, power), s.shl(half_the_trits(s, s.shr(x, 8), power), 8))
}

#[inline(always)]
fn tq1_0<S: Vectors>(s: S, w: &[Words; 64], head: &[Words; 16], tile: &mut Tile) {
    s.store_numbers(s.halves(s.load(&head[1])), &mut tile.scale[0]);
    for (t, power) in [1, 3, 9, 27, 81].into_iter().enumerate() {
        for (i, w) in w[..8].iter().enumerate() {
            s.store(trits(s, w, power), &mut tile.codes[8 * t + i]);
        }
        for (i, w) in w[8..12].iter().enumerate() {
            s.store(trits(s, w, power), &mut tile.codes[40 + 4 * t + i]);
        }
        if t < 4 {
            s.store(trits(s, &head[0], power), &mut tile.codes[60 + t]);
        }
    }
}
