//! Looks over encoded bytes: a scale that is not finite makes a model print garbage.
//!
//! The rule is llama.cpp's: scales stored as f16 are finite, an `mxfp4` exponent is not 255, plain floats
//! are finite. Types without such scales (nvfp4, integers) have nothing to check.

use std::mem::offset_of;

use quern_tensor_io::ElementType as E;
use quern_tensor_io::layout::{
    self, IQ1M, IQ1S, IQ2S, IQ2XS, IQ2XXS, IQ3S, IQ3XXS, IQ4NL, IQ4XS, MXFP4, Q1_0, Q2_0, Q2K, Q3K, Q4_0,
    Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0, TQ1_0, TQ2_0,
};

/// Where in a block of this type its f16 scales are, as byte offsets.
fn scales(element_type: E) -> &'static [usize] {
    match element_type {
        E::F16 => &[0],
        E::Q4_0 => &[offset_of!(Q4_0, d)],
        E::Q4_1 => &[offset_of!(Q4_1, d), offset_of!(Q4_1, m)],
        E::Q5_0 => &[offset_of!(Q5_0, d)],
        E::Q5_1 => &[offset_of!(Q5_1, d), offset_of!(Q5_1, m)],
        E::Q8_0 => &[offset_of!(Q8_0, d)],
        E::IQ4NL => &[offset_of!(IQ4NL, d)],
        E::Q1_0 => &[offset_of!(Q1_0, d)],
        E::Q2_0 => &[offset_of!(Q2_0, d)],
        E::Q2K => &[offset_of!(Q2K, d), offset_of!(Q2K, dmin)],
        E::Q3K => &[offset_of!(Q3K, d)],
        E::Q4K => &[offset_of!(Q4K, d), offset_of!(Q4K, dmin)],
        E::Q5K => &[offset_of!(Q5K, d), offset_of!(Q5K, dmin)],
        E::Q6K => &[offset_of!(Q6K, d)],
        E::IQ4XS => &[offset_of!(IQ4XS, d)],
        E::TQ1_0 => &[offset_of!(TQ1_0, d)],
        E::TQ2_0 => &[offset_of!(TQ2_0, d)],
        E::IQ2XXS => &[offset_of!(IQ2XXS, d)],
        E::IQ2XS => &[offset_of!(IQ2XS, d)],
        E::IQ2S => &[offset_of!(IQ2S, d)],
        E::IQ3XXS => &[offset_of!(IQ3XXS, d)],
        E::IQ3S => &[offset_of!(IQ3S, d)],
        E::IQ1S => &[offset_of!(IQ1S, d)],
        // Scales of another kind, or none.
        E::F32 | E::BF16 | E::MXFP4 | E::IQ1M | E::NVFP4 | E::NF4 | E::FP4 | E::Q8_1 | E::Q8K => &[],
        E::F64 | E::F8E4M3 | E::F8E5M2 | E::I8 | E::I16 | E::I32 | E::I64 | E::U8 | E::U16 | E::U32 => &[],
        E::U64 | E::Bool => &[],
    }
}

/// Index of the first block (or plain value) that is not finite, or `None` if all is well. Bytes beyond
/// the last whole block are not looked at.
pub fn bad_block(element_type: E, data: &[u8]) -> Option<usize> {
    let mut blocks = data.chunks_exact(element_type.block_bytes());
    match element_type {
        E::F32 => blocks.position(|b| exponent_full(u32::from_le_bytes([b[0], b[1], b[2], b[3]]), 23, 0xff)),
        E::BF16 => blocks.position(|b| exponent_full(half(b, 0), 7, 0xff)),
        E::MXFP4 => layout::blocks::<MXFP4>(data).iter().position(|b| b.e == 0xff),
        E::IQ1M => {
            layout::blocks::<IQ1M>(data).iter().position(|b| exponent_full(b.d().bits().into(), 10, 0x1f))
        }
        _ => match scales(element_type) {
            [] => None,
            &[at] => blocks.position(|b| exponent_full(half(b, at), 10, 0x1f)),
            all => blocks.position(|b| all.iter().any(|&at| exponent_full(half(b, at), 10, 0x1f))),
        },
    }
}

fn half(block: &[u8], at: usize) -> u32 {
    u16::from_le_bytes([block[at], block[at + 1]]).into()
}

/// Whether the exponent field, `mask` shifted up by `mantissa`, is all ones: an infinity or NaN.
fn exponent_full(bits: u32, mantissa: u32, mask: u32) -> bool {
    (bits >> mantissa) & mask == mask
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_scale_is_found_in_every_type() {
        let infinite = 0x7c00_u16.to_le_bytes();
        for &t in E::ALL {
            for &at in scales(t) {
                assert!(at + 2 <= t.block_bytes(), "{t}");
                let mut blocks = vec![0; 3 * t.block_bytes()];
                assert_eq!(bad_block(t, &blocks), None, "{t}");
                let place = 2 * t.block_bytes() + at;
                blocks[place..place + 2].copy_from_slice(&infinite);
                assert_eq!(bad_block(t, &blocks), Some(2), "{t}");
                // the largest finite f16, negative
                blocks[place..place + 2].copy_from_slice(&0xfbff_u16.to_le_bytes());
                assert_eq!(bad_block(t, &blocks), None, "{t}");
            }
        }
        let mut exponent = vec![0; 34];
        exponent[17] = 254;
        assert_eq!(bad_block(E::MXFP4, &exponent), None);
        exponent[17] = 255;
        assert_eq!(bad_block(E::MXFP4, &exponent), Some(1));
    }

    #[test]
    fn plain_floats_must_be_finite() {
        let bytes =
            |v: f32| [0.0, f32::MAX, v].iter().flat_map(|v: &f32| v.to_le_bytes()).collect::<Vec<_>>();
        assert_eq!(bad_block(E::F32, &bytes(-1.0)), None);
        for v in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert_eq!(bad_block(E::F32, &bytes(v)), Some(2));
        }
        assert_eq!(bad_block(E::BF16, &[0x7f, 0x7f, 0x80, 0x7f]), Some(1));
        assert_eq!(bad_block(E::I32, &[0xff; 8]), None);
    }
}
