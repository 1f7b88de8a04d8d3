//! Between the bytes of blocks and levels with scales.

use quern_tensor_io::ElementType;
use quern_tensor_io::layout::grid::nibble;
use quern_tensor_io::layout::{Block, F16, IQ2S, IQ2XS, IQ2XXS, IQ3S, IQ3XXS, blocks, blocks_mut};

use super::kinds::{BLOCK, GROUP, Kind};
use crate::encode::codebook::{self, Codebook, Found};
use crate::encode::pack_grid::{self, Grids};
use crate::gptq::order::Plan;
use crate::gptq::tile::Tile;

/// `d` and the codes of the scales of each of some blocks.
pub(super) fn scales(element_type: ElementType, bytes: &[u8], mut take: impl FnMut(usize, f32, [u8; 16])) {
    use ElementType as T;
    let mut put = |i, d: F16, code: &dyn Fn(usize) -> u8, count: usize| {
        take(i, d.to_f32(), std::array::from_fn(|sub| if sub < count { code(sub) } else { 0 }));
    };
    match element_type {
        T::IQ2XXS => {
            for (i, block) in blocks::<IQ2XXS>(bytes).iter().enumerate() {
                put(i, block.d, &|sub| block.qs[sub].tail.scale(), 8);
            }
        }
        T::IQ2XS => {
            for (i, block) in blocks::<IQ2XS>(bytes).iter().enumerate() {
                put(i, block.d, &|sub| nibble(&block.scales, sub), 16);
            }
        }
        T::IQ2S => {
            for (i, block) in blocks::<IQ2S>(bytes).iter().enumerate() {
                put(i, block.d, &|sub| nibble(&block.scales, sub), 16);
            }
        }
        T::IQ3XXS => {
            for (i, block) in blocks::<IQ3XXS>(bytes).iter().enumerate() {
                put(i, block.d, &|sub| block.tails[sub].scale(), 8);
            }
        }
        T::IQ3S => {
            for (i, block) in blocks::<IQ3S>(bytes).iter().enumerate() {
                put(i, block.d, &|sub| nibble(&block.scales, sub), 8);
            }
        }
        _ => {}
    }
}

/// The bytes of the first `rows` rows of a tile.
pub(in crate::gptq) fn rows(kind: &Kind, plan: &Plan, tile: &Tile, rows: usize) -> Vec<u8> {
    let (columns, width) = (plan.order.len(), tile.width);
    let block_bytes = kind.element_type.block_bytes();
    let row_bytes = columns / BLOCK * block_bytes;
    let mut bytes = vec![0u8; rows * row_bytes];
    let mut levels = vec![0f32; columns];
    for (row, out) in bytes.chunks_exact_mut(row_bytes).enumerate() {
        for (line, &column) in tile.levels.chunks_exact(width).zip(&plan.order) {
            levels[column as usize] = line[row];
        }
        let blocks = levels.chunks_exact(BLOCK).zip(out.chunks_exact_mut(block_bytes));
        for (number, (levels, out)) in blocks.enumerate() {
            let mut grids =
                Grids { d: F16::from_f32(tile.parameters.unit_scales[number * width + row]), ..Grids::ZERO };
            let subs = BLOCK / kind.sub;
            for (sub, code) in grids.scales[..subs].iter_mut().enumerate() {
                // Odd numbers: 2 c + 1.
                *code = tile.parameters.scale_codes[(number * subs + sub) * width + row] as u8 / 2;
            }
            put(kind, levels, grids, out);
        }
    }
    bytes
}

fn put(kind: &Kind, levels: &[f32], mut grids: Grids, out: &mut [u8]) {
    use ElementType as T;
    for (signs, levels) in grids.signs.iter_mut().zip(levels.as_chunks::<GROUP>().0) {
        *signs = levels.iter().rev().fold(0, |signs, level| signs << 1 | u8::from(*level < 0.0));
    }
    let index = &mut grids.index;
    match kind.element_type {
        T::IQ2XXS => {
            points(kind, codebook::iq2_xxs(), levels, index);
            write(out, pack_grid::iq2_xxs(&grids));
        }
        T::IQ2XS => {
            points(kind, codebook::iq2_xs(), levels, index);
            write(out, pack_grid::iq2_xs(&grids));
        }
        T::IQ2S => {
            points(kind, codebook::iq2_s(), levels, index);
            write(out, pack_grid::iq2_s(&grids));
        }
        T::IQ3XXS => {
            points(kind, codebook::iq3_xxs(), levels, index);
            write(out, pack_grid::iq3_xxs(&grids));
        }
        T::IQ3S => {
            points(kind, codebook::iq3_s(), levels, index);
            write(out, pack_grid::iq3_s(&grids));
        }
        _ => {}
    }
}

fn write<B: Block>(out: &mut [u8], block: B) {
    blocks_mut::<B>(out)[0] = block;
}

/// The indices of the points with these magnitudes.
fn points<const W: usize>(kind: &Kind, book: &Codebook<W>, levels: &[f32], index: &mut [u16]) {
    for (index, levels) in index.iter_mut().zip(levels.as_chunks::<W>().0) {
        if let Found::On(point) = book.find(Codebook::pack(&levels.map(|level| kind.level(level.abs())))) {
            *index = point;
        }
    }
}
