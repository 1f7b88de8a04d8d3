//! iq3: magnitudes from a grid of points of four (`grid`), with signs, in super-blocks of 256.

use super::grid;
use super::iq2::signed;
use crate::layout::grid::nibble;
use crate::layout::{IQ3S, IQ3XXS};

pub(super) fn xxs(block: &IQ3XXS, out: &mut [f32; 256]) {
    let d = block.d.to_f32();
    let parts = block.qs.as_chunks::<8>().0.iter().zip(&block.tails);
    for (out, (qs, tail)) in out.as_chunks_mut::<32>().0.iter_mut().zip(parts) {
        let dl = d * (0.5 + f32::from(tail.scale())) * 0.5;
        for (k, (out, &index)) in out.as_chunks_mut().0.iter_mut().zip(qs).enumerate() {
            let signs = grid::SIGNS[tail.signs(k / 2)];
            signed(&grid::IQ3_XXS[usize::from(index)], signs >> (k % 2 * 4), dl, out);
        }
    }
}

pub(super) fn s(block: &IQ3S, out: &mut [f32; 256]) {
    let d = block.d.to_f32();
    for (k, (out, &low)) in out.as_chunks_mut().0.iter_mut().zip(&block.qs).enumerate() {
        let high = block.qh[k / 8] >> (k % 8) & 1;
        let dl = d * f32::from(1 + 2 * nibble(&block.scales, k / 8));
        let point = &grid::IQ3_S[usize::from(low) | usize::from(high) << 8];
        signed(point, block.signs[k / 2] >> (k % 2 * 4), dl, out);
    }
}
