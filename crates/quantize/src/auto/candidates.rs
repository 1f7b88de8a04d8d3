//! The types that a tensor may get.

use quern_tensor_io::ElementType as E;

use crate::encode::{needs_weights, wants_weights};
use crate::gptq::blocks::has_feedback;

/// For rows of whole super-blocks.
const SUPER: [E; 13] = [
    E::IQ2XXS,
    E::IQ2XS,
    E::IQ2S,
    E::Q2K,
    E::IQ3XXS,
    E::IQ3S,
    E::Q3K,
    E::IQ4XS,
    E::Q4K,
    E::Q5K,
    E::Q6K,
    E::Q8_0,
    E::F16,
];
/// For rows of whole blocks of 32.
const SMALL: [E; 7] = [E::Q4_0, E::IQ4NL, E::Q4_1, E::Q5_0, E::Q5_1, E::Q8_0, E::F16];

/// The types for a tensor with rows of `columns` values, by size. Those that are useless without importances of the
/// columns are left out where there are none (`weighted`); the embeddings and the head (`end`) may have all that can be
/// encoded.
pub fn candidates(columns: usize, weighted: bool, end: bool) -> Vec<E> {
    let all: &[E] = match columns {
        n if n.is_multiple_of(256) => &SUPER,
        n if n.is_multiple_of(32) => &SMALL,
        _ => &[E::F16],
    };
    let possible = |t: &E| weighted || !(if end { needs_weights(*t) } else { wants_weights(*t) });
    all.iter().copied().filter(possible).collect()
}

/// The type to measure the divergence with, where a file of about `bits` bits per weight is wanted: errors of the size
/// that most tensors will have. `None` for rows that are not whole blocks.
pub(super) fn probe(columns: usize, bits: f64) -> Option<E> {
    match columns {
        n if n.is_multiple_of(256) && bits < 5.0 => Some(E::Q3K),
        n if n.is_multiple_of(256) => Some(E::Q4K),
        n if n.is_multiple_of(32) => Some(E::Q4_0),
        _ => None,
    }
}

/// By what error feedback ([`crate::calibrated`]) multiplies the divergence that rounding to a type with an importance
/// matrix causes; 1 for types that it does not know.
///
/// Measured on bookworm-27m with the file types of these names, 128 samples of 512 tokens, over 40 chunks of
/// validation.txt:
///
/// ```text
///             q2_K_S  q3_K_S  q4_0    q4_1    q4_K_S  q5_0    q5_1    q5_K_S  q6_K    iq4_xs
/// imatrix     0.2976  0.0847  0.0274  0.0185  0.0179  0.0071  0.0046  0.0050  0.0016  0.0215
/// calibrate   0.1756  0.0492  0.0160  0.0115  0.0116  0.0041  0.0030  0.0031  0.0010  0.0132
/// ```
///
/// iq2 and iq3 types: 0.63 to 0.68.
pub fn feedback_factor(element_type: E) -> f64 {
    if !has_feedback(element_type) {
        return 1.0;
    }
    match element_type {
        E::Q2K | E::Q3K | E::Q4_0 | E::Q5_0 => 0.58,
        E::IQ4XS | E::IQ4NL => 0.61,
        _ => 0.64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::can_encode;

    #[test]
    fn error_feedback_never_costs() {
        assert!(SUPER.iter().chain(&SMALL).all(|&t| (0.5..=1.0).contains(&feedback_factor(t))));
        assert!((feedback_factor(E::IQ1S) - 1.0).abs() < f64::EPSILON && feedback_factor(E::Q3K) < 0.7);
    }

    #[test]
    fn candidates_ascend_fit_and_can_be_encoded() {
        for columns in [256, 512, 160, 100] {
            for (weighted, end) in [(true, false), (false, false), (false, true)] {
                let types = candidates(columns, weighted, end);
                let bytes = |t: &E| t.row_bytes(columns * 256).unwrap();
                assert!(types.is_sorted_by_key(bytes) && !types.is_empty(), "{types:?}");
                assert!(types.iter().all(|t| can_encode(*t) && t.row_bytes(columns).is_some()), "{types:?}");
                assert!(weighted || !types.contains(&E::IQ2XS), "{types:?}");
            }
        }
        assert!(candidates(256, false, true).contains(&E::IQ3XXS));
        for (bits, columns) in [(2.0, 256), (4.0, 256), (6.0, 256), (4.0, 160)] {
            assert!(candidates(columns, false, false).contains(&probe(columns, bits).unwrap()));
        }
        assert_eq!(probe(100, 4.0), None);
    }
}
