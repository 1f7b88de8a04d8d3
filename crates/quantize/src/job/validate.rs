//! Looks over encoded bytes: a scale that is not finite makes a model print garbage.
//!
//! The rule is llama.cpp's: scales stored as f16 are finite, an `mxfp4` exponent is not 255, plain floats
//! are finite. Types without such scales (nvfp4, integers) have nothing to check.

use quern_tensor_io::ElementType as E;

/// Where in a block of this type its f16 scales lie, as byte offsets.
fn scales(element_type: E) -> &'static [usize] {
    match element_type {
        E::F16 | E::Q4_0 | E::Q5_0 | E::Q8_0 | E::IQ4NL | E::IQ4XS | E::Q1_0 | E::Q2_0 => &[0],
        E::IQ2XXS | E::IQ2XS | E::IQ2S | E::IQ3XXS | E::IQ3S | E::IQ1S => &[0],
        E::Q4_1 | E::Q5_1 | E::Q4K | E::Q5K => &[0, 2],
        E::Q2K => &[80, 82],
        E::Q3K => &[108],
        E::Q6K => &[208],
        E::TQ1_0 => &[52],
        E::TQ2_0 => &[64],
        _ => &[],
    }
}

/// Index of the first block (or plain value) that is not finite, or `None` if all is well. Bytes beyond
/// the last whole block are not looked at.
pub fn bad_block(element_type: E, data: &[u8]) -> Option<usize> {
    let mut blocks = data.chunks_exact(element_type.block_bytes());
    match element_type {
        E::F32 => blocks.position(|b| exponent_full(u32::from_le_bytes([b[0], b[1], b[2], b[3]]), 23, 0xff)),
        E::BF16 => blocks.position(|b| exponent_full(half(b, 0), 7, 0xff)),
        E::MXFP4 => blocks.position(|b| b[0] == 0xff),
        // the scale is spread over the upper four bits of four 16-bit words, lowest first
        E::IQ1M => blocks.position(|b| {
            let scale = (0..4).map(|i| (half(b, 48 + 2 * i) >> 12) << (4 * i)).sum();
            exponent_full(scale, 10, 0x1f)
        }),
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
