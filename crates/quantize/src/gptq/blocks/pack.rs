//! From levels and parameters to the bytes of blocks.

use quern_tensor_io::ElementType;
use quern_tensor_io::layout::scales::ScalesMinima6;
use quern_tensor_io::layout::{Block, F16, IQ4NL, MXFP4, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, blocks_mut};

use super::kinds::Kind;
use crate::encode::pack::{self, Affine32, Symmetric32};
use crate::gptq::levels::Levels;
use crate::gptq::order::Plan;
use crate::gptq::tile::Tile;

/// The bytes of the first `rows` rows of a tile.
pub(super) fn rows(kind: &Kind, plan: &Plan, tile: &Tile, rows: usize) -> Vec<u8> {
    let (columns, width) = (plan.order.len(), tile.width);
    let block_bytes = kind.element_type.block_bytes();
    let row_bytes = columns / kind.block * block_bytes;
    let mut bytes = vec![0u8; rows * row_bytes];
    // Columns in their own order, one row at a time.
    let mut levels = vec![0f32; columns];
    for (row, out) in bytes.chunks_exact_mut(row_bytes).enumerate() {
        for (line, &column) in tile.levels.chunks_exact(width).zip(&plan.order) {
            levels[column as usize] = line[row];
        }
        let blocks = levels.chunks_exact(kind.block).zip(out.chunks_exact_mut(block_bytes));
        for (number, (levels, out)) in blocks.enumerate() {
            let fields = Fields::of(kind, tile, number, row);
            block(kind, levels, &fields, out);
        }
    }
    bytes
}

/// The parameters of one block of one row.
struct Fields {
    d: F16,
    /// Of the offsets: `dmin` or `m`.
    m: F16,
    /// Numbers of the scales of its groups, and of the offsets.
    scales: [f32; 16],
    offsets: [f32; 16],
}

impl Fields {
    fn of(kind: &Kind, tile: &Tile, number: usize, row: usize) -> Self {
        let (p, width, groups) = (&tile.parameters, tile.width, kind.groups());
        let (mut scales, mut offsets) = ([0.0; 16], [0.0; 16]);
        for g in 0..groups {
            let at = (number * groups + g) * width + row;
            scales[g] = p.scale_codes[at];
            offsets[g] = p.offset_codes[at];
        }
        let at = number * width + row;
        let (d, m) = match kind.has_codes() {
            true => (p.unit_scales[at], p.unit_offsets[at]),
            false => (p.scales[at], p.offsets[at]),
        };
        Self { d: F16::from_f32(d), m: F16::from_f32(m), scales, offsets }
    }
}

fn block(kind: &Kind, levels: &[f32], fields: &Fields, out: &mut [u8]) {
    use ElementType as T;
    let mut codes = [0u8; 256];
    for (code, &level) in codes.iter_mut().zip(levels) {
        *code = match kind.levels {
            Levels::Whole(_) => (level - kind.low) as u8,
            Levels::Table(table) => table.code(level),
        };
    }
    let few: &[u8; 32] = codes.first_chunk().unwrap_or(&[0; 32]);
    let (d, m) = (fields.d, fields.m);
    let six_bit = || {
        let bytes = |values: &[f32; 16]| -> [u8; 8] { std::array::from_fn(|i| values[i] as u8) };
        ScalesMinima6::pack(&bytes(&fields.scales), &bytes(&fields.offsets))
    };
    let raised = |i: usize| (fields.scales[i] + 32.0) as u8;
    match kind.element_type {
        T::Q4_0 => put(out, Q4_0::pack(d, few)),
        T::Q5_0 => put(out, Q5_0::pack(d, few)),
        T::Q4_1 => put(out, Q4_1::pack(d, m, few)),
        T::Q5_1 => put(out, Q5_1::pack(d, m, few)),
        T::Q8_0 => put(out, Q8_0 { d, qs: std::array::from_fn(|i| levels[i] as i8) }),
        T::IQ4NL => put(out, IQ4NL { d, qs: pack::nibbles_32(few) }),
        T::MXFP4 => put(out, MXFP4 { e: fields.scales[0] as u8, qs: pack::nibbles_32(few) }),
        T::Q2K => {
            let scales = std::array::from_fn(|i| fields.scales[i] as u8 | (fields.offsets[i] as u8) << 4);
            put(out, pack::q2_k(&codes, scales, d, m));
        }
        T::Q3K => put(out, pack::q3_k(&codes, &std::array::from_fn(raised), d)),
        T::Q4K => put(out, pack::q4_k(&codes, six_bit(), d, m)),
        T::Q5K => put(out, pack::q5_k(&codes, six_bit(), d, m)),
        T::Q6K => put(out, pack::q6_k(&codes, fields.scales.map(|s| s as i8), d)),
        T::IQ4XS => put(out, pack::iq4_xs(&codes, &std::array::from_fn(raised), d)),
        T::TQ1_0 => put(out, pack::tq1_0(&codes, d)),
        T::TQ2_0 => put(out, pack::tq2_0(&codes, d)),
        other => unreachable!("{other} has no kind"),
    }
}

fn put<B: Block>(out: &mut [u8], block: B) {
    blocks_mut(out)[0] = block;
}
