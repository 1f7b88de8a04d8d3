//! Tests every level against the scalar specification, and that against the decoder.

use quern_tensor_io::ElementType;

use crate::activations::{Activations, Group, Row};
use crate::block::is_known;
use crate::simd::Level;
use crate::testing::{Random, fewer, random_row};

/// Every block type with kernels.
fn types() -> impl Iterator<Item = ElementType> {
    ElementType::ALL.iter().copied().filter(|&t| is_known(t))
}

/// The sum of the magnitudes of all float terms: what rounding errors are measured against.
fn magnitude(element_type: ElementType, row: &[u8], x: Row) -> f32 {
    let size = |t: super::scalar::Term| {
        t.xd * (t.d.abs() * (t.dot.abs() + t.size) as f32 + (t.dmin * t.min as f32).abs())
    };
    super::scalar::terms(element_type, row, x).map(size).sum()
}

#[test]
fn every_level_agrees_with_the_specification() {
    let mut random = Random::new(7);
    for element_type in types() {
        let len = element_type.block_elements();
        let group = Group::of(element_type);
        for &(blocks, rows) in fewer(&[(1, 1), (3, 2), (8, 5), (19, 3)], 1) {
            let columns = blocks * len;
            for extreme in [false, true] {
                let weights: Vec<u8> =
                    (0..rows).flat_map(|_| random_row(&mut random, element_type, columns, extreme)).collect();
                let x: Vec<f32> = (0..columns)
                    .map(|_| if extreme { random.sign() * 3.0 } else { random.float() })
                    .collect();
                let mut acts = Activations::default();
                acts.resize(group, columns, 1);
                acts.quantize(Level::Scalar, group, columns, 0, &x);
                let mut expected = vec![0f32; rows];
                super::scalar::rows(element_type, &weights, acts.row(group, columns, 0), &mut expected);
                for level in Level::available() {
                    let mut y = vec![f32::NAN; rows];
                    super::rows(level, element_type, &weights, acts.row(group, columns, 0), &mut y);
                    for (r, (y, e)) in y.iter().zip(&expected).enumerate() {
                        let row = &weights[r * weights.len() / rows..][..weights.len() / rows];
                        // A few rounding errors of the largest partial sum.
                        let bound =
                            magnitude(element_type, row, acts.row(group, columns, 0)) * f32::EPSILON * 2.0;
                        assert!((y - e).abs() <= bound, "{element_type} {level:?} {blocks}: {y} {e} {bound}");
                    }
                }
            }
        }
    }
}

#[test]
fn one_block_is_exact() {
    // With a single block and scales that are powers of two, float steps round nothing: any difference is
    // an integer gone wrong.
    let mut random = Random::new(11);
    for element_type in types() {
        let len = element_type.block_elements();
        let group = Group::of(element_type);
        for _ in 0..if cfg!(miri) { 1 } else { 50 } {
            let mut block = random_row(&mut random, element_type, len, true);
            crate::testing::set_scales(element_type, &mut block, 0.5, 0.25);
            let mut acts = Activations::default();
            acts.resize(group, len, 1);
            acts.codes.iter_mut().for_each(|c| *c = (random.next() % 255) as u8 as i8);
            acts.codes.iter_mut().for_each(|c| *c = (*c).max(-127));
            acts.d.fill(1.0);
            for (s, c) in acts.sums.iter_mut().zip(acts.codes.chunks(16)) {
                *s = c.iter().map(|&c| i16::from(c)).sum();
            }
            acts.arrange(group, len, 0);
            let mut expected = [0f32];
            super::scalar::rows(element_type, &block, acts.row(group, len, 0), &mut expected);
            for level in Level::available() {
                let mut y = [f32::NAN];
                super::rows(level, element_type, &block, acts.row(group, len, 0), &mut y);
                assert_eq!(y, expected, "{element_type} {level:?}");
            }
        }
    }
}

#[test]
fn float_rows_agree_at_every_level() {
    let mut random = Random::new(3);
    for (element_type, bytes) in [(ElementType::F32, 4), (ElementType::F16, 2), (ElementType::BF16, 2)] {
        // Rows of many columns are multiplied four at a time.
        for &columns in fewer(&[1, 15, 64, 200, 1031, 4096 + 77], 4) {
            let x: Vec<f32> = (0..columns).map(|_| random.float()).collect();
            let weights = random_row(&mut random, element_type, columns * 6, false);
            let mut wide = vec![0f32; columns * 6];
            super::widen(Level::Scalar, element_type, &weights, &mut wide);
            assert_eq!(weights.len(), wide.len() * bytes);
            for level in Level::available() {
                let mut y = [f32::NAN; 6];
                super::float_rows(level, element_type, &weights, &x, &mut y);
                for (r, y) in y.iter().enumerate() {
                    let terms = wide[r * columns..][..columns].iter().zip(&x);
                    let terms: Vec<f64> = terms.map(|(w, x)| f64::from(*w) * f64::from(*x)).collect();
                    let (sum, size) = (terms.iter().sum::<f64>(), terms.iter().map(|t| t.abs()).sum::<f64>());
                    assert!((f64::from(*y) - sum).abs() <= size * 1e-6, "{element_type} {level:?} {columns}");
                }
            }
        }
    }
}
