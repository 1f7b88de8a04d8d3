//! The scales of grid types: `d` times odd integers, as `block/grid.rs` has them.

use quern_tensor_io::ElementType;

use super::super::Tile;
use super::super::vectors::{Vectors, Words};
use super::byte;
use crate::block::grid::unit;

/// From the words that `places` lists.
#[inline(always)]
pub(super) fn scales<S: Vectors>(s: S, element_type: ElementType, head: &[Words; 16], tile: &mut Tile) {
    use ElementType as T;
    let nibble = |words: &[Words], j: usize| s.mask(s.shr(s.load(&words[j / 8]), j % 8 * 4), 15);
    let d = match element_type {
        // The top four bits of four words of 16, the lowest first.
        T::IQ1M => {
            let part = |j: usize| s.shr(byte(s, &head[..2], 2 * j + 1), 4);
            let (low, high) = (s.or(part(0), s.shl(part(1), 4)), s.or(part(2), s.shl(part(3), 4)));
            s.halves(s.or(low, s.shl(high, 8)))
        }
        _ => s.halves(s.load(&head[0])),
    };
    let mut put = |j: usize, code| {
        let odd = s.add(s.add(code, code), s.splat(1));
        s.store_numbers(s.times(d, s.numbers(odd)), &mut tile.scale[j]);
    };
    match element_type {
        T::IQ2XXS | T::IQ3XXS => (0..8).for_each(|j| put(j, s.shr(s.load(&head[1 + j]), 28))),
        T::IQ3S => (0..8).for_each(|j| put(j, nibble(&head[1..], j))),
        T::IQ2XS | T::IQ2S => (0..16).for_each(|j| put(j, nibble(&head[1..], j))),
        T::IQ1S => (0..8).for_each(|j| put(j, s.mask(s.shr(byte(s, &head[1..], 2 * j + 1), 4), 7))),
        _ => (0..16).for_each(|j| {
            let word = s.shr(s.load(&head[j / 8]), j / 4 % 2 * 16);
            put(j, s.mask(s.shr(word, j % 4 * 3), 7));
        }),
    }
    let unit = unit(element_type);
    tile.scale.as_flattened_mut().iter_mut().for_each(|scale| *scale *= unit);
}
