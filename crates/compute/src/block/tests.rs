//! Tests the common form against the decoders.

use quern_tensor_io::{ElementType, decode};

use super::{Block, is_known, tables};
use crate::testing::{Random, random_row};

#[test]
fn blocks_mean_what_the_decoders_say() {
    let mut random = Random::new(17);
    for &element_type in ElementType::ALL.iter().filter(|&&t| is_known(t)) {
        let values = element_type.block_elements();
        for round in 0..if cfg!(miri) { 2 } else { 200 } {
            let bytes = random_row(&mut random, element_type, values, round % 8 == 0);
            let mut decoded = vec![0f32; values];
            assert!(decode::to_f32(element_type, &bytes, &mut decoded));
            let block = Block::read(element_type, &bytes);
            for (i, decoded) in decoded.into_iter().enumerate() {
                let j = i / block.sub;
                let product = block.d * (block.scale[j] * (i32::from(block.codes[i]) - block.zero)) as f32;
                let offset = block.dmin * block.min[j] as f32;
                // Another order of the same products; nf4's and fp4's numbers in steps of a table.
                let error = match element_type {
                    ElementType::NF4 => 0.0037 / tables::NF4_STEP * block.d.abs(),
                    ElementType::FP4 => 0.0032 / tables::FP4_STEP * block.d.abs(),
                    _ => (product.abs() + offset.abs()) * 3e-7,
                };
                assert!(
                    (product - offset - decoded).abs() <= error,
                    "{element_type} {i}: {product} {decoded}"
                );
            }
        }
    }
}
