//! NVIDIA FP4: E2M1 values, each 16 under a scale in UE4M3 (an unsigned float of 4 and 3 bits, bias 7).
//!
//! The scale of the whole tensor is a tensor of its own (`NAME.scale`) and not applied here.

use super::mxfp4::TABLE;
use crate::layout::NVFP4;

pub(super) fn nvfp4(block: &NVFP4, out: &mut [f32; 64]) {
    for (out, (qs, &scale)) in out.as_chunks_mut::<16>().0.iter_mut().zip(block.qs.iter().zip(&block.d)) {
        let d = half_ue4m3(scale);
        let (low, high) = out.split_at_mut(8);
        for ((&q, low), high) in qs.iter().zip(low).zip(high) {
            *low = f32::from(TABLE[usize::from(q & 15)]) * d;
            *high = f32::from(TABLE[usize::from(q >> 4)]) * d;
        }
    }
}

/// Half of what UE4M3 means, making up for the doubled table. The top bit is ignored, and 0x7f, which
/// would be NaN, is zero, as in ggml.
pub fn half_ue4m3(code: u8) -> f32 {
    let (exponent, mantissa) = (code >> 3 & 15, f32::from(code & 7));
    match exponent {
        _ if code == 0x7f => 0.0,
        0 => mantissa * f32::from_bits((127 - 10) << 23),
        _ => (1.0 + mantissa / 8.0) * f32::from_bits((127 - 8 + u32::from(exponent)) << 23),
    }
}
