//! Blocks of 256 with plain codes. A field's words are those of `places`' runs.

use std::mem::offset_of;

use quern_tensor_io::layout::scales::{Word, minima6, scales6};
use quern_tensor_io::layout::{Q2K, Q3K, Q4K, Q5K, Q6K};

use super::super::Tile;
use super::super::vectors::{Vectors, Words};
use super::{BITS, CRUMBS, NIBBLES, Q3_ZERO, byte};

/// Where a field's words begin in a run from the beginning of the block on.
macro_rules! word {
    ($block:ident, $field:ident) => {
        const { offset_of!($block, $field) / 4 }
    };
}

const EVEN: u32 = 0x00ff_00ff;

/// A word of each of 16 rows, to be taken apart as one row's is.
#[derive(Clone, Copy)]
struct Rows<S: Vectors>(S, S::U);

impl<S: Vectors> Word for Rows<S> {
    #[inline(always)]
    fn and(self, mask: u32) -> Self {
        Self(self.0, self.0.mask(self.1, mask))
    }

    #[inline(always)]
    fn or(self, other: Self) -> Self {
        Self(self.0, self.0.or(self.1, other.1))
    }

    #[inline(always)]
    fn shl(self, by: usize) -> Self {
        Self(self.0, self.0.shl(self.1, by))
    }

    #[inline(always)]
    fn shr(self, by: usize) -> Self {
        Self(self.0, self.0.shr(self.1, by))
    }
}

/// The three words of packed scales.
#[inline(always)]
fn packed<S: Vectors>(s: S, w: &[Words]) -> [Rows<S>; 3] {
    [Rows(s, s.load(&w[0])), Rows(s, s.load(&w[1])), Rows(s, s.load(&w[2]))]
}

/// Byte `j` of a word.
#[inline(always)]
fn part<S: Vectors>(Rows(s, x): Rows<S>, j: usize) -> S::U {
    s.mask(s.shr(x, 8 * j), 255)
}

/// d, dmin, the scales and the minima of q4_K and q5_K, which start with the same fields.
#[inline(always)]
fn scales_6bit<S: Vectors>(s: S, w: &[Words; 64], tile: &mut Tile) {
    const SCALES: usize = word!(Q4K, scales);
    const { assert!(SCALES == word!(Q5K, scales) && offset_of!(Q4K, d) == 0 && offset_of!(Q4K, dmin) == 2) }
    const { assert!(offset_of!(Q5K, d) == 0 && offset_of!(Q5K, dmin) == 2) }
    let first = s.load(&w[0]);
    let d = s.halves(first);
    let dmin = s.halves(s.xor(s.shr(first, 16), s.splat(0x8000)));
    let (scales, minima) = minima6(packed(s, &w[SCALES..]));
    s.store_numbers(d, &mut tile.d);
    s.store_numbers(dmin, &mut tile.dmin);
    for j in 0..8 {
        let (scale, min) = (part(scales[j / 4], j % 4), part(minima[j / 4], j % 4));
        s.store(scale, &mut tile.steps[j]);
        s.store(min, &mut tile.minima[j]);
        s.store_numbers(s.times(d, s.numbers(scale)), &mut tile.scale[j]);
        s.store_numbers(s.times(dmin, s.numbers(min)), &mut tile.offset[j]);
    }
}

#[inline(always)]
pub(super) fn q4_k<S: Vectors>(s: S, w: &[Words; 64], tile: &mut Tile) {
    scales_6bit(s, w, tile);
    for g in 0..4 {
        for i in 0..8 {
            let x = s.load(&w[word!(Q4K, qs) + 8 * g + i]);
            s.store(s.mask(x, NIBBLES), &mut tile.codes[16 * g + i]);
            s.store(s.mask(s.shr(x, 4), NIBBLES), &mut tile.codes[16 * g + 8 + i]);
        }
    }
}

#[inline(always)]
pub(super) fn q5_k<S: Vectors>(s: S, w: &[Words; 64], tile: &mut Tile) {
    scales_6bit(s, w, tile);
    for g in 0..4 {
        for i in 0..8 {
            let (x, h) = (s.load(&w[word!(Q5K, qs) + 8 * g + i]), s.load(&w[word!(Q5K, qh) + i]));
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
    s.store(scale, &mut tile.steps[j]);
}

#[inline(always)]
pub(super) fn q6_k<S: Vectors>(s: S, w: &[Words; 64], d: &Words, tile: &mut Tile) {
    let d = s.halves(s.load(d));
    s.store_numbers(d, &mut tile.d);
    for j in 0..16 {
        // Sign-extended: (b ^ 128) - 128.
        let b = s.xor(byte(s, &w[word!(Q6K, scales)..], j), s.splat(128));
        signed_scale(s, d, s.add(b, s.splat(128u32.wrapping_neg())), tile, j);
    }
    for half in 0..2 {
        for i in 0..8 {
            let (a, b) = (s.load(&w[16 * half + i]), s.load(&w[16 * half + 8 + i]));
            let h = s.load(&w[word!(Q6K, qh) + 8 * half + i]);
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
pub(super) fn q2_k<S: Vectors>(s: S, w: &[Words; 64], d: &Words, tile: &mut Tile) {
    let d = s.load(d);
    s.store_numbers(s.halves(d), &mut tile.scale[0]);
    let dmin = s.halves(s.xor(s.shr(d, 16), s.splat(0x8000)));
    s.store_numbers(dmin, &mut tile.dmin);
    crumbs(s, &w[word!(Q2K, qs)..], &mut tile.codes);
    for j in 0..16 {
        let packed = byte(s, &w[word!(Q2K, scales)..], j);
        let scale = s.mask(packed, 15);
        let min = s.shr(packed, 4);
        s.store_numbers(s.times(dmin, s.numbers(min)), &mut tile.offset[j]);
        s.store(min, &mut tile.minima[j]);
        // At most 3 * 15 = 45: no carry from one byte to the next.
        for q in &mut tile.codes[4 * j..4 * j + 4] {
            s.store(s.mul(s.load(q), scale), q);
        }
    }
}

#[inline(always)]
pub(super) fn q3_k<S: Vectors>(s: S, w: &[Words; 64], d: &Words, tile: &mut Tile) {
    s.store_numbers(s.halves(s.load(d)), &mut tile.scale[0]);
    // After the codes a word that is theirs once more: runs come in fours.
    let scales = scales6(packed(s, &w[word!(Q3K, scales) + 1..]));
    crumbs(s, &w[word!(Q3K, qs)..], &mut tile.codes);
    for j in 0..16 {
        let scale = s.add(part(scales[j / 4], j % 4), s.splat(32u32.wrapping_neg()));
        // scale (q - 4) + 124, two bytes at a time in 16-bit halves: linear, so that borrows between the
        // halves cancel.
        let offset = s.add(s.mul(scale, s.splat(4u32.wrapping_neg())), s.splat(Q3_ZERO as u32));
        let offset = s.mul(offset, s.splat(0x0001_0001));
        for step in 4 * j..4 * j + 4 {
            let third = s.shl(s.mask(s.shr(s.load(&w[word!(Q3K, hmask) + step % 8]), step / 8), BITS), 2);
            let q = s.or(s.load(&tile.codes[step]), third);
            let even = s.add(s.mul(s.mask(q, EVEN), scale), offset);
            let odd = s.add(s.mul(s.mask(s.shr(q, 8), EVEN), scale), offset);
            s.store(s.or(even, s.shl(odd, 8)), &mut tile.codes[step]);
        }
    }
}

#[inline(always)]
pub(super) fn iq4_xs<S: Vectors>(s: S, w: &[Words; 64], head: &[Words; 16], tile: &mut Tile) {
    let (first, low) = (s.load(&head[0]), s.load(&head[1]));
    let d = s.halves(first);
    s.store_numbers(d, &mut tile.d);
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

/// Two-bit codes under one scale.
#[inline(always)]
pub(super) fn tq2_0<S: Vectors>(s: S, w: &[Words; 64], d: &Words, tile: &mut Tile) {
    s.store_numbers(s.halves(s.load(d)), &mut tile.scale[0]);
    crumbs(s, w, &mut tile.codes);
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
pub(super) fn tq1_0<S: Vectors>(s: S, w: &[Words; 64], head: &[Words; 16], tile: &mut Tile) {
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
