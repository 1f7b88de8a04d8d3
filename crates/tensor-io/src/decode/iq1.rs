//! iq1: points of eight values -1, 0, 1 from a grid of 2048 (`grid`), all shifted up or down by 1/8.
//!
//! ```text
//! iq1_s   d  qs[32]  qh[8] (u16)        per 32 values one scale and one shift. A u16: four fields of 3 bits,
//!                                       the top of each index; the scale at bit 12; bit 15 shifts down
//! iq1_m   qs[32]  qh[16]  scales[8]     per 16 values one scale, per 8 one shift. A nibble of qh: 3 bits,
//!                                       the top of the index, bit 3 shifts down. scales: four u16, each four
//!                                       scales of 3 bits under 4 bits of d (f16, lowest bits in the first)
//! v = (d (2 scale + 1)) (grid ± 1/8)
//! ```

use half::f16;

use super::{grid, half_at};

/// How far the values of a point are shifted, up or down.
pub const SHIFT: f32 = 0.125;

fn shifted(index: usize, down: bool, dl: f32, out: &mut [f32; 8]) {
    let shift = if down { -SHIFT } else { SHIFT };
    out.iter_mut().zip(&grid::IQ1[index]).for_each(|(v, &q)| *v = dl * (f32::from(q) + shift));
}

pub(super) fn s(block: &[u8; 50], out: &mut [f32; 256]) {
    let d = half_at(block, 0);
    let (qs, qh) = (block[2..34].as_chunks::<4>().0, block[34..].as_chunks::<2>().0);
    for (out, (qs, &high)) in out.as_chunks_mut::<32>().0.iter_mut().zip(qs.iter().zip(qh)) {
        let high = usize::from(u16::from_le_bytes(high));
        let dl = d * (2 * (high >> 12 & 7) + 1) as f32;
        for (l, (out, &low)) in out.as_chunks_mut().0.iter_mut().zip(qs).enumerate() {
            let index = usize::from(low) | (high >> (3 * l) & 7) << 8;
            shifted(index, high >> 15 != 0, dl, out);
        }
    }
}

pub(super) fn m(block: &[u8; 56], out: &mut [f32; 256]) {
    let (qs, qh) = (&block[..32], &block[32..48]);
    let scales: [u16; 4] =
        std::array::from_fn(|i| u16::from_le_bytes([block[48 + 2 * i], block[49 + 2 * i]]));
    let bits = scales.iter().rev().fold(0, |bits, scale| bits << 4 | scale >> 12);
    let d = f16::from_bits(bits).to_f32();
    for (l, (out, &low)) in out.as_chunks_mut().0.iter_mut().zip(qs).enumerate() {
        let high = usize::from(qh[l / 2] >> (l % 2 * 4) & 15);
        let dl = d * f32::from(2 * (scales[l / 8] >> (l % 8 / 2 * 3) & 7) + 1);
        shifted(usize::from(low) | (high & 7) << 8, high & 8 != 0, dl, out);
    }
}
