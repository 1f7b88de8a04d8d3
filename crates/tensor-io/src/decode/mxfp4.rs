//! OCP microscaling FP4: 32 values of E2M1 under one power-of-two scale (E8M0).

use crate::layout::MXFP4;

/// E2M1, doubled: ggml's `kvalues_mxfp4`.
pub const TABLE: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

pub(super) fn mxfp4(block: &MXFP4, out: &mut [f32; 32]) {
    let d = half_scale(block.e);
    let (low, high) = out.split_at_mut(16);
    for ((&q, low), high) in block.qs.iter().zip(low).zip(high) {
        *low = f32::from(TABLE[usize::from(q & 15)]) * d;
        *high = f32::from(TABLE[usize::from(q >> 4)]) * d;
    }
}

/// 2^(e - 128): half of what E8M0 means, making up for the doubled table. The two smallest are subnormal.
#[inline(always)]
pub fn half_scale(e: u8) -> f32 {
    match e {
        0 | 1 => f32::from_bits(0x0020_0000 << e),
        _ => f32::from_bits(u32::from(e - 1) << 23),
    }
}
