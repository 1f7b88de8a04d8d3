//! The specification: blocks read one by one, integers summed in the order they are defined.

use quern_tensor_io::ElementType;

use crate::activations::Row;
use crate::block::Block;

/// `y[r]` = weight row r times the activations; `weights` holds exactly `y.len()` rows.
pub(crate) fn rows(element_type: ElementType, weights: &[u8], x: Row, y: &mut [f32]) {
    let row_bytes = weights.len() / y.len().max(1);
    for (row, y) in weights.chunks_exact(row_bytes.max(1)).zip(y) {
        let mut sum = 0f32;
        for (i, bytes) in row.chunks_exact(element_type.block_bytes()).enumerate() {
            let block = Block::read(element_type, bytes);
            let len = element_type.block_elements();
            let (dot, min) = integers(&block, &x.codes[i * len..][..len], &x.sums[i * len / 16..]);
            sum += x.d[i] * (block.d * dot as f32 - block.dmin * min as f32);
        }
        *y = sum;
    }
}

/// The integers `I` and `M` of `block.rs`: the scaled codes' product, and the minima's.
pub(crate) fn integers(block: &Block, codes: &[i8], sums: &[i16]) -> (i32, i32) {
    let (mut dot, mut min) = (0i32, 0i32);
    for (j, c) in codes.chunks(block.sub).enumerate() {
        let q = &block.codes[j * block.sub..][..c.len()];
        let product: i32 = q.iter().zip(c).map(|(&q, &c)| i32::from(q) * i32::from(c)).sum();
        let sum: i32 = sums[j * block.sub / 16..][..c.len() / 16].iter().map(|&s| i32::from(s)).sum();
        dot += block.scale[j] * (product - block.zero * sum);
        min += block.min[j] * sum;
    }
    (dot, min)
}
