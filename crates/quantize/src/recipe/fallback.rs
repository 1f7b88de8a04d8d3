//! What a tensor gets when its rows are not whole blocks of the type chosen for it.

use quern_tensor_io::ElementType as E;

/// The type that takes the place of `wanted` for rows of `columns` values: `wanted` itself where it
/// fits, a type of smaller blocks or f16 where it does not, `None` where no replacement is defined.
///
/// Source: llama-quantize.
pub fn fallback(wanted: E, columns: usize) -> Option<E> {
    let fits = |t: E| columns.is_multiple_of(t.block_elements());
    if fits(wanted) {
        return Some(wanted);
    }
    let smaller = match wanted {
        E::Q2K | E::Q3K | E::Q2_0 | E::TQ1_0 | E::TQ2_0 => E::Q4_0,
        E::Q4K => E::Q5_0,
        E::Q5K => E::Q5_1,
        E::Q6K => E::Q8_0,
        E::IQ1S | E::IQ1M | E::IQ2XXS | E::IQ2XS | E::IQ2S | E::IQ3XXS | E::IQ3S | E::IQ4XS => E::IQ4NL,
        E::Q1_0 | E::NVFP4 => return None,
        _ => E::F16,
    };
    Some(if fits(smaller) { smaller } else { E::F16 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_falls_where_llama_quantize_lets_it_fall() {
        let cases = [
            (E::Q2K, E::Q4_0),
            (E::Q3K, E::Q4_0),
            (E::TQ1_0, E::Q4_0),
            (E::TQ2_0, E::Q4_0),
            (E::Q4K, E::Q5_0),
            (E::Q5K, E::Q5_1),
            (E::Q6K, E::Q8_0),
            (E::IQ4XS, E::IQ4NL),
            (E::IQ3S, E::IQ4NL),
            (E::IQ1M, E::IQ4NL),
        ];
        for (wanted, smaller) in cases {
            assert_eq!(fallback(wanted, 512), Some(wanted));
            assert_eq!(fallback(wanted, 160), Some(smaller));
            assert_eq!(fallback(wanted, 100), Some(E::F16));
        }
        assert_eq!(fallback(E::Q8_0, 33), Some(E::F16));
        assert_eq!(fallback(E::Q2_0, 96), Some(E::Q4_0));
        assert_eq!(fallback(E::Q1_0, 64), None);
        assert_eq!(fallback(E::NVFP4, 32), None);
        assert_eq!(fallback(E::F16, 33), Some(E::F16));
    }
}
