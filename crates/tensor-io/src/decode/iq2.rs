//! iq2: magnitudes from a grid of points of eight (`grid`), with signs, in super-blocks of 256.

use super::grid;
use crate::layout::grid::nibble;
use crate::layout::{IQ2S, IQ2XS, IQ2XXS};

/// Writes a point of the grid times `dl`, with its signs.
pub(super) fn signed<const N: usize>(point: &[u8; N], signs: u8, dl: f32, out: &mut [f32; N]) {
    for (j, (v, &magnitude)) in out.iter_mut().zip(point).enumerate() {
        let product = dl * f32::from(magnitude);
        *v = if signs >> j & 1 != 0 { -product } else { product };
    }
}

fn scale(d: f32, code: u8) -> f32 {
    d * (0.5 + f32::from(code)) * 0.25
}

pub(super) fn xxs(block: &IQ2XXS, out: &mut [f32; 256]) {
    let d = block.d.to_f32();
    for (out, qs) in out.as_chunks_mut::<32>().0.iter_mut().zip(&block.qs) {
        let dl = scale(d, qs.tail.scale());
        for (l, (out, &index)) in out.as_chunks_mut().0.iter_mut().zip(&qs.index).enumerate() {
            let signs = grid::SIGNS[qs.tail.signs(l)];
            signed(&grid::IQ2_XXS[usize::from(index)], signs, dl, out);
        }
    }
}

pub(super) fn xs(block: &IQ2XS, out: &mut [f32; 256]) {
    let d = block.d.to_f32();
    for (l, (out, code)) in out.as_chunks_mut().0.iter_mut().zip(&block.qs).enumerate() {
        let code = usize::from(code.get());
        let dl = scale(d, nibble(&block.scales, l / 2));
        signed(&grid::IQ2_XS[code & 511], grid::SIGNS[code >> 9], dl, out);
    }
}

pub(super) fn s(block: &IQ2S, out: &mut [f32; 256]) {
    let d = block.d.to_f32();
    let codes = block.qs.iter().zip(&block.signs);
    for (l, (out, (&low, &signs))) in out.as_chunks_mut().0.iter_mut().zip(codes).enumerate() {
        let high = block.qh[l / 4] >> (l % 4 * 2) & 3;
        let dl = scale(d, nibble(&block.scales, l / 2));
        signed(&grid::IQ2_S[usize::from(low) | usize::from(high) << 8], signs, dl, out);
    }
}
