//! iq3: magnitudes from a grid of points of four (`grid`), signs beside them, super-blocks of 256.
//!
//! ```text
//! iq3_xxs   d  qs[64]  tails[8] (u32)               index = qs[k]; per 32 values a tail: four fields of
//!           v = ± (d (1/2 + scale) / 2) grid        7 bits (SIGNS), the scale in its top 4
//! iq3_s     d  qs[64]  qh[8]  signs[32]  scales[4]  index = qs[k] under bit k % 8 of qh[k / 8];
//!           v = ± (d (1 + 2 scale)) grid            signs: bit j of byte l = value 8 l + j;
//!                                                   scales: a nibble for 32 values, low nibble first
//! ```

use super::iq2::signed;
use super::{grid, half_at};

pub(super) fn xxs(block: &[u8; 98], out: &mut [f32; 256]) {
    let d = half_at(block, 0);
    let (qs, tails) = (block[2..66].as_chunks::<8>().0, block[66..].as_chunks::<4>().0);
    for (out, (qs, &tail)) in out.as_chunks_mut::<32>().0.iter_mut().zip(qs.iter().zip(tails)) {
        let tail = u32::from_le_bytes(tail);
        let dl = d * (0.5 + (tail >> 28) as f32) * 0.5;
        for (k, (out, &index)) in out.as_chunks_mut().0.iter_mut().zip(qs).enumerate() {
            let signs = grid::SIGNS[(tail >> (k / 2 * 7) & 127) as usize];
            signed(&grid::IQ3_XXS[usize::from(index)], signs >> (k % 2 * 4), dl, out);
        }
    }
}

pub(super) fn s(block: &[u8; 110], out: &mut [f32; 256]) {
    let d = half_at(block, 0);
    let (qs, qh, signs, scales) = (&block[2..66], &block[66..74], &block[74..106], &block[106..]);
    for (k, (out, &low)) in out.as_chunks_mut().0.iter_mut().zip(qs).enumerate() {
        let high = qh[k / 8] >> (k % 8) & 1;
        let scale = scales[k / 16] >> (k % 16 / 8 * 4) & 15;
        let dl = d * f32::from(1 + 2 * scale);
        let point = &grid::IQ3_S[usize::from(low) | usize::from(high) << 8];
        signed(point, signs[k / 2] >> (k % 2 * 4), dl, out);
    }
}
