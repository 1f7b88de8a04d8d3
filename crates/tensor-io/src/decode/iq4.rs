//! 4-bit codes into a fixed non-linear table.

use crate::layout::{IQ4NL, IQ4XS};

/// ggml's `kvalues_iq4nl`.
pub const TABLE: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

fn lookup(qs: &[u8; 16], d: f32, out: &mut [f32; 32]) {
    let (low, high) = out.split_at_mut(16);
    for ((&q, low), high) in qs.iter().zip(low).zip(high) {
        *low = d * f32::from(TABLE[usize::from(q & 15)]);
        *high = d * f32::from(TABLE[usize::from(q >> 4)]);
    }
}

pub(super) fn nl(block: &IQ4NL, out: &mut [f32; 32]) {
    lookup(&block.qs, block.d.to_f32(), out);
}

pub(super) fn xs(block: &IQ4XS, out: &mut [f32; 256]) {
    let (d, scales) = (block.d.to_f32(), block.scales());
    let subs = block.qs.as_chunks::<16>().0.iter().zip(scales);
    for (out, (qs, scale)) in out.as_chunks_mut::<32>().0.iter_mut().zip(subs) {
        lookup(qs, d * f32::from(scale), out);
    }
}
