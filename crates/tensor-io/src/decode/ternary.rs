//! Ternary types: 256 values of -d, 0 or d.

use crate::layout::{TQ1_0, TQ2_0};

pub(super) fn tq1_0(block: &TQ1_0, out: &mut [f32; 256]) {
    let d = block.d.to_f32();
    let mut at = 0;
    for (bytes, digits) in [(&block.qs[..32], 5), (&block.qs[32..], 5), (&block.qh[..], 4)] {
        let mut power: u8 = 1;
        for _ in 0..digits {
            for &b in bytes {
                let digit = (u16::from(b.wrapping_mul(power)) * 3) >> 8;
                out[at] = f32::from(digit as i8 - 1) * d;
                at += 1;
            }
            power = power.wrapping_mul(3);
        }
    }
}

pub(super) fn tq2_0(block: &TQ2_0, out: &mut [f32; 256]) {
    let d = block.d.to_f32();
    for (out, bytes) in out.as_chunks_mut::<128>().0.iter_mut().zip(block.qs.as_chunks::<32>().0) {
        for (field, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            out.iter_mut()
                .zip(bytes)
                .for_each(|(v, &b)| *v = f32::from((b >> (2 * field) & 3) as i8 - 1) * d);
        }
    }
}
