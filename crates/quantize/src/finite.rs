//! Whether weights are finite, looked at before they are encoded.

use std::sync::atomic::{AtomicBool, Ordering};

use quern_compute::Pool;
use quern_compute::parallel::{part_of, share};

/// All bits of an f32's exponent: set in infinities and NaN alone.
const EXPONENT: u32 = 0x7f80_0000;
/// The lowest bit of the exponent. Added to a full exponent it carries into the sign.
const LOWEST: u32 = 0x0080_0000;

/// Whether every value is finite. Without branches or comparisons, so that the compiler makes it a few vector
/// instructions at any SIMD level.
pub(crate) fn all_finite(values: &[f32]) -> bool {
    let (lanes, rest) = values.as_chunks::<16>();
    let mut carries = [0u32; 16];
    for lane in lanes {
        for (carry, value) in carries.iter_mut().zip(lane) {
            *carry |= (value.to_bits() & EXPONENT) + LOWEST;
        }
    }
    let rest = rest.iter().fold(0, |all, value| all | ((value.to_bits() & EXPONENT) + LOWEST));
    carries.iter().fold(rest, |all, carry| all | carry) >> 31 == 0
}

/// The first value whose size is above `limit`, or that is NaN. All threads look at once.
pub(crate) fn first_beyond(pool: &Pool, values: &[f32], limit: f32) -> Option<usize> {
    let part = part_of(pool, values.len(), 1);
    let found = AtomicBool::new(false);
    share(pool, values.chunks(part), |values| {
        // Without branches: a few vector instructions. NaN is not below anything.
        let within = values.iter().fold(true, |all, value| all & (value.abs() <= limit));
        if !within {
            found.store(true, Ordering::Relaxed);
        }
    });
    let beyond = |value: &f32| value.is_nan() || value.abs() > limit;
    found.into_inner().then(|| values.iter().position(beyond)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_value_beyond_a_limit_is_found() {
        let mut values: Vec<f32> = (0..200_000).map(|i| (i % 7) as f32 - 3.0).collect();
        for threads in [1, 3] {
            let pool = Pool::new(threads);
            assert_eq!(first_beyond(&pool, &values, 3.0), None);
            assert_eq!(first_beyond(&pool, &[], 3.0), None);
            for (at, bad) in [(199_999, f32::NAN), (70_001, -3.5), (3, f32::INFINITY), (0, 4.0)] {
                let good = std::mem::replace(&mut values[at], bad);
                assert_eq!(first_beyond(&pool, &values, 3.0), Some(at));
                values[at] = good;
            }
        }
    }

    #[test]
    fn one_value_of_many_is_found() {
        let usual = [0.0, -0.0, 1.0, -f32::MAX, f32::MIN_POSITIVE, 1e-45, f32::MAX];
        for length in [0, 1, 15, 16, 17, 47, 64] {
            let values: Vec<f32> = usual.iter().copied().cycle().take(length).collect();
            assert!(all_finite(&values), "{length}");
            for at in 0..length {
                for bad in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN, -f32::NAN] {
                    let mut values = values.clone();
                    values[at] = bad;
                    assert!(!all_finite(&values), "{length} {at} {bad}");
                }
            }
        }
    }
}
