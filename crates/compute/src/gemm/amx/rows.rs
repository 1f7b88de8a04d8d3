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
    /// The sums of each 16 codes: four parts that add up to a quarter of it; then, in the second step, what is left,
    /// for 16 sums.
    pub parts: [[[i8; 64]; BLOCK_ROWS]; 2],
    /// Scales.
    pub d: [f32; BLOCK_ROWS],
}

impl Block {
    pub const ZERO: Block =
        Block { codes: [[[0; 64]; BLOCK_ROWS]; 4], parts: [[[0; 64]; BLOCK_ROWS]; 2], d: [0.0; BLOCK_ROWS] };

    /// Prefetches codes and parts.
    #[inline]
    pub fn prefetch(&self) {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            let start = std::ptr::from_ref(self).cast::<i8>();
            for at in (0..size_of_val(&self.codes) + size_of_val(&self.parts)).step_by(64) {
                // SAFETY: a prefetch reads nothing, and the address is within the block.
                unsafe { _mm_prefetch::<_MM_HINT_T0>(start.add(at)) };
            }
        }
    }
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
    /// The blocks of all rows, columns from `256 * depth` on.
    pub fn blocks(&self, depth: usize) -> &[Block] {
        &self.blocks[depth * self.groups..][..self.groups]
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
    let [parts, rest] = &mut block.parts;
    dispatch(level, Parts { sums: &sums, parts: &mut parts[row], rest: &mut rest[row] });
}

/// Takes sums of up to 16 * 127 in absolute value apart: `4 (a + b + c + d) + rest`.
struct Parts<'a> {
    sums: &'a [i16; 16],
    parts: &'a mut [i8; 64],
    rest: &'a mut [i8; 64],
}

impl Op for Parts<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        for (j, &sum) in self.sums.iter().enumerate() {
            self.rest[j] = (sum & 3) as i8;
            let quarter = sum >> 2;
            // The floors of (q + p) / 4 for p = 0 to 3 add up to q.
            for p in 0..4 {
                self.parts[4 * j + p as usize] = ((quarter + p) >> 2) as i8;
            }
        }
    }
}
