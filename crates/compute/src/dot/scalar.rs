//! The specification: blocks read one by one, integers summed in the order they are defined.

use quern_tensor_io::ElementType;

use crate::activations::{Group, Row};
use crate::block::Block;

/// `y[r]` = weight row r times the activations; `weights` holds exactly `y.len()` rows.
pub(crate) fn rows(element_type: ElementType, weights: &[u8], x: Row, y: &mut [f32]) {
    let row_bytes = weights.len() / y.len().max(1);
    for (row, y) in weights.chunks_exact(row_bytes.max(1)).zip(y) {
        *y = terms(element_type, row, x).map(|t| t.xd * (t.d * t.dot as f32 - t.dmin * t.min as f32)).sum();
    }
}

/// What one group of activations contributes: `xd * (d * dot - dmin * min)`.
pub(crate) struct Term {
    pub xd: f32,
    pub d: f32,
    pub dmin: f32,
    pub dot: i64,
    pub min: i64,
    /// An upper bound of the integers that `dot` was added up from.
    pub size: i64,
}

/// The terms of one row.
pub(crate) fn terms<'a>(
    element_type: ElementType,
    row: &'a [u8],
    x: Row<'a>,
) -> impl Iterator<Item = Term> + 'a {
    let (values, bytes) = (element_type.block_elements(), element_type.block_bytes());
    let group = Group::of(element_type).len();
    row.chunks_exact(bytes).enumerate().flat_map(move |(i, bytes)| {
        let block = Block::read(element_type, bytes);
        (0..values / group).map(move |part| {
            let g = i * (values / group) + part;
            let codes = &x.codes[g * group..][..group];
            term(&block, part * group, x.d[g], codes, &x.sums[g * group / 16..])
        })
    })
}

/// The integers `I` and `M` of `block.rs` over the values from `first` on.
fn term(block: &Block, first: usize, xd: f32, codes: &[i8], sums: &[i16]) -> Term {
    let Block { d, dmin, sub, .. } = *block;
    let mut term = Term { xd, d, dmin, dot: 0, min: 0, size: 0 };
    for (k, c) in codes.chunks(sub).enumerate() {
        let j = first / sub + k;
        let q = &block.codes[j * sub..][..c.len()];
        let product: i32 = q.iter().zip(c).map(|(&q, &c)| i32::from(q) * i32::from(c)).sum();
        let sum: i32 = sums[k * sub / 16..][..c.len() / 16].iter().map(|&s| i32::from(s)).sum();
        term.dot += i64::from(block.scale[j]) * i64::from(product - block.zero * sum);
        term.min += i64::from(block.min[j] * sum);
        let size: i32 = c.iter().map(|&c| i32::from(c).abs()).sum();
        term.size += i64::from(block.scale[j]).abs() * i64::from((block.zero + 1) * size);
    }
    term
}
