//! Blocks of 64 and 128.

use super::super::Tile;
use super::super::vectors::Vectors;
use super::{NIBBLES, Raw, byte, four_bits};

/// Block `b` of a tile's two: a word is 32 values: codes are 0 and 2.
#[inline(always)]
pub(super) fn q1_0<S: Vectors>(s: S, raw: &Raw, b: usize, tile: &mut Tile) {
    for w in 4 * b..4 * b + 4 {
        s.store_numbers(s.halves(s.load(&raw.head[b])), &mut tile.scale[w]);
        for i in 0..8 {
            let bits = four_bits(s, s.load(&raw.words[w]), i);
            s.store(s.shl(bits, 1), &mut tile.codes[8 * w + i]);
        }
    }
}

/// Block `b` of a tile's four: a word is 16 values, a byte four.
#[inline(always)]
pub(super) fn q2_0<S: Vectors>(s: S, raw: &Raw, b: usize, tile: &mut Tile) {
    for half in 0..2 {
        s.store_numbers(s.halves(s.load(&raw.head[b])), &mut tile.scale[2 * b + half]);
    }
    for (i, code) in tile.codes[16 * b..16 * b + 16].iter_mut().enumerate() {
        let x = byte(s, &raw.words[4 * b..4 * b + 4], i);
        let mut fields = s.mask(x, 3);
        for k in 1..4 {
            fields = s.or(fields, s.shl(s.mask(x, 3 << (2 * k)), 6 * k));
        }
        s.store(fields, code);
    }
}

/// Block `b` of a tile's four: two words are 16 values: low nibbles, then high ones.
#[inline(always)]
pub(super) fn nvfp4<S: Vectors>(s: S, raw: &Raw, b: usize, tile: &mut Tile) {
    for j in 0..4 {
        // Without its sign bit UE4M3 is the top of an f16 whose exponents are 8 lower; half of it is 2^7
        // times that. 0x7f is zero: adding 1 carries into a bit that was not set.
        let x = s.shr(s.load(&raw.head[b]), 8 * j);
        let x = s.mask(x, 255);
        let carry = s.shr(s.add(x, s.splat(1)), 7);
        let number = s.mask(s.or(s.shr(x, 7), s.xor(carry, s.splat(1))), 1);
        let bits = s.mul(s.shl(s.mask(x, 127), 7), number);
        let scale = s.times(s.halves(bits), s.numbers(s.splat(128)));
        s.store_numbers(scale, &mut tile.scale[4 * b + j]);
        for i in 0..2 {
            let x = s.load(&raw.words[8 * b + 2 * j + i]);
            s.store(s.mask(x, NIBBLES), &mut tile.codes[16 * b + 4 * j + i]);
            s.store(s.mask(s.shr(x, 4), NIBBLES), &mut tile.codes[16 * b + 4 * j + 2 + i]);
        }
    }
}
