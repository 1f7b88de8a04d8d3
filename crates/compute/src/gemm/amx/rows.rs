//! Activations quantized and laid out for the matrix unit.

use super::BLOCK_ROWS;
use crate::Pool;
use crate::activations::{Group, quantize_row};
use crate::gemm::DEPTH;
use crate::simd::{Level, Op, dispatch};

/// 16 activation rows, 256 columns.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub(crate) struct Block {
    /// Steps of 64 columns, 64 bytes of each row.
    pub codes: [[[i8; 64]; BLOCK_ROWS]; 4],
    /// The sums of each 16 codes as two numbers of bf16: a multiple of 16, and what is left.
    pub parts: [[[u16; 2]; 16]; BLOCK_ROWS],
    /// Scales.
    pub d: [f32; BLOCK_ROWS],
}

impl Block {
    pub const ZERO: Block =
        Block { codes: [[[0; 64]; BLOCK_ROWS]; 4], parts: [[[0; 2]; 16]; BLOCK_ROWS], d: [0.0; BLOCK_ROWS] };
}

/// The second-level cache as the hint of the prefetch instruction.
pub(super) const SECOND_LEVEL: i32 = 2;

/// Prefetches part `i` of `n` of the memory of `blocks`.
#[inline]
pub(super) fn prefetch<const LEVEL: i32, T>(blocks: &[T], i: usize, n: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::_mm_prefetch;
        let (start, lines) = (blocks.as_ptr().cast::<i8>(), size_of_val(blocks) / 64);
        for line in lines * i / n..lines * (i + 1) / n {
            // SAFETY: a prefetch reads nothing, and the address is within the blocks.
            unsafe { _mm_prefetch::<LEVEL>(start.add(64 * line)) };
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (blocks, i, n);
}

/// All activations of a product: `[depth][n / 16]` blocks.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    blocks: Vec<Block>,
    groups: usize,
}

struct Slots(*mut Block);
// SAFETY: each task writes its own blocks.
unsafe impl Sync for Slots {}

impl Rows {
    /// The blocks of all rows, columns from `256 * depth` on; none behind the last column.
    pub fn blocks(&self, depth: usize) -> &[Block] {
        self.blocks.get(depth * self.groups..(depth + 1) * self.groups).unwrap_or_default()
    }

    /// Quantizes and lays out `x` (`[n][columns]`); what is missing to whole blocks is zero.
    pub fn fill(&mut self, level: Level, pool: &Pool, x: &[f32], columns: usize, n: usize) {
        let (depths, groups) = (columns.div_ceil(DEPTH), n.div_ceil(BLOCK_ROWS));
        self.blocks.resize(depths * groups, Block::ZERO);
        self.groups = groups;
        let slots = Slots(self.blocks.as_mut_ptr());
        let slots = &slots;
        // Several tasks for each group of rows, so that few rows occupy all threads.
        let spans = depths.min((4 * pool.threads()).div_ceil(groups));
        let span = depths.div_ceil(spans);
        pool.run(groups * spans, |task| {
            let (i, span) = (task / spans, task % spans * span..depths.min((task % spans + 1) * span));
            for depth in span {
                // SAFETY: this task alone has these depths of group i, and there are depths * groups blocks.
                let block = unsafe { &mut *slots.0.add(depth * groups + i) };
                let columns_here = DEPTH.min(columns - depth * DEPTH);
                for row in 0..BLOCK_ROWS {
                    let at = i * BLOCK_ROWS + row;
                    let x = if at < n { &x[at * columns + depth * DEPTH..][..columns_here] } else { &[] };
                    place(level, x, row, block);
                }
            }
        });
    }
}

/// Quantizes 256 values of a row of a block, or none.
fn place(level: Level, x: &[f32], row: usize, block: &mut Block) {
    let (mut codes, mut d, mut sums) = ([0i8; DEPTH], [0f32; 1], [0i16; 16]);
    let n = x.len();
    quantize_row(level, Group::Of256, x, &mut codes[..n], &mut d[..n / DEPTH], &mut sums[..n / 16]);
    for (step, codes) in block.codes.iter_mut().zip(codes.as_chunks::<64>().0) {
        step[row] = *codes;
    }
    block.d[row] = d[0];
    dispatch(level, Parts { sums: &sums, parts: &mut block.parts[row] });
}

/// Takes sums of up to 16 * 127 in absolute value apart: each part has at most 7 bits, so that bf16 holds it.
struct Parts<'a> {
    sums: &'a [i16; 16],
    parts: &'a mut [[u16; 2]; 16],
}

impl Op for Parts<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        for (&sum, parts) in self.sums.iter().zip(self.parts) {
            let rest = sum & 15;
            *parts = [sum - rest, rest].map(|part| (f32::from(part).to_bits() >> 16) as u16);
        }
    }
}
