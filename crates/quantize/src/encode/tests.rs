//! Tests lanes against the scalar specification at every SIMD level, on blocks chosen to reach each branch, and the
//! contract of `encode_rows_at`. `tests/all/golden_bytes.rs` tests the specification itself.

use quern_compute::simd::Level;
use quern_tensor_io::ElementType;

use ElementType as T;

use super::numeric::mxfp4_scale;
use super::*;

/// splitmix64: the same values on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in [0, 1).
    fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u32 << 24) as f32
    }

    /// Nearly normal, standard deviation 1.
    fn normal(&mut self) -> f32 {
        (0..12).map(|_| self.unit()).sum::<f32>() - 6.0
    }
}

/// Fills a range of values with one of the distributions that weights have, or with an invalid one.
fn fill(kind: u64, x: &mut [f32], random: &mut Random) {
    let scale = 0.02 * (random.normal() * 2.0).exp();
    for v in x.iter_mut() {
        *v = match kind {
            0 => 0.0,
            1 => -0.0,
            2 => scale,
            3 => -scale,
            4 => random.normal() * 1e-39,
            5 => random.normal() * 1e-16,
            6 => random.normal() * 1e30,
            7 => random.normal().abs() * scale,
            8 => -random.normal().abs() * scale - scale,
            9 => half::f16::from_f32(random.normal() * scale).to_f32(),
            10 => (random.next() % 3) as f32 * scale - scale,
            11 => (random.next() % 16) as f32 * scale - 8.0 * scale,
            12 => [0.0, -0.0, scale, -scale][(random.next() % 4) as usize],
            13 => [0.0, -0.0, scale][(random.next() % 3) as usize],
            14 => random.normal() * 65504.0,
            _ => random.normal() * scale,
        };
    }
    match kind {
        15 => x[random.next() as usize % x.len()] = 1000.0 * scale,
        16 => x[random.next() as usize % x.len()] = -1000.0 * scale,
        17 => x.iter_mut().for_each(|v| *v = v.powi(3)),
        18 => x.iter_mut().step_by(2).for_each(|v| *v = 0.0),
        _ => {}
    }
}

/// Rows whose 16-, 32- and 256-value stretches are each filled independently.
fn rows(count: usize, random: &mut Random) -> Vec<f32> {
    let mut x = vec![0.0; count];
    let mut at = 0;
    while at < count {
        let stretch = [16, 32, 256][(random.next() % 3) as usize].min(count - at);
        let kind = random.next() % 24;
        fill(kind, &mut x[at..at + stretch], random);
        at += stretch;
    }
    x
}

fn importance(columns: usize, random: &mut Random) -> Vec<f32> {
    let kind = random.next() % 4;
    (0..columns)
        .map(|i| match kind {
            0 => 1.0,
            1 if i % 16 < 8 => 0.0,
            2 => random.unit() * 1e-30,
            _ => (random.normal() * 2.0).exp(),
        })
        .collect()
}

fn block_types() -> impl Iterator<Item = ElementType> {
    ElementType::ALL.iter().copied().filter(|&t| can_encode(t) && t.is_block())
}

/// No importance, if the type can do without; and some.
fn weightings(element_type: ElementType, weights: &[f32]) -> impl Iterator<Item = Option<&[f32]>> {
    [None, Some(weights)].into_iter().filter(move |w| w.is_some() || !needs_weights(element_type))
}

fn encode(
    level: Level,
    element_type: ElementType,
    columns: usize,
    x: &[f32],
    weights: Option<&[f32]>,
) -> Vec<u8> {
    let mut out = vec![0xaa; x.len() / columns * element_type.row_bytes(columns).unwrap()];
    encode_rows_at(level, element_type, columns, x, weights, &mut out).unwrap();
    out
}

fn encode_scalar(element_type: ElementType, columns: usize, x: &[f32], weights: Option<&[f32]>) -> Vec<u8> {
    let mut out = vec![0x55; x.len() / columns * element_type.row_bytes(columns).unwrap()];
    encode_rows_at(Level::Scalar, element_type, columns, x, weights, &mut out).unwrap();
    out
}

#[test]
fn lanes_write_the_bytes_of_the_specification() {
    let mut random = Random(2026);
    // Rows shorter and longer than a batch, whole batches and a rest.
    for (columns, count) in [(256, 1), (256, 21), (512, 16), (1280, 7), (4352, 3)] {
        for round in 0..6 {
            let x = rows(columns * count, &mut random);
            let weights = importance(columns, &mut random);
            for element_type in block_types() {
                for weights in weightings(element_type, &weights) {
                    let expected = encode_scalar(element_type, columns, &x, weights);
                    for level in Level::available() {
                        let found = encode(level, element_type, columns, &x, weights);
                        if let Some(at) = found.iter().zip(&expected).position(|(a, b)| a != b) {
                            let block = at / element_type.block_bytes();
                            let n = element_type.block_elements();
                            panic!(
                                "{element_type} at {level:?}, importance {}, {columns} columns, round {round}: byte \
                                 {} of block {block} is {} instead of {}; values {:?}",
                                weights.is_some(),
                                at % element_type.block_bytes(),
                                found[at],
                                expected[at],
                                &x[block * n..(block + 1) * n]
                            );
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn each_row_is_encoded_as_if_alone() {
    let mut random = Random(7);
    let columns = 768;
    let x = rows(columns * 9, &mut random);
    let weights = importance(columns, &mut random);
    for element_type in block_types() {
        let together = encode(Level::best(), element_type, columns, &x, Some(&weights));
        let alone: Vec<u8> = x
            .chunks(columns)
            .flat_map(|row| encode(Level::best(), element_type, columns, row, Some(&weights)))
            .collect();
        assert!(together == alone, "{element_type}");
    }
}

#[test]
fn nothing_panics_on_values_that_are_not_numbers() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX] {
        let mut x: Vec<f32> = (0..1024).map(|i| (i as f32 * 0.37).sin()).collect();
        x[5] = bad;
        x[700] = -bad;
        let weights = vec![bad; 512];
        for element_type in block_types() {
            for weights in weightings(element_type, &weights) {
                encode_scalar(element_type, 512, &x, weights);
                for level in Level::available() {
                    encode(level, element_type, 512, &x, weights);
                }
            }
        }
    }
}

#[test]
fn plain_floats_are_rounded_to_even() {
    let mut random = Random(3);
    let mut x: Vec<f32> = (0..1003).map(|_| f32::from_bits(random.next() as u32)).collect();
    x.retain(|v| v.is_finite());
    x.extend([
        0.0,
        -0.0,
        65504.0,
        65519.9,
        65520.0,
        1e-8,
        5.960_464_5e-8,
        2.980_232_2e-8,
        1.003_906_2,
        1.011_718_8,
    ]);
    for level in Level::available() {
        let bytes = |t| encode(level, t, x.len(), &x, None);
        for (b, v) in bytes(ElementType::F16).chunks_exact(2).zip(&x) {
            assert_eq!(b, half::f16::from_f32(*v).to_le_bytes(), "{v}");
        }
        for (b, v) in bytes(ElementType::BF16).chunks_exact(2).zip(&x) {
            assert_eq!(b, half::bf16::from_f32(*v).to_le_bytes(), "{v}");
        }
        for (b, v) in bytes(ElementType::F32).chunks_exact(4).zip(&x) {
            assert_eq!(b, v.to_le_bytes());
        }
    }
}

#[test]
fn mxfp4_exponents_follow_the_rounded_logarithm() {
    // Every power of two from both sides, where the rounding of the logarithm decides.
    for exponent in -126..=127 {
        let power = 2f32.powi(exponent);
        for units in -300..=300i32 {
            let value = f32::from_bits(power.to_bits().wrapping_add_signed(units));
            if !value.is_finite() || value < f32::MIN_POSITIVE {
                continue;
            }
            let expected = (f64::from(value).log2() as f32).floor() as i32 - 2 + 127;
            assert_eq!(mxfp4_scale(value).0, expected as u8, "{value:e}");
        }
    }
    assert_eq!(mxfp4_scale(0.0), (0, f32::from_bits(0x0020_0000)));
    assert_eq!(mxfp4_scale(1.0), (125, 0.125));
}

#[test]
fn blocks_without_meaning_get_a_scale_of_zero_or_none() {
    let types = [T::IQ1S, T::IQ1M, T::IQ2XXS, T::IQ2XS, T::IQ2S, T::IQ3XXS, T::IQ3S];
    let ramp: Vec<f32> = (0..512).map(|i| (i as f32 - 255.5) / 256.0).collect();
    let scaled = |by: f32| ramp.iter().map(|v| v * by).collect::<Vec<f32>>();
    let decoded = |t: ElementType, bytes: &[u8]| {
        let mut back = vec![7.0; 512];
        assert!(quern_tensor_io::decode::to_f32(t, bytes, &mut back));
        back
    };
    for element_type in types {
        for level in Level::available() {
            let encode = |x: &[f32], weights: &[f32]| encode(level, element_type, 512, x, Some(weights));
            // Nothing, next to nothing, and nothing that matters: zero, or at least finite.
            for x in [scaled(0.0), scaled(-0.0), scaled(1e-30), scaled(1e-45)] {
                assert!(
                    decoded(element_type, &encode(&x, &[1.0; 512])).iter().all(|v| *v == 0.0),
                    "{element_type}"
                );
            }
            let careless = decoded(element_type, &encode(&ramp, &[0.0; 512]));
            assert!(careless.iter().all(|v| v.is_finite() && v.abs() < 8.0), "{element_type} {level:?}");
            // Values too large to be squared, or for an f16 scale, are for `bad_block` to find.
            for huge in [1e9, 1e20, 1e30, f32::MAX] {
                let block = encode(&scaled(huge), &[1.0; 512]);
                assert_eq!(
                    crate::job::bad_block(element_type, &block),
                    Some(0),
                    "{element_type} {level:?} {huge}"
                );
            }
        }
    }
}

#[test]
fn requests_that_do_not_fit_are_refused() {
    let x = [0.5f32; 512];
    let mut out = [0u8; 288];
    let refused = |t, columns, x: &[f32], weights, out: &mut [u8]| {
        encode_rows_at(Level::best(), t, columns, x, weights, out).unwrap_err()
    };
    assert_eq!(refused(T::Q8K, 256, &x, None, &mut out), EncodeError::Unsupported(T::Q8K));
    assert_eq!(refused(T::IQ2XS, 256, &x, None, &mut out), EncodeError::NeedsWeights(T::IQ2XS));
    assert_eq!(
        refused(T::Q4K, 128, &x, None, &mut out),
        EncodeError::PartialBlock { element_type: T::Q4K, columns: 128, block: 256 }
    );
    assert!(matches!(refused(T::Q4K, 256, &x[..500], None, &mut out), EncodeError::Length { .. }));
    assert!(matches!(
        refused(T::Q4K, 256, &x, None, &mut out[1..]),
        EncodeError::Length { expected: 288, .. }
    ));
    assert!(matches!(
        refused(T::Q4K, 256, &x, Some(&x), &mut out),
        EncodeError::Length { expected: 256, .. }
    ));
    assert!(matches!(refused(T::Q4K, 0, &x, None, &mut out), EncodeError::Length { .. }));
    encode_rows_at(Level::best(), T::Q4K, 256, &[], None, &mut []).unwrap();
    encode_rows_at(Level::best(), T::Q4K, 0, &[], None, &mut []).unwrap();
    encode_rows_at(Level::best(), T::Q4K, 256, &x, None, &mut out).unwrap();
    for &t in T::ALL {
        assert!(!needs_weights(t) || can_encode(t));
    }
}
