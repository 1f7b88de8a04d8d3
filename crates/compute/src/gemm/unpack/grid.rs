//! The scales of grid types: `d` times odd integers, as in `block/grid.rs`.

use quern_tensor_io::ElementType;

use super::super::Tile;
use super::super::vectors::{Vectors, Words};
use super::byte;
use crate::block::grid::constants;
use crate::block::{code_types, no_block};

/// From the words that `places` lists.
#[inline(always)]
pub(super) fn scales<S: Vectors>(s: S, element_type: ElementType, head: &[Words; 16], tile: &mut Tile) {
    use ElementType as T;
    let d = s.load(&head[0]);
    let d = s.halves(if element_type == T::IQ1M { iq1_m_d(s, head) } else { d });
    let Some(constants) = constants(element_type) else { return };
    let count = 256 / constants.sub;
    for j in 0..count {
        let code = match element_type {
            T::IQ2XXS | T::IQ3XXS => s.shr(s.load(&head[1 + j]), 28),
            T::IQ1S => s.mask(s.shr(s.load(&head[1 + j / 2]), 12 + j % 2 * 16), 7),
            T::IQ1M => s.mask(s.shr(s.load(&head[j / 8]), j / 4 % 2 * 16 + j % 4 * 3), 7),
            T::IQ2XS | T::IQ2S | T::IQ3S => s.mask(s.shr(s.load(&head[1 + j / 8]), j % 8 * 4), 15),
            code_types!() | no_block!() => unreachable!("{element_type} has no grid"),
        };
        let odd = s.add(s.add(code, code), s.splat(1));
        s.store_numbers(s.times(d, s.numbers(odd)), &mut tile.scale[j]);
        s.store(odd, &mut tile.steps[j]);
    }
    let unit = constants.unit;
    s.store_numbers(d, &mut tile.d);
    tile.d.iter_mut().for_each(|d| *d *= unit);
    tile.scale[..count].as_flattened_mut().iter_mut().for_each(|scale| *scale *= unit);
}

/// The bits of iq1_m's scale: the top four of four words of 16, the lowest first.
#[inline(always)]
fn iq1_m_d<S: Vectors>(s: S, head: &[Words; 16]) -> S::U {
    let mut bits = s.splat(0);
    for j in 0..4 {
        bits = s.or(bits, s.shl(s.shr(byte(s, &head[..2], 2 * j + 1), 4), 4 * j));
    }
    bits
}
