//! Weights of every type that are good enough to measure speed with.

use quern_tensor_io::ElementType;

/// At least `bytes` bytes of whole blocks, the same every time, whose numbers have everyday sizes in every type:
/// subnormal floats would be measured instead of the kernels.
pub fn sample_weights(element_type: ElementType, bytes: usize) -> Vec<u8> {
    let mut state = 1u64;
    let mut next = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 32) as u32
    };
    // Clear and set exponent bits: of 2^-1 or 2^0 in floats, and one bit of every half that blocks may be read as.
    let (keep, set) = match element_type {
        ElementType::F32 | ElementType::BF16 => (0x80ff_80ff, 0x3f00_3f00),
        ElementType::F16 => (0x83ff_83ff, 0x3800_3800),
        _ => (0xbbbb_bbbb, 0),
    };
    let block = element_type.block_bytes().max(1);
    let length = bytes.next_multiple_of(block);
    let words = (0..length.div_ceil(4)).flat_map(|_| (next() & keep | set).to_le_bytes());
    let mut data: Vec<u8> = words.take(length).collect();
    match element_type {
        ElementType::MXFP4 => data.iter_mut().step_by(block).for_each(|exponent| *exponent = 120),
        // The exponent is in two of the nibbles that make up the scale.
        ElementType::IQ1M => data.as_chunks_mut::<56>().0.iter_mut().for_each(|block| {
            (block[53], block[55]) = (block[53] | 0x80, block[55] & 15 | 0x30);
        }),
        _ => {}
    }
    data
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Matrix, get_row, supports};

    #[test]
    fn every_type_has_finite_numbers_of_everyday_size() {
        for &element_type in ElementType::ALL {
            if !supports(element_type) {
                continue;
            }
            let columns = 256;
            let row_bytes = element_type.row_bytes(columns).unwrap();
            let data = sample_weights(element_type, 16 * row_bytes);
            let matrix = Matrix::new(element_type, 16, columns, &data[..16 * row_bytes]).unwrap();
            let mut row = vec![0f32; columns];
            for number in 0..16 {
                get_row(&matrix, number, &mut row).unwrap();
                assert!(row.iter().all(|value| value.is_finite()), "{element_type}");
                assert!(row.iter().any(|value| value.is_normal()), "{element_type}");
            }
        }
    }
}
