//! Plain codes of one and two bits under one scale.
//!
//! ```text
//! q1_0   d  qs[16]    128 values: bit 1 is d, bit 0 is -d, lowest bit first
//! q2_0   d  qs[16]    64 values: v = (q - 1) d, lowest bits first
//! ```

use super::half_at;

pub(super) fn q1_0(block: &[u8; 18], out: &mut [f32; 128]) {
    let d = half_at(block, 0);
    for (out, &q) in out.as_chunks_mut::<8>().0.iter_mut().zip(&block[2..]) {
        out.iter_mut().enumerate().for_each(|(bit, v)| *v = if q >> bit & 1 != 0 { d } else { -d });
    }
}

pub(super) fn q2_0(block: &[u8; 18], out: &mut [f32; 64]) {
    let d = half_at(block, 0);
    for (out, &q) in out.as_chunks_mut::<4>().0.iter_mut().zip(&block[2..]) {
        out.iter_mut()
            .enumerate()
            .for_each(|(field, v)| *v = f32::from((q >> (2 * field) & 3) as i8 - 1) * d);
    }
}
