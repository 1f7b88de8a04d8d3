//! Ternary types: 256 values of -d, 0 or d.
//!
//! ```text
//! tq1_0   qs[48]  qh[4]  d    v = (t - 1) d
//!     A byte holds ceil(n 256 / 243) of a base-3 number n of five digits, the first value its highest
//!     digit; multiplying by 3^k (mod 256), then by 3, leaves digit k in the carry above the byte.
//!     values 0-159: qs[0..32], digit k of byte m = value 32 k + m
//!     values 160-239: qs[32..48], digit k of byte m = value 160 + 16 k + m
//!     values 240-255: qh, digit k (0-3) of byte m = value 240 + 4 k + m
//! tq2_0   qs[64]  d           v = (q - 1) d
//!     per 128 values 32 bytes: 2-bit field k of byte m = value 32 k + m
//! ```

use super::half_at;

pub(super) fn tq1_0(block: &[u8; 54], out: &mut [f32; 256]) {
    let d = half_at(block, 52);
    let mut at = 0;
    for bytes in [&block[..32], &block[32..48], &block[48..52]] {
        let mut power: u8 = 1;
        let digits = if bytes.len() == 4 { 4 } else { 5 };
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

pub(super) fn tq2_0(block: &[u8; 66], out: &mut [f32; 256]) {
    let d = half_at(block, 64);
    for (out, bytes) in out.as_chunks_mut::<128>().0.iter_mut().zip(block.as_chunks::<32>().0) {
        for (field, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            out.iter_mut()
                .zip(bytes)
                .for_each(|(v, &b)| *v = f32::from((b >> (2 * field) & 3) as i8 - 1) * d);
        }
    }
}
