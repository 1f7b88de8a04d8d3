//! The first block types: 32 values, one f16 scale `d`, in `_1` types an f16 minimum `m`.
//!
//! ```text
//! q4_0   d            qs[16]     v = (q - 8) d
//! q4_1   d  m         qs[16]     v = q d + m
//! q5_0   d     qh[4]  qs[16]     v = (q - 16) d
//! q5_1   d  m  qh[4]  qs[16]     v = q d + m
//! q8_0   d            qs[32]     v = q d, signed bytes
//!
//! qs[j]: low nibble = value j, high nibble = value j + 16
//! qh:    u32, bit j = fifth bit of value j
//! ```

use super::half_at;

/// Both nibbles of 16 bytes, each through its function of position and code.
fn nibbles(qs: &[u8], out: &mut [f32; 32], value: impl Fn(usize, u8) -> f32) {
    let (low, high) = out.split_at_mut(16);
    for (j, ((&q, low), high)) in qs.iter().zip(low).zip(high).enumerate() {
        *low = value(j, q & 15);
        *high = value(j + 16, q >> 4);
    }
}

pub(super) fn q4_0(block: &[u8; 18], out: &mut [f32; 32]) {
    let d = half_at(block, 0);
    nibbles(&block[2..], out, |_, q| f32::from(q as i8 - 8) * d);
}

pub(super) fn q4_1(block: &[u8; 20], out: &mut [f32; 32]) {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    nibbles(&block[4..], out, |_, q| f32::from(q) * d + m);
}

/// The fifth bit of value `j`, in place.
fn fifth(qh: u32, j: usize) -> u8 {
    ((qh >> j & 1) << 4) as u8
}

pub(super) fn q5_0(block: &[u8; 22], out: &mut [f32; 32]) {
    let d = half_at(block, 0);
    let qh = u32::from_le_bytes([block[2], block[3], block[4], block[5]]);
    nibbles(&block[6..], out, |j, q| f32::from((q | fifth(qh, j)) as i8 - 16) * d);
}

pub(super) fn q5_1(block: &[u8; 24], out: &mut [f32; 32]) {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    let qh = u32::from_le_bytes([block[4], block[5], block[6], block[7]]);
    nibbles(&block[8..], out, |j, q| f32::from(q | fifth(qh, j)) * d + m);
}

pub(super) fn q8_0(block: &[u8; 34], out: &mut [f32; 32]) {
    let d = half_at(block, 0);
    out.iter_mut().zip(&block[2..]).for_each(|(v, &q)| *v = f32::from(q as i8) * d);
}
