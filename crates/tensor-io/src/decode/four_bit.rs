//! bitsandbytes' 4-bit types, re-blocked for the kernels.
//!
//! On disk their blocks (64 values by default, across rows) and scales are separate tensors; the kernels need a
//! scale beside its codes: [`layout::NF4`] and [`layout::FP4`].

use crate::layout::{self, F16};

/// NF4: the quantiles of a normal distribution, sorted, zero at index 7 (QLoRA, appendix E; the bits are
/// bitsandbytes').
pub const NF4: [f32; 16] = [
    f32::from_bits(0xbf80_0000),
    f32::from_bits(0xbf32_39b1),
    f32::from_bits(0xbf06_6b30),
    f32::from_bits(0xbeca_32a0),
    f32::from_bits(0xbe91_a24d),
    f32::from_bits(0xbe3d_353f),
    f32::from_bits(0xbdba_7871),
    f32::from_bits(0x0000_0000),
    f32::from_bits(0x3da2_faff),
    f32::from_bits(0x3e24_cae3),
    f32::from_bits(0x3e7c_04dd),
    f32::from_bits(0x3ead_033a),
    f32::from_bits(0x3ee1_a4b8),
    f32::from_bits(0x3f10_07ab),
    f32::from_bits(0x3f39_13b3),
    f32::from_bits(0x3f80_0000),
];

/// FP4: sign in bit 3, magnitudes {0, 1/16, 8, 12, 4, 6, 2, 3} / 12, not sorted.
pub const FP4: [f32; 16] = [
    f32::from_bits(0x0000_0000),
    f32::from_bits(0x3baa_aaab),
    f32::from_bits(0x3f2a_aaab),
    f32::from_bits(0x3f80_0000),
    f32::from_bits(0x3eaa_aaab),
    f32::from_bits(0x3f00_0000),
    f32::from_bits(0x3e2a_aaab),
    f32::from_bits(0x3e80_0000),
    f32::from_bits(0x8000_0000),
    f32::from_bits(0xbbaa_aaab),
    f32::from_bits(0xbf2a_aaab),
    f32::from_bits(0xbf80_0000),
    f32::from_bits(0xbeaa_aaab),
    f32::from_bits(0xbf00_0000),
    f32::from_bits(0xbe2a_aaab),
    f32::from_bits(0xbe80_0000),
];

pub(super) fn nf4(block: &layout::NF4, out: &mut [f32; 32]) {
    lookup(&NF4, block.d, &block.qs, out);
}

pub(super) fn fp4(block: &layout::FP4, out: &mut [f32; 32]) {
    lookup(&FP4, block.d, &block.qs, out);
}

fn lookup(table: &[f32; 16], absmax: F16, qs: &[u8; 16], out: &mut [f32; 32]) {
    let absmax = absmax.to_f32();
    let (low, high) = out.split_at_mut(16);
    for ((&q, low), high) in qs.iter().zip(low).zip(high) {
        *low = absmax * table[usize::from(q & 15)];
        *high = absmax * table[usize::from(q >> 4)];
    }
}
