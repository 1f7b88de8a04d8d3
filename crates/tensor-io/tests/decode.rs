//! The decoders against gguf-py's, bit for bit (tools/make_decode_golden.py).

use std::fs;
use std::path::PathBuf;

use quern_tensor_io::{ElementType, decode};

fn golden() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/golden/decode")
}

#[test]
fn blocks_decode_to_the_bits_of_the_reference() {
    for name in [
        "q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q2_K", "q3_K", "q4_K", "q5_K", "q6_K", "iq4_nl", "iq4_xs",
        "tq1_0", "tq2_0", "mxfp4", "nvfp4", "q1_0", "q2_0", "iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s",
        "iq3_xxs", "iq3_s",
    ] {
        let element_type = ElementType::from_name(name).unwrap();
        let blocks = fs::read(golden().join(format!("{name}.blocks"))).unwrap();
        let expected = fs::read(golden().join(format!("{name}.f32"))).unwrap();
        let expected: Vec<_> = expected.as_chunks().0.iter().map(|&b| u32::from_le_bytes(b)).collect();
        assert!(expected.len() >= 6 * element_type.block_elements(), "{name}");
        let mut out = vec![f32::NAN; expected.len()];
        assert!(decode::to_f32(element_type, &blocks, &mut out), "{name}");
        for (i, (found, &expected)) in out.iter().zip(&expected).enumerate() {
            assert_eq!(
                found.to_bits(),
                expected,
                "{name}, value {i}: {found} and {}",
                f32::from_bits(expected)
            );
        }
    }
}

#[test]
fn plain_types_decode_exactly() {
    let all: Vec<u16> = (0..=u16::MAX).collect();
    let bytes: Vec<u8> = all.iter().flat_map(|v| v.to_le_bytes()).collect();
    let mut out = vec![0.0f32; all.len()];
    // One byte further in memory: no alignment is promised.
    let mut shifted = vec![0];
    shifted.extend_from_slice(&bytes);
    assert!(decode::to_f32(ElementType::F16, &shifted[1..], &mut out));
    for (&bits, &v) in all.iter().zip(&out) {
        let expected = half::f16::from_bits(bits).to_f64() as f32;
        assert!(v.to_bits() == expected.to_bits() || v.is_nan() && expected.is_nan(), "f16 {bits:#06x}: {v}");
    }
    assert!(decode::to_f32(ElementType::BF16, &shifted[1..], &mut out));
    assert!(all.iter().zip(&out).all(|(&bits, v)| v.to_bits() == u32::from(bits) << 16));

    let values = [0.0, -0.0, 1.5, f64::MAX, f64::MIN_POSITIVE, 1.0 + f64::EPSILON, f64::NEG_INFINITY];
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let mut out = [0.0; 7];
    assert!(decode::to_f32(ElementType::F64, &bytes, &mut out));
    assert!(values.iter().zip(out).all(|(&v, o)| (v as f32).to_bits() == o.to_bits()));

    let bytes: Vec<u8> = out.iter().flat_map(|v| v.to_le_bytes()).collect();
    let mut again = [1.0; 7];
    assert!(decode::to_f32(ElementType::F32, &bytes, &mut again));
    assert_eq!(out.map(f32::to_bits), again.map(f32::to_bits));
}
