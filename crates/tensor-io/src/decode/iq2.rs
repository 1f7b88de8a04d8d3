//! iq2: magnitudes from a grid of points of eight (`grid`), signs beside them, super-blocks of 256.
//!
//! ```text
//! iq2_xxs   d  qs[64]                          per 32 values 8 bytes: four grid indices of 8 bits, then a
//!                                              u32: four fields of 7 bits (SIGNS), the scale in its top 4
//! iq2_xs    d  qs[64]  scales[8]               32 u16: grid index in the low 9 bits, SIGNS in the top 7
//! iq2_s     d  qs[32]  signs[32]  qh[8]  scales[8]   index: qs[8] under 2 bits of qh, per 32 values a byte;
//!                                              signs: bit j of a byte = value j
//! v = ± (d (1/2 + scale) / 4) grid
//! ```
//!
//! Scales of iq2_xs and iq2_s: a byte for 32 values, the low nibble for the first 16.

use super::{grid, half_at};

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

pub(super) fn xxs(block: &[u8; 66], out: &mut [f32; 256]) {
    let d = half_at(block, 0);
    let words = block[2..].as_chunks::<8>().0;
    for (out, &[a, b, c, e, ref tail @ ..]) in out.as_chunks_mut::<32>().0.iter_mut().zip(words) {
        let tail = u32::from_le_bytes(*tail);
        let dl = scale(d, (tail >> 28) as u8);
        for (l, (out, index)) in out.as_chunks_mut().0.iter_mut().zip([a, b, c, e]).enumerate() {
            let signs = grid::SIGNS[(tail >> (7 * l) & 127) as usize];
            signed(&grid::IQ2_XXS[usize::from(index)], signs, dl, out);
        }
    }
}

pub(super) fn xs(block: &[u8; 74], out: &mut [f32; 256]) {
    let d = half_at(block, 0);
    let codes = block[2..66].as_chunks::<2>().0;
    for (l, (out, &code)) in out.as_chunks_mut().0.iter_mut().zip(codes).enumerate() {
        let code = usize::from(u16::from_le_bytes(code));
        let dl = scale(d, nibble(block[66 + l / 4], l));
        signed(&grid::IQ2_XS[code & 511], grid::SIGNS[code >> 9], dl, out);
    }
}

pub(super) fn s(block: &[u8; 82], out: &mut [f32; 256]) {
    let d = half_at(block, 0);
    let (qs, signs) = (&block[2..34], &block[34..66]);
    for (l, (out, (&low, &signs))) in out.as_chunks_mut().0.iter_mut().zip(qs.iter().zip(signs)).enumerate() {
        let high = block[66 + l / 4] >> (l % 4 * 2) & 3;
        let dl = scale(d, nibble(block[74 + l / 4], l));
        signed(&grid::IQ2_S[usize::from(low) | usize::from(high) << 8], signs, dl, out);
    }
}

/// The scale of group `l` of eight values: two groups share a nibble.
fn nibble(scales: u8, l: usize) -> u8 {
    scales >> (l % 4 / 2 * 4) & 15
}
