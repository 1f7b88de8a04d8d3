//! 4-bit codes into a fixed non-linear table `T`.
//!
//! ```text
//! iq4_nl   d  qs[16]                               32 values: v = d T[q]
//! iq4_xs   d  scales_h (u16)  scales_l[4]  qs[128]  256 values: v = (d (sc - 32)) T[q]
//!
//! qs, per 32 values 16 bytes: low nibble of byte j = value j, high nibble = value j + 16
//! sc of sub-block b: low 4 bits in nibble b % 2 of scales_l[b / 2], top 2 at bit 2 b of scales_h
//! ```

use super::half_at;

/// ggml's `kvalues_iq4nl`.
pub(crate) const TABLE: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

fn lookup(qs: &[u8], d: f32, out: &mut [f32; 32]) {
    let (low, high) = out.split_at_mut(16);
    for ((&q, low), high) in qs.iter().zip(low).zip(high) {
        *low = d * f32::from(TABLE[usize::from(q & 15)]);
        *high = d * f32::from(TABLE[usize::from(q >> 4)]);
    }
}

pub(super) fn nl(block: &[u8; 18], out: &mut [f32; 32]) {
    lookup(&block[2..], half_at(block, 0), out);
}

pub(super) fn xs(block: &[u8; 136], out: &mut [f32; 256]) {
    let d = half_at(block, 0);
    let scales_h = u16::from_le_bytes([block[2], block[3]]);
    let scales_l = &block[4..8];
    let subs = block[8..].as_chunks::<16>().0;
    for (b, (out, qs)) in out.as_chunks_mut::<32>().0.iter_mut().zip(subs).enumerate() {
        let low = scales_l[b / 2] >> (b % 2 * 4) & 15;
        let high = (scales_h >> (2 * b) & 3) as u8;
        let scale = (low | high << 4) as i8 - 32;
        lookup(qs, d * f32::from(scale), out);
    }
}
