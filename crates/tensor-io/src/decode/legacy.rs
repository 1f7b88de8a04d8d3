//! The first block types: 32 values, one f16 scale `d`, in `_1` types an f16 minimum `m`.

use crate::layout::{Q4_0, Q4_1, Q5_0, Q5_1, Q8_0};

/// Both nibbles of 16 bytes, each through its function of position and code.
fn nibbles(qs: &[u8; 16], out: &mut [f32; 32], value: impl Fn(usize, u8) -> f32) {
    let (low, high) = out.split_at_mut(16);
    for (j, ((&q, low), high)) in qs.iter().zip(low).zip(high).enumerate() {
        *low = value(j, q & 15);
        *high = value(j + 16, q >> 4);
    }
}

pub(super) fn q4_0(block: &Q4_0, out: &mut [f32; 32]) {
    let d = block.d.to_f32();
    nibbles(&block.qs, out, |_, q| f32::from(q as i8 - 8) * d);
}

pub(super) fn q4_1(block: &Q4_1, out: &mut [f32; 32]) {
    let (d, m) = (block.d.to_f32(), block.m.to_f32());
    nibbles(&block.qs, out, |_, q| f32::from(q) * d + m);
}

/// The fifth bit of value `j`, in place.
fn fifth(qh: u32, j: usize) -> u8 {
    ((qh >> j & 1) << 4) as u8
}

pub(super) fn q5_0(block: &Q5_0, out: &mut [f32; 32]) {
    let (d, qh) = (block.d.to_f32(), block.qh.get());
    nibbles(&block.qs, out, |j, q| f32::from((q | fifth(qh, j)) as i8 - 16) * d);
}

pub(super) fn q5_1(block: &Q5_1, out: &mut [f32; 32]) {
    let (d, m, qh) = (block.d.to_f32(), block.m.to_f32(), block.qh.get());
    nibbles(&block.qs, out, |j, q| f32::from(q | fifth(qh, j)) * d + m);
}

pub(super) fn q8_0(block: &Q8_0, out: &mut [f32; 32]) {
    let d = block.d.to_f32();
    out.iter_mut().zip(&block.qs).for_each(|(v, &q)| *v = f32::from(q) * d);
}
