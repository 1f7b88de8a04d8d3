//! Decoding element types to f32.
//!
//! One file per family; [`crate::layout`] describes where each bit is. Every value is computed in f32 in the order of
//! ggml's `dequantize_row_*` (products left to right, no fused multiply-add), so that results are bit for bit
//! those of other readers.

mod f8;
pub mod four_bit;
pub mod grid;
pub mod iq1;
mod iq2;
mod iq3;
pub mod iq4;
mod k;
mod legacy;
mod low_bit;
pub mod mxfp4;
pub mod nvfp4;
mod plain;
mod ternary;

use crate::ElementType;
use crate::layout::{self, Block};

/// Decodes whole blocks of `element_type` into `out`. `data` must hold exactly `out.len()` values:
/// returns `false` and leaves `out` alone if the length does not fit or the type has no decoder.
#[must_use]
pub fn to_f32(element_type: ElementType, data: &[u8], out: &mut [f32]) -> bool {
    let Some(decode) = decoder(element_type) else { return false };
    if element_type.row_bytes(out.len()) != Some(data.len()) {
        return false;
    }
    decode(data, out);
    true
}

/// Whether [`to_f32`] knows this type.
pub fn can_decode(element_type: ElementType) -> bool {
    decoder(element_type).is_some()
}

/// Decodes whole blocks; the lengths fit.
type Decoder = fn(&[u8], &mut [f32]);

fn decoder(element_type: ElementType) -> Option<Decoder> {
    use ElementType::*;
    Some(match element_type {
        F32 => plain::f32,
        F16 => plain::f16,
        BF16 => plain::bf16,
        F64 => plain::f64,
        F8E4M3 => f8::e4m3,
        F8E5M2 => f8::e5m2,
        Q4_0 => |data, out| blocks(data, out, legacy::q4_0),
        Q4_1 => |data, out| blocks(data, out, legacy::q4_1),
        Q5_0 => |data, out| blocks(data, out, legacy::q5_0),
        Q5_1 => |data, out| blocks(data, out, legacy::q5_1),
        Q8_0 => |data, out| blocks(data, out, legacy::q8_0),
        Q2K => |data, out| blocks(data, out, k::q2),
        Q3K => |data, out| blocks(data, out, k::q3),
        Q4K => |data, out| blocks(data, out, k::q4),
        Q5K => |data, out| blocks(data, out, k::q5),
        Q6K => |data, out| blocks(data, out, k::q6),
        IQ4NL => |data, out| blocks(data, out, iq4::nl),
        IQ4XS => |data, out| blocks(data, out, iq4::xs),
        TQ1_0 => |data, out| blocks(data, out, ternary::tq1_0),
        TQ2_0 => |data, out| blocks(data, out, ternary::tq2_0),
        MXFP4 => |data, out| blocks(data, out, mxfp4::mxfp4),
        NVFP4 => |data, out| blocks(data, out, nvfp4::nvfp4),
        Q1_0 => |data, out| blocks(data, out, low_bit::q1_0),
        Q2_0 => |data, out| blocks(data, out, low_bit::q2_0),
        IQ1S => |data, out| blocks(data, out, iq1::s),
        IQ1M => |data, out| blocks(data, out, iq1::m),
        IQ2XXS => |data, out| blocks(data, out, iq2::xxs),
        IQ2XS => |data, out| blocks(data, out, iq2::xs),
        IQ2S => |data, out| blocks(data, out, iq2::s),
        IQ3XXS => |data, out| blocks(data, out, iq3::xxs),
        IQ3S => |data, out| blocks(data, out, iq3::s),
        NF4 => |data, out| blocks(data, out, four_bit::nf4),
        FP4 => |data, out| blocks(data, out, four_bit::fp4),
        I8 | I16 | I32 | I64 | U8 | U16 | U32 | U64 | Bool | Q8_1 | Q8K => return None,
    })
}

/// Applies `decode` to each block of `VALUES` values.
fn blocks<B: Block, const VALUES: usize>(
    data: &[u8],
    out: &mut [f32],
    decode: impl Fn(&B, &mut [f32; VALUES]),
) {
    let (blocks, values) = (layout::blocks(data), out.as_chunks_mut().0);
    blocks.iter().zip(values).for_each(|(block, values)| decode(block, values));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_lengths_and_types_without_decoder_leave_the_output_alone() {
        let mut out = [7.0; 32];
        assert!(!to_f32(ElementType::Q4_0, &[0; 17], &mut out));
        assert!(!to_f32(ElementType::Q4_0, &[0; 36], &mut out));
        assert!(!to_f32(ElementType::Q4_0, &[0; 18], &mut out[..31]));
        assert!(!to_f32(ElementType::I8, &[0; 32], &mut out));
        assert!(!can_decode(ElementType::I8));
        assert_eq!(out, [7.0; 32]);
        assert!(to_f32(ElementType::Q4_0, &[0; 18], &mut out));
        assert_eq!(out, [0.0; 32]);
        assert!(to_f32(ElementType::Q4_0, &[], &mut []));
    }
}
