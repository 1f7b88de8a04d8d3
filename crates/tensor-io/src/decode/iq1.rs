//! iq1: points of eight values -1, 0, 1 from a grid of 2048 (`grid`), all shifted up or down by 1/8.

use super::grid;
use crate::layout::grid::nibble;
use crate::layout::{IQ1M, IQ1S};

/// How far the values of a point are shifted, up or down.
pub const SHIFT: f32 = 0.125;

fn shifted(index: usize, down: bool, dl: f32, out: &mut [f32; 8]) {
    let shift = if down { -SHIFT } else { SHIFT };
    out.iter_mut().zip(&grid::IQ1[index]).for_each(|(v, &q)| *v = dl * (f32::from(q) + shift));
}

pub(super) fn s(block: &IQ1S, out: &mut [f32; 256]) {
    let d = block.d.to_f32();
    let qs = block.qs.as_chunks::<4>().0.iter();
    for (sub, (out, qs)) in out.as_chunks_mut::<32>().0.iter_mut().zip(qs).enumerate() {
        let high = usize::from(block.qh[sub].get());
        let dl = d * f32::from(2 * block.scale(sub) + 1);
        for (l, (out, &low)) in out.as_chunks_mut().0.iter_mut().zip(qs).enumerate() {
            let index = usize::from(low) | (high >> (3 * l) & 7) << 8;
            shifted(index, high >> 15 != 0, dl, out);
        }
    }
}

pub(super) fn m(block: &IQ1M, out: &mut [f32; 256]) {
    let d = block.d().to_f32();
    for (l, (out, &low)) in out.as_chunks_mut().0.iter_mut().zip(&block.qs).enumerate() {
        let high = usize::from(nibble(&block.qh, l));
        let dl = d * f32::from(2 * block.scale(l / 2) + 1);
        shifted(usize::from(low) | (high & 7) << 8, high & 8 != 0, dl, out);
    }
}
